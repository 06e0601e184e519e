//! Errors of the managers' duties.

use thiserror::Error;

use crate::clients::aws::AwsError;
use crate::clients::docker::{SwarmError, SwarmErrorKind};
use crate::clients::ledger::LedgerError;
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
}

impl ManagerError {
    /// Returns Docker's refusal, if the error is Docker's.
    pub fn of_docker(&self) -> Option<&SwarmError> {
        match self {
            Self::Swarm(error) | Self::Node(NodeError::Swarm(error)) => Some(error),
            _ => None,
        }
    }

    fn is(&self, kind: SwarmErrorKind) -> bool {
        self.of_docker().is_some_and(|error| error.kind == kind)
    }

    /// Whether this node cannot do it because it is no longer a manager.
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
