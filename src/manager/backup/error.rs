//! Errors of backups.

use thiserror::Error;

use crate::clients::aws::AwsError;
use crate::clients::docker::SwarmError;
use crate::clients::ledger::LedgerError;

/// The number of the format of a backup; a later one may have parts that this skep would lose.
pub const FORMAT: u64 = 1;

/// Why a backup could not be stored, found or read.
#[derive(Debug, Error)]
pub enum BackupError {
    /// S3 did not answer, or refused.
    #[error(transparent)]
    Aws(#[from] AwsError),
    /// Docker did not answer, or refused.
    #[error(transparent)]
    Swarm(#[from] SwarmError),
    /// The ledger did not answer, or refused.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The backup may have parts that this skep would lose.
    #[error(
        "{key} was written by a newer skep (format {format}; this skep reads {FORMAT}); upgrade skep on this node"
    )]
    Newer {
        /// Key of the object.
        key: String,
        /// Number of its format.
        format: u64,
    },
    /// The backup is no JSON, or lacks a part. The cause would quote its content.
    #[error(
        "{key} cannot be read: it is damaged, or no backup of skep; choose another with --from"
    )]
    Unreadable {
        /// Key of the object.
        key: String,
    },
    /// It is of another cluster, although it has a key of this one.
    #[error("{key} is a backup of the cluster {cluster}")]
    OtherCluster {
        /// Key of the object.
        key: String,
        /// Name of its cluster.
        cluster: String,
    },
    /// The host's clock differs from S3's.
    #[error(
        "the clock of this host is {seconds} s ahead of S3's (behind, if negative): nothing is stored or deleted by it; start chrony"
    )]
    Clock {
        /// How far it is ahead.
        seconds: i64,
    },
    /// It could not be read again.
    #[error(
        "a backup of {bytes} bytes is larger than skep can read again; remove configs that are not used"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The bucket has no backup of this cluster.
    #[error(
        "there is no backup of this cluster in {place}; check backup.to and the cluster's name"
    )]
    Missing {
        /// The bucket and the beginning of the keys.
        place: String,
    },
}
