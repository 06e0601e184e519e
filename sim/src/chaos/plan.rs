//! What happens in a round. A plan names nodes by role and number, so that it still means something when steps are
//! left out of it.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::cloud::Service;
use crate::machines::Program;

/// Managers that a round begins and ends with.
pub const MANAGERS: u32 = 3;
/// Workers that a round begins and ends with.
pub const WORKERS: u32 = 2;

/// How much trouble there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// What a fleet meets in a month: one manager is in trouble at a time, and outages are short
    Soft,
    /// Everything, several things at a time
    Hard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Manager,
    Worker,
}

/// The nth instance of a role that is on when a step begins, from the oldest; counted around.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pick {
    pub role: Role,
    pub nth: usize,
}

/// What goes wrong with the calls of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outage {
    /// 500 to everything.
    Errors,
    /// The connection closes; nothing is done.
    Drops,
    /// The call is done, and its answer is lost, every other time.
    LostAnswers,
    /// Half of the calls are throttled.
    Throttled,
    /// Every answer takes one to four seconds.
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

/// One thing that somebody or something does to the fleet. `seconds` is how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "kebab-case")]
pub enum Act {
    /// The desired capacity, as a difference from what rounds begin with.
    Resize {
        role: Role,
        by: i32,
    },
    /// By way of the hooks.
    Terminate {
        node: Pick,
        replaced: bool,
    },
    /// The power goes, and Auto Scaling notices.
    Crash {
        node: Pick,
    },
    /// The power goes and comes back.
    Reboot {
        node: Pick,
    },
    /// A spot notice so many seconds ahead; `withdrawn` after so many.
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
    /// SIGKILL; its supervisor starts it again.
    Kill {
        node: Pick,
        program: Program,
    },
    /// SIGSTOP, and SIGCONT in the end.
    Stop {
        node: Pick,
        program: Program,
        seconds: u64,
    },
    RestartDocker {
        node: Pick,
    },
    /// Cut off from everything.
    Cut {
        node: Pick,
        seconds: u64,
    },
    /// Cut off from the other instances; AWS is within reach.
    Isolate {
        node: Pick,
        seconds: u64,
    },
    Slow {
        node: Pick,
        kbit: u32,
        seconds: u64,
    },
    /// `None`: every service of AWS and the metadata.
    Aws {
        service: Option<Service>,
        outage: Outage,
        seconds: u64,
    },
    /// AWS's clock steps by so many seconds, and back.
    Clock {
        by: i64,
        seconds: u64,
    },
    DeleteRow {
        row: Row,
    },
    /// Puts nonsense into a row, or a row of nonsense beside it.
    SpoilRow {
        row: Row,
    },
    DeleteToken {
        role: Role,
    },
    RotateTokens,
    /// `docker node update --availability pause`, and `active` in the end.
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
    /// `skep leave`; the operator terminates the instance in the end.
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

/// An act and when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Since the beginning of the round.
    pub at_ms: u64,
    #[serde(flatten)]
    pub act: Act,
}

/// A round: what happens, in the order of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// `soft-1-17`: profile, seed and round; or an experiment's name.
    pub name: String,
    pub profile: Profile,
    /// The campaign's: the fleet follows from it, too.
    pub seed: u64,
    pub steps: Vec<Step>,
}

impl Act {
    /// The instance that it is done to, where it is one.
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

    /// Takes a manager away from raft, or away for a while.
    pub fn disturbs_a_manager(&self) -> bool {
        let harmless = matches!(self, Act::PauseByHand { .. } | Act::Rebalance { .. });
        let of_managers = match self {
            Act::Resize { role, .. } => *role == Role::Manager,
            act => act.node().is_some_and(|node| node.role == Role::Manager),
        };
        of_managers && !harmless
    }

    /// How many managers leave without a replacement beside them.
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

    /// A manager's machine goes, whether it has left raft or not.
    pub(super) fn may_lose_a_manager(&self) -> bool {
        let goes = matches!(
            self,
            Act::Crash { .. } | Act::Reboot { .. } | Act::Spot { withdrawn: None, .. }
        );
        goes && self.disturbs_a_manager()
    }

    /// A manager's machine goes without a warning.
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
