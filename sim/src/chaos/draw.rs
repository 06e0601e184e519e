//! Draws plans: a plan depends only on its profile, seed and round, so that every round can be played again.

use std::hash::{DefaultHasher, Hash, Hasher};

use fastrand::Rng;

use super::plan::{Act, MANAGERS, Outage, Pick, Plan, Profile, Role, Row, Step};
use crate::cloud::Service;
use crate::machines::Program;

/// Time in milliseconds within which all steps of a drawn round begin.
const LENGTH_MS: u64 = 60_000;
/// Kinds of rows that a round can delete or spoil.
const ROWS: [Row; 4] = [Row::Charter, Row::Member, Row::Departure, Row::Turn];

impl Plan {
    /// Draws the plan of a round of a campaign.
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

/// Number of managers that can leave in one round without a replacement beside them: one stays.
const MOST_TAKEN: u32 = MANAGERS - 1;

/// Removes steps that no swarm survives with any tool: the departure of the last manager, and the loss of a raft member
/// while others leave or are away. With the soft profile, only one manager is disturbed.
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

/// The weight of an act, and the function that draws its random parts.
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
