//! Errors of the managers' duties.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::backup::error::BackupError;
use crate::clients::aws::AwsError;
use crate::clients::docker::{SwarmError, SwarmErrorKind};
use crate::clients::ledger::LedgerError;
use crate::clients::secrets::{MalformedToken, SecretsError};
use crate::node::NodeError;

#[derive(Debug, Error)]
pub enum ManagerError {
    #[error(transparent)]
    Swarm(#[from] SwarmError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    AutoScaling(#[from] AwsError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Tokens(Box<TokensError>),
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error("list the nodes: this manager is not in Docker's list")]
    Unlisted,
    #[error("not finished within {after:?}; the next poll continues")]
    TimeLimit { after: Duration },
    /// The answer for several duties that waited for one request.
    #[error(transparent)]
    Shared(Arc<ManagerError>),
}

/// Why the secret store could not be compared with Docker, or be made equal to it.
#[derive(Debug, Error)]
pub enum TokensError {
    #[error(transparent)]
    Swarm(#[from] SwarmError),
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("Docker returned a malformed join token")]
    Token(#[from] MalformedToken),
    #[error(transparent)]
    Unlock(#[from] NodeError),
    #[error("the swarm's secrets change faster than they can be stored")]
    Restless,
}

impl TokensError {
    /// Returns Docker's refusal, if the error is Docker's.
    pub fn of_docker(&self) -> Option<&SwarmError> {
        match self {
            Self::Swarm(error) | Self::Unlock(NodeError::Swarm(error)) => Some(error),
            _ => None,
        }
    }
}

impl From<TokensError> for ManagerError {
    fn from(error: TokensError) -> Self {
        Self::Tokens(Box::new(error))
    }
}

impl ManagerError {
    /// Returns Docker's refusal, if the error is Docker's.
    pub fn of_docker(&self) -> Option<&SwarmError> {
        match self {
            Self::Swarm(error) | Self::Node(NodeError::Swarm(error)) => Some(error),
            Self::Tokens(error) => error.of_docker(),
            Self::Shared(error) => error.of_docker(),
            Self::Backup(BackupError::Swarm(error)) => Some(error),
            Self::Backup(_)
            | Self::Ledger(_)
            | Self::AutoScaling(_)
            | Self::Node(_)
            | Self::Unlisted
            | Self::TimeLimit { .. } => None,
        }
    }

    fn is(&self, kind: SwarmErrorKind) -> bool {
        self.of_docker().is_some_and(|error| error.kind == kind)
    }

    /// Whether Docker answers that this node is not a manager.
    pub fn is_not_manager(&self) -> bool {
        self.is(SwarmErrorKind::NotManager)
    }

    /// Whether no manager can do it at present: see [`super::quorum`].
    pub fn has_no_leader(&self) -> bool {
        self.is(SwarmErrorKind::NoLeader)
    }

    /// Whether the error concerns every node, not only the one that was served.
    pub fn concerns_all(&self) -> bool {
        self.is_not_manager() || self.has_no_leader()
    }
}
