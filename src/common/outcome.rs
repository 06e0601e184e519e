//! How a departure ends.

use serde::{Deserialize, Serialize};

use super::instance::Reason;

/// Result of a departure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Out of the swarm, and a manager has removed the node from the node list.
    Left,
    /// Out of the swarm, but no manager has confirmed that the node is off the node list.
    LeftUnconfirmed,
    /// There was nothing to leave.
    NothingToLeave,
    /// The deadline came first, and the machine ends.
    TooLate,
    /// Docker did not come back. The node can do nothing more, and the machine ends.
    DockerSilent,
    /// The deadline came first, and it was only the operator's: the machine stays, and the node with it.
    Failed,
    /// The notice was taken back, and the node stays a member.
    Stayed,
}

impl Outcome {
    /// Returns the value of the label `outcome`, and of the field in the log.
    #[must_use]
    pub fn metric_label(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::LeftUnconfirmed => "left_unconfirmed",
            Self::NothingToLeave => "nothing_to_leave",
            Self::TooLate => "too_late",
            Self::DockerSilent => "docker_silent",
            Self::Failed => "failed",
            Self::Stayed => "stayed",
        }
    }

    /// Returns the outcome in words, for the log, `skep status` and the events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left, and off the node list",
            Self::LeftUnconfirmed => "left; no manager has confirmed that it is off the node list",
            Self::NothingToLeave => "there was nothing to leave",
            Self::TooLate => "the deadline came before the node had left",
            Self::DockerSilent => "Docker did not answer, so the node could not leave",
            Self::Failed => "the node could not leave in time: it stays, and serves again",
            Self::Stayed => "taken back: the node stays in the swarm",
        }
    }

    /// Returns the outcome of a departure for `reason`. An operator's deadline ends the departure and not the machine:
    /// skep must continue to look after a node that is not out.
    #[must_use]
    pub fn on_machine(self, reason: Reason, is_out: bool) -> Self {
        match self {
            failed if failed.is_failure() && reason.keeps_the_machine() && !is_out => Self::Failed,
            outcome => outcome,
        }
    }

    /// Whether the node has failed to leave.
    #[must_use]
    pub fn is_failure(self) -> bool {
        matches!(self, Self::TooLate | Self::DockerSilent | Self::Failed)
    }

    /// Whether the node stays a member.
    #[must_use]
    pub fn stays(self) -> bool {
        matches!(self, Self::Stayed | Self::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_reads_the_word_of_the_label() {
        for outcome in [
            Outcome::Left,
            Outcome::LeftUnconfirmed,
            Outcome::NothingToLeave,
            Outcome::TooLate,
            Outcome::DockerSilent,
            Outcome::Failed,
            Outcome::Stayed,
        ] {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.metric_label());
        }
    }
}
