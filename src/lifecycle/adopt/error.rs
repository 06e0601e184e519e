//! Defines the errors of `skep adopt`.

use thiserror::Error;

use crate::clients::docker::SwarmError;
use crate::clients::ledger::LedgerError;
use crate::lifecycle::boot::BootError;

/// Why an adoption failed.
#[derive(Debug, Error)]
pub enum AdoptError {
    /// The ledger did not answer before anything was changed.
    #[error("nothing was changed: the ledger cannot be read")]
    LedgerNotSeen(#[source] LedgerError),
    /// Docker did not answer before anything was changed.
    #[error("nothing was changed: Docker does not answer")]
    DockerNotSeen(#[source] SwarmError),
    /// The token was that of workers, and the node did not leave again.
    #[error(
        "the token is that of workers; this node has joined as a worker, and could not leave again: run `docker swarm leave` here"
    )]
    StillWorker(#[source] SwarmError),
    /// The answer to the claim, or to the last write, was lost.
    #[error("cannot tell whether the charter was written: run this command again, which continues")]
    Unknown(#[source] LedgerError),
    /// A step failed, and everything before it was taken back.
    #[error("the swarm was not adopted, and what was written before is taken back")]
    TakenBack(#[source] BootError),
    /// A step failed, and what was written before could not be taken back.
    #[error(
        "the swarm was not adopted, and what was written before could not be taken back ({why}): run this command again, which continues"
    )]
    HalfDone {
        /// Why it could not be taken back.
        why: String,
        /// The step that failed.
        #[source]
        failed: BootError,
    },
    /// Another manager has claimed the charter after this one.
    #[error("another manager has taken over the charter meanwhile: run this command again")]
    Overtaken,
}
