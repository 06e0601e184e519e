//! The plan of a round. It names nodes by role and number, so that it stays valid when steps are removed.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::cloud::Service;
use crate::machines::Program;

/// Number of managers at the begin and the end of a round.
pub const MANAGERS: u32 = 3;
/// Number of workers at the begin and the end of a round.
pub const WORKERS: u32 = 2;

/// Severity of the faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// The faults of a month: only one manager is disturbed at a time, and outages are short
    Soft,
    /// All faults, several at the same time
    Hard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Manager,
    Worker,
}

/// The nth instance of a role, from the oldest, of those that are on when a step begins; modulo their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pick {
    pub role: Role,
    pub nth: usize,
}

/// A fault of the calls of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outage {
    /// Every answer is a 500.
    Errors,
    /// The connection closes; the call is not executed.
    Drops,
    /// Every other call is executed but its answer is lost.
    LostAnswers,
    /// Half of the calls are throttled.
    Throttled,
    /// Every answer takes 1 to 4 s.
    Slow,
}

/// A kind of row in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Row {
    Charter,
    Member,
    Departure,
    Turn,
}

/// One fault or action on the fleet. `seconds` is its duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "kebab-case")]
pub enum Act {
    /// Sets the desired capacity, as a difference from the number at the begin of a round.
    Resize {
        role: Role,
        by: i32,
    },
    /// Terminates an instance through its lifecycle hooks.
    Terminate {
        node: Pick,
        replaced: bool,
    },
    /// The power is cut, and Auto Scaling detects it.
    Crash {
        node: Pick,
    },
    /// The power is cut and comes back.
    Reboot {
        node: Pick,
    },
    /// A spot notice `ahead` seconds before the interruption, withdrawn after `withdrawn` seconds.
    Spot {
        node: Pick,
        ahead: u64,
        withdrawn: Option<u64>,
    },
    Rebalance {
        node: Pick,
        seconds: u64,
    },
    Maintenance {
        node: Pick,
        ahead: u64,
        withdrawn: Option<u64>,
    },
    Standby {
        node: Pick,
        seconds: u64,
    },
    /// SIGKILL; the supervisor restarts the program.
    Kill {
        node: Pick,
        program: Program,
    },
    /// SIGSTOP, and SIGCONT at the end.
    Stop {
        node: Pick,
        program: Program,
        seconds: u64,
    },
    RestartDocker {
        node: Pick,
    },
    /// The node is cut off from everything.
    Cut {
        node: Pick,
        seconds: u64,
    },
    /// The node is cut off from the other instances; AWS is reachable.
    Isolate {
        node: Pick,
        seconds: u64,
    },
    Slow {
        node: Pick,
        kbit: u32,
        seconds: u64,
    },
    /// An outage of a service; `None`: of all AWS services and the metadata.
    Aws {
        service: Option<Service>,
        outage: Outage,
        seconds: u64,
    },
    /// AWS's clock steps by `by` seconds, and back.
    Clock {
        by: i64,
        seconds: u64,
    },
    DeleteRow {
        row: Row,
    },
    /// Writes nonsense into a row, or adds a nonsense row beside it.
    SpoilRow {
        row: Row,
    },
    DeleteToken {
        role: Role,
    },
    RotateTokens,
    /// `docker node update --availability pause`, and `active` at the end.
    PauseByHand {
        node: Pick,
        seconds: u64,
    },
    DrainByHand {
        node: Pick,
        seconds: u64,
    },
    /// `docker node rm --force` of a worker.
    RemoveByHand {
        node: Pick,
    },
    /// `skep leave`; the operator terminates the instance at the end.
    LeaveByHand {
        node: Pick,
    },
    /// `docker service scale` of the first service.
    ScaleService {
        replicas: u64,
    },
    /// `docker service update --force` of the first service.
    UpdateService,
    /// Other programs use every processor.
    Load {
        seconds: u64,
    },
}

/// An act and its begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Milliseconds since the begin of the round.
    pub at_ms: u64,
    #[serde(flatten)]
    pub act: Act,
}

/// A round: its steps, in the order of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// `soft-1-17`: profile, seed and round; or an experiment's name.
    pub name: String,
    pub profile: Profile,
    /// Seed of the campaign, which also determines the fleet's options.
    pub seed: u64,
    pub steps: Vec<Step>,
}

impl Act {
    /// The target instance, if the act has one.
    pub fn node(&self) -> Option<Pick> {
        match *self {
            Act::Terminate { node, .. }
            | Act::Crash { node }
            | Act::Reboot { node }
            | Act::Spot { node, .. }
            | Act::Rebalance { node, .. }
            | Act::Maintenance { node, .. }
            | Act::Standby { node, .. }
            | Act::Kill { node, .. }
            | Act::Stop { node, .. }
            | Act::RestartDocker { node }
            | Act::Cut { node, .. }
            | Act::Isolate { node, .. }
            | Act::Slow { node, .. }
            | Act::PauseByHand { node, .. }
            | Act::DrainByHand { node, .. }
            | Act::RemoveByHand { node }
            | Act::LeaveByHand { node } => Some(node),
            Act::Resize { .. }
            | Act::Aws { .. }
            | Act::Clock { .. }
            | Act::DeleteRow { .. }
            | Act::SpoilRow { .. }
            | Act::DeleteToken { .. }
            | Act::RotateTokens
            | Act::ScaleService { .. }
            | Act::UpdateService
            | Act::Load { .. } => None,
        }
    }

    /// Whether it removes a manager from raft, or makes one unavailable for a while.
    pub fn disturbs_a_manager(&self) -> bool {
        let harmless = matches!(self, Act::PauseByHand { .. } | Act::Rebalance { .. });
        let of_managers = match self {
            Act::Resize { role, .. } => *role == Role::Manager,
            act => act.node().is_some_and(|node| node.role == Role::Manager),
        };
        of_managers && !harmless
    }

    /// Number of managers that leave without a replacement beside them.
    pub(super) fn takes_managers(&self) -> u32 {
        let takes = match *self {
            Act::Resize { by, .. } if by < 0 => by.unsigned_abs(),
            Act::Terminate { replaced: false, .. }
            | Act::LeaveByHand { .. }
            | Act::Maintenance { .. }
            | Act::Spot { withdrawn: Some(_), .. } => 1,
            _ => 0,
        };
        if self.disturbs_a_manager() { takes } else { 0 }
    }

    /// Whether a manager's machine ends, even if the manager has not left raft.
    pub(super) fn may_lose_a_manager(&self) -> bool {
        let goes = matches!(
            self,
            Act::Crash { .. } | Act::Reboot { .. } | Act::Spot { withdrawn: None, .. }
        );
        goes && self.disturbs_a_manager()
    }

    /// Whether a manager's machine ends without a warning.
    pub(super) fn loses_a_manager(&self) -> bool {
        self.may_lose_a_manager() && !matches!(self, Act::Spot { .. })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Manager => "manager",
            Role::Worker => "worker",
        })
    }
}
