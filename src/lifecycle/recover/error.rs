//! Defines the errors of `skep recover`.

use thiserror::Error;

use crate::clients::ledger::LedgerError;
use crate::clients::secrets::SecretsError;

#[derive(Debug, Error)]
pub(super) enum RecoverError {
    #[error("nothing was changed: cannot tell whether the managers are locked (autolock)")]
    Keys(#[from] SecretsError),
    #[error("nothing was changed: the ledger cannot be read")]
    NotSeen(#[source] LedgerError),
    #[error(
        "cannot tell whether the charter was claimed: run this command again; if it was, this node continues by itself"
    )]
    Unknown(#[source] LedgerError),
    #[error(
        "the charter was claimed, but this node's departure has ended meanwhile, so the quorum is not re-created here: run this command on another manager that has survived, from {until} on"
    )]
    LeftMeanwhile { until: String },
}
