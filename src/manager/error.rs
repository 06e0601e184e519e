//! Why a manager could not do something for the fleet.

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
    /// Docker's refusal, where it was Docker.
    pub fn of_docker(&self) -> Option<&SwarmError> {
        match self {
            Self::Swarm(error) | Self::Node(NodeError::Swarm(error)) => Some(error),
            _ => None,
        }
    }

    fn is(&self, kind: SwarmErrorKind) -> bool {
        self.of_docker().is_some_and(|error| error.kind == kind)
    }

    /// This node cannot do it: it is a manager no more.
    pub fn is_not_manager(&self) -> bool {
        self.is(SwarmErrorKind::NotManager)
    }

    /// No manager can do it at present: see [`super::quorum`].
    pub fn has_no_leader(&self) -> bool {
        self.is(SwarmErrorKind::NoLeader)
    }

    /// Whichever node it was about: none can be looked after.
    pub fn concerns_all(&self) -> bool {
        self.is_not_manager() || self.has_no_leader()
    }
}
