//! Named experiments: without random parts, 2 to 3 min each.

use super::plan::{Act, Outage, Pick, Plan, Profile, Role, Row, Step};
use crate::cloud::Service;
use crate::machines::Program;

/// With this seed, machines shut down as EC2's do.
const SEED: u64 = 1;
const LEDGER: Option<Service> = Some(Service::DynamoDb);

const fn manager(nth: usize) -> Pick {
    Pick { role: Role::Manager, nth }
}

const fn worker(nth: usize) -> Pick {
    Pick { role: Role::Worker, nth }
}

/// All experiments, in the order in which they are played.
pub fn all() -> Vec<Plan> {
    let ledger_down = |seconds| Act::Aws { service: LEDGER, outage: Outage::Drops, seconds };
    let leave = |node| Act::Terminate { node, replaced: true };
    let spot = |node, ahead| Act::Spot { node, ahead, withdrawn: None };
    let isolate = |nth, seconds| (0, Act::Isolate { node: manager(nth), seconds });
    let all_apart = [isolate(0, 45), isolate(1, 45), isolate(2, 45)];
    let delete_charter = (0, Act::DeleteRow { row: Row::Charter });
    let mut plans = Vec::new();
    for (role, node) in [("worker", worker(0)), ("manager", manager(1))] {
        for seconds in [5, 20, 60] {
            let name = format!("ledger-down-{seconds}s-{role}-leaves");
            plans.push(plan(&name, &[(0, ledger_down(seconds)), (1, leave(node))]));
        }
        let name = format!("ledger-down-past-the-deadline-{role}-leaves");
        plans.push(plan(&name, &[(0, ledger_down(100)), (1, spot(node, 60))]));
        for (how, act) in [
            ("killed", Act::Kill { node, program: Program::Dockerd }),
            ("hung", Act::Stop { node, program: Program::Dockerd, seconds: 60 }),
        ] {
            let name = format!("docker-{how}-{role}-leaves");
            plans.push(plan(&name, &[(0, leave(node)), (0, act)]));
        }
    }
    let with = |more: &[(u64, Act)]| [&all_apart[..], more].concat();
    plans.extend([
        plan(
            "managers-apart-scale-in",
            &with(&[(30, Act::Resize { role: Role::Manager, by: -2 })]),
        ),
        plan(
            "managers-apart-spot-notices",
            &with(&[(10, spot(manager(0), 120)), (10, spot(manager(1), 120))]),
        ),
        plan(
            "managers-apart-and-stopped",
            &[
                isolate(0, 45),
                (0, Act::Stop { node: manager(1), program: Program::Skep, seconds: 45 }),
                (5, Act::Stop { node: manager(2), program: Program::Skep, seconds: 40 }),
                (10, leave(manager(0))),
            ],
        ),
        plan(
            "charter-deleted-manager-joins",
            &[delete_charter, (0, Act::Resize { role: Role::Manager, by: 2 })],
        ),
        plan(
            "charter-deleted-skep-restarts",
            &[
                delete_charter,
                (0, Act::Kill { node: manager(0), program: Program::Skep }),
                (0, Act::Kill { node: worker(0), program: Program::Skep }),
            ],
        ),
        plan("charter-deleted-founder-leaves", &[delete_charter, (0, leave(manager(0)))]),
        plan(
            "tokens-deleted",
            &[
                (0, Act::DeleteToken { role: Role::Manager }),
                (0, Act::DeleteToken { role: Role::Worker }),
                (0, Act::Resize { role: Role::Worker, by: 1 }),
                (0, Act::Resize { role: Role::Manager, by: 2 }),
            ],
        ),
    ]);
    plans
}

/// Makes a plan from steps with their times in seconds.
fn plan(name: &str, steps: &[(u64, Act)]) -> Plan {
    let step = |&(at, act)| Step { at_ms: at * 1000, act };
    let steps = steps.iter().map(step).collect();
    Plan { name: name.to_owned(), profile: Profile::Hard, seed: SEED, steps }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_has_a_name_of_its_own() {
        let plans = all();
        let names: BTreeSet<&str> = plans.iter().map(|plan| plan.name.as_str()).collect();
        assert_eq!(names.len(), plans.len());
    }
}
