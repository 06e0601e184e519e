//! `skep-sim scale --simulate`: sizes that no machine holds, in virtual time.
//!
//! Each node follows skep's own decisions ([`skep::lifecycle::boot::decide`], [`skep::lifecycle::leave::decide`],
//! [`skep::manager::decide`]) with skep's own pauses, against the limits of an account that the local cloud has, and
//! swarmkit's measured pace. There is no process, no network and no real time; the same seed gives the same numbers.
//!
//! Simplified: the processors of the nodes are never busy; every call takes 5 ms; the SDK's budget of retries is never
//! empty; there are no tasks, services and load balancers; an instance that Auto Scaling would replace is counted, and
//! has no successor. Each module says what else.

mod account;
mod boot;
mod leave;
mod managers;
mod outcome;
mod swarm;
mod table;
#[cfg(test)]
mod tests;
mod timeline;
mod world;

use std::rc::Rc;
use std::time::Duration;

use super::store::Store;
use outcome::{IDLE, Outcome};
use table::Column;
use world::{Fates, MANAGERS, Plan, World};

use crate::stage::Style;

/// Sizes of a run without numbers.
const SIZES: [u32; 3] = [1000, 5000, 20_000];
/// Virtual time after which a phase ends, whatever is left to do.
const LIMIT: Duration = Duration::from_secs(4 * 3600);
/// Part of the workers that leave at once.
const LEAVING_PART: usize = 10;

/// Simulates fleets of these sizes, and prints the table.
pub(super) fn run(sizes: &[u32], stores: &[Store], seed: u64, within: Duration) {
    let sizes = if sizes.is_empty() { &SIZES } else { sizes };
    let each = sizes.iter().flat_map(|nodes| stores.iter().map(|store| (*nodes as usize, *store)));
    let columns: Vec<Column> = each
        .map(|(nodes, store)| Column {
            store,
            outcome: simulate(Plan { nodes, store, seed, within }),
        })
        .collect();
    table::print(Style::of_stdout(), &columns, seed, within);
}

/// Simulates one fleet: all boot; then nothing happens; then a tenth of the workers leave at once.
fn simulate(plan: Plan) -> Outcome {
    // skep's own jitter comes from the same source.
    fastrand::seed(plan.seed);
    let world = World::new(plan);
    for node in 0..plan.nodes {
        world.time.spawn(boot::run(Rc::clone(&world), node));
    }
    let until = |is_over: &dyn Fn(&Fates) -> bool| {
        world.time.run(world.time.now() + LIMIT, || is_over(&world.fates.borrow()));
    };
    until(&|fates| fates.ready.len() + fates.failed.len() == plan.nodes);
    let mut at_boot = world.account.take_calls();
    until(&|fates| {
        let hooks = fates.in_service.len() + fates.timed_out.len();
        hooks == fates.ready.len() && fates.labelled.len() == fates.ready.len()
    });
    at_boot.add_signals(&world.account.take_calls());
    world.swarm.take_work();
    world.polls.take();
    world.time.run(world.time.now() + IDLE, || false);
    let idle = world.account.take_calls();
    let (work, lists) = world.swarm.take_work();
    let share = |time: Duration| time.as_secs_f64() / IDLE.as_secs_f64();
    let (leader_busy, leader_lists) = (share(work), share(lists));
    let idle_polls = world.polls.take();
    let leaving: Vec<usize> = {
        let fates = world.fates.borrow();
        let workers = fates.ready.keys().copied().filter(|node| *node >= MANAGERS);
        workers.rev().take((plan.nodes - MANAGERS) / LEAVING_PART).collect()
    };
    let left_at = world.time.now();
    for node in &leaving {
        world.time.spawn(leave::run(Rc::clone(&world), *node));
    }
    until(&|fates| fates.gone.len() == leaving.len());
    Outcome {
        nodes: plan.nodes,
        fates: world.fates.take(),
        at_boot,
        idle,
        idle_polls,
        leave_polls: world.polls.take(),
        leader_busy,
        leader_lists,
        leaving: leaving.len(),
        left_at,
    }
}
