//! What happens in a round. A plan follows from its seed alone, so that every round can be played again; it names
//! nodes by role and number, so that it still means something when steps are left out of it.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use clap::ValueEnum;
use fastrand::Rng;
use serde::{Deserialize, Serialize};

use crate::cloud::Service;
use crate::machines::Program;

/// Managers that a round begins and ends with.
pub const MANAGERS: u32 = 3;
/// Workers that a round begins and ends with.
pub const WORKERS: u32 = 2;
/// All steps of a drawn round begin within so many milliseconds.
const LENGTH_MS: u64 = 60_000;
/// Rows that a round may delete or spoil.
const ROWS: [Row; 4] = [Row::Charter, Row::Member, Row::Departure, Row::Turn];

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
    fn takes_managers(&self) -> u32 {
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
    fn may_lose_a_manager(&self) -> bool {
        let goes = matches!(
            self,
            Act::Crash { .. } | Act::Reboot { .. } | Act::Spot { withdrawn: None, .. }
        );
        goes && self.disturbs_a_manager()
    }

    /// A manager's machine goes without a warning.
    fn loses_a_manager(&self) -> bool {
        self.may_lose_a_manager() && !matches!(self, Act::Spot { .. })
    }
}

impl Plan {
    /// The plan of a round of a campaign.
    pub fn draw(profile: Profile, seed: u64, round: u32) -> Plan {
        let mut hasher = DefaultHasher::new();
        (profile, seed, round).hash(&mut hasher);
        let mut random = Rng::with_seed(hasher.finish());
        let count = match profile {
            Profile::Soft => random.usize(3..=6),
            Profile::Hard => random.usize(5..=10),
        };
        let mut steps: Vec<Step> = (0..count)
            .map(|_| Step { at_ms: random.u64(0..LENGTH_MS), act: draw(profile, &mut random) })
            .collect();
        steps.sort_by_key(|step| step.at_ms);
        keep_what_can_be_survived(profile, &mut steps);
        let word = match profile {
            Profile::Soft => "soft",
            Profile::Hard => "hard",
        };
        Plan { name: format!("{word}-{seed}-{round}"), profile, seed, steps }
    }
}

/// Managers that may leave in one round without a replacement beside them: one stays.
const MOST_TAKEN: u32 = MANAGERS - 1;

/// Leaves out what no swarm survives, whoever looks after it: the last manager that goes, and a member of raft that is
/// lost while others are on their way out, or away. With the soft profile, only one manager is disturbed.
fn keep_what_can_be_survived(profile: Profile, steps: &mut Vec<Step>) {
    let (mut disturbed, mut taken, mut may_be_lost, mut lost) = (0, 0, false, false);
    steps.retain(|Step { act, .. }| {
        if !act.disturbs_a_manager() {
            return true;
        }
        let takes = act.takes_managers();
        let is_kept = match profile {
            Profile::Soft => disturbed == 0,
            Profile::Hard if lost => false,
            Profile::Hard if act.loses_a_manager() => disturbed == 0,
            Profile::Hard if act.may_lose_a_manager() => !may_be_lost && taken == 0,
            Profile::Hard => takes == 0 || (!may_be_lost && taken + takes <= MOST_TAKEN),
        };
        if is_kept {
            disturbed += 1;
            taken += takes;
            may_be_lost |= act.may_lose_a_manager();
            lost |= act.loses_a_manager();
        }
        is_kept
    });
}

/// How often an act is drawn, and what of it is left to chance.
type Weighted = (u32, fn(&mut Rng) -> Act);

fn draw(profile: Profile, random: &mut Rng) -> Act {
    let hard = profile == Profile::Hard;
    let acts: &[Weighted] = &[
        (10, |random| Act::Terminate { node: any(random), replaced: true }),
        (8, |random| Act::Resize { role: Role::Worker, by: choose(random, &[-1, 1, 2]) }),
        (5, |random| Act::Resize { role: Role::Manager, by: choose(random, &[-2, 2]) }),
        (5, |random| Act::Terminate { node: any(random), replaced: false }),
        (7, |random| Act::Spot { node: any(random), ahead: random.u64(40..=120), withdrawn: None }),
        (4, |random| Act::Spot {
            node: any(random),
            ahead: 120,
            withdrawn: Some(random.u64(2..=30)),
        }),
        (2, |random| Act::Maintenance {
            node: any(random),
            ahead: random.u64(30..=120),
            withdrawn: Some(random.u64(5..=40)),
        }),
        (2, |random| Act::Rebalance { node: any(random), seconds: 30 }),
        (4, |random| Act::Standby { node: any(random), seconds: random.u64(20..=50) }),
        (9, |random| Act::Kill { node: any(random), program: Program::Skep }),
        (4, |random| Act::RestartDocker { node: any(random) }),
        (4, |random| Act::Slow {
            node: any(random),
            kbit: random.u32(128..=1024),
            seconds: random.u64(10..=40),
        }),
        (8, outage_of_one),
        (3, |random| Act::Clock { by: random.i64(-200..=200), seconds: random.u64(10..=40) }),
        (3, |_| Act::RotateTokens),
        (3, |random| Act::DeleteToken { role: role(random) }),
        (3, |random| Act::PauseByHand { node: worker(random), seconds: random.u64(10..=40) }),
        (3, |random| Act::DrainByHand { node: worker(random), seconds: random.u64(10..=40) }),
        (3, |random| Act::LeaveByHand { node: any(random) }),
        (2, |random| Act::ScaleService { replicas: random.u64(2..=10) }),
        (2, |_| Act::UpdateService),
    ];
    let hard_acts: &[Weighted] = &[
        (6, |random| Act::Crash { node: any(random) }),
        (4, |random| Act::Reboot { node: any(random) }),
        (6, |random| Act::Kill { node: any(random), program: Program::Dockerd }),
        (5, |random| Act::Stop {
            node: any(random),
            program: Program::Dockerd,
            seconds: random.u64(5..=60),
        }),
        (5, |random| Act::Stop {
            node: any(random),
            program: Program::Skep,
            seconds: random.u64(5..=60),
        }),
        (6, |random| Act::Cut { node: any(random), seconds: random.u64(5..=60) }),
        (9, |random| Act::Isolate { node: any(random), seconds: random.u64(5..=60) }),
        (6, |random| Act::Aws {
            service: None,
            outage: choose(random, &[Outage::Errors, Outage::Drops]),
            seconds: random.u64(5..=60),
        }),
        (6, |random| Act::DeleteRow { row: choose(random, &ROWS) }),
        (6, |random| Act::SpoilRow { row: choose(random, &ROWS) }),
        (3, |random| Act::RemoveByHand { node: worker(random) }),
        (3, |random| Act::Load { seconds: random.u64(10..=40) }),
    ];
    let more = if hard { hard_acts } else { &[] };
    let all = || acts.iter().chain(more);
    let mut drawn = random.u32(0..all().map(|(weight, _)| weight).sum());
    for (weight, act) in all() {
        if drawn < *weight {
            return act(random);
        }
        drawn -= weight;
    }
    Act::UpdateService
}

fn outage_of_one(random: &mut Rng) -> Act {
    let services = [
        Service::DynamoDb,
        Service::DynamoDb,
        Service::Ssm,
        Service::AutoScaling,
        Service::CloudFormation,
        Service::Imds,
    ];
    let outages =
        [Outage::Errors, Outage::Drops, Outage::LostAnswers, Outage::Throttled, Outage::Slow];
    Act::Aws {
        service: Some(choose(random, &services)),
        outage: choose(random, &outages),
        seconds: random.u64(5..=20),
    }
}

fn any(random: &mut Rng) -> Pick {
    Pick { role: role(random), nth: random.usize(0..4) }
}

fn worker(random: &mut Rng) -> Pick {
    Pick { role: Role::Worker, nth: random.usize(0..4) }
}

fn role(random: &mut Rng) -> Role {
    choose(random, &[Role::Manager, Role::Worker])
}

fn choose<T: Copy>(random: &mut Rng, from: &[T]) -> T {
    from[random.usize(..from.len())]
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Manager => "manager",
            Role::Worker => "worker",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plans(profile: Profile) -> Vec<Plan> {
        (0..500).map(|round| Plan::draw(profile, 7, round)).collect()
    }

    #[test]
    fn a_plan_follows_from_its_seed() {
        assert_eq!(plans(Profile::Hard), plans(Profile::Hard));
        assert_ne!(Plan::draw(Profile::Hard, 1, 1), Plan::draw(Profile::Hard, 2, 1));
        assert_ne!(Plan::draw(Profile::Hard, 1, 1), Plan::draw(Profile::Hard, 1, 2));
    }

    #[test]
    fn a_plan_survives_its_own_json() {
        for plan in plans(Profile::Hard) {
            let text = serde_json::to_string(&plan).unwrap();
            assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
        }
    }

    #[test]
    fn no_plan_asks_for_what_nobody_survives() {
        for plan in plans(Profile::Soft) {
            let disturbed = plan.steps.iter().filter(|step| step.act.disturbs_a_manager());
            assert!(disturbed.count() <= 1, "{plan:?}");
        }
        let mut several = 0;
        for plan in plans(Profile::Hard) {
            let on_managers: Vec<Act> =
                plan.steps.iter().map(|step| step.act).filter(Act::disturbs_a_manager).collect();
            let count = |is: fn(&Act) -> bool| on_managers.iter().filter(|act| is(act)).count();
            let taken: u32 = on_managers.iter().map(Act::takes_managers).sum();
            let may_be_lost = count(Act::may_lose_a_manager);
            assert!(may_be_lost <= 1 && (may_be_lost == 0 || taken == 0), "{plan:?}");
            assert!(taken < MANAGERS, "{plan:?}");
            assert!(count(Act::loses_a_manager) == 0 || on_managers.len() == 1, "{plan:?}");
            several += usize::from(on_managers.len() > 1);
        }
        assert!(several > 100, "{several}");
    }
}
