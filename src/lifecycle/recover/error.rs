//! Why `skep recover` has failed.

use thiserror::Error;

use crate::clients::ledger::LedgerError;
use crate::clients::secrets::SecretsError;

#[derive(Debug, Error)]
pub(super) enum RecoverError {
    #[error("nothing was changed: whether the managers lock themselves (autolock) cannot be known")]
    Keys(#[from] SecretsError),
    #[error("nothing was changed: the ledger cannot be read")]
    NotSeen(#[source] LedgerError),
    #[error(
        "whether the charter was claimed is not known: run it again; this node goes on by itself if it was"
    )]
    Unknown(#[source] LedgerError),
    #[error(
        "the charter was claimed, and this node's departure has ended meanwhile, so the quorum is not re-created here: run it on another manager that has survived, from {until} on"
    )]
    LeftMeanwhile { until: String },
}
