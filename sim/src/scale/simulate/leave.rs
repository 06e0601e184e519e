//! One worker that Auto Scaling terminates, from its notice until its termination hook is completed. Every step is skep's
//! own decision.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use skep::clients::docker::Quorum;
use skep::clients::ledger::{DepartureRow, DepartureState};
use skep::common::fact::Fact;
use skep::common::instance::{Departure, Reason, Role};
use skep::config::Settings;
use skep::lifecycle::{leave, signals};

use super::swarm::node_id;
use super::world::{World, instance_of};
use crate::cloud::Service;

/// The template's `HookTimeout`: Auto Scaling ends the instance so long after the last heartbeat.
const HOOK: Duration = Duration::from_secs(300);
/// Heartbeats in this time: skep's `BEATS_PER_TIMEOUT`.
const BEATS: u32 = 3;

/// The termination hook, as the heartbeats and the end of the departure see it.
#[derive(Default)]
struct Hook {
    /// The time of the last heartbeat.
    beat_at: Cell<Duration>,
    is_known: Cell<bool>,
    is_left: Cell<bool>,
}

/// Runs the departure of one worker.
pub(super) async fn run(world: Rc<World>, node: usize) {
    // The notice is seen at the next poll of the metadata.
    world.time.sleep(Settings::default().notices.interval.mul_f64(fastrand::f64())).await;
    let hook = Rc::new(Hook::default());
    hook.beat_at.set(world.time.now());
    world.time.spawn(keep_alive(Rc::clone(&world), node, Rc::clone(&hook)));
    leave_swarm(&world, node).await;
    hook.is_left.set(true);
    while !hook.is_known.get() {
        find_hook(&world, node, &hook).await;
    }
    while !complete(&world, node, &hook).await {
        world.time.sleep(signals::retry_interval()).await;
    }
    let _ = world.write_own(node, "UpdateItem").await;
}

/// Completes the hook. Returns whether the instance ends, by that or because the hook has timed out.
async fn complete(world: &World, node: usize, hook: &Hook) -> bool {
    let is_done = world.ask(node, Service::AutoScaling, "CompleteLifecycleAction").await.is_ok();
    let (now, mut fates) = (world.time.now(), world.fates.borrow_mut());
    let is_late = now > hook.beat_at.get() + HOOK;
    fates.ended_by_hook += usize::from(is_late);
    if is_done || is_late {
        fates.gone.insert(node, now);
    }
    is_done || is_late
}

/// Looks for the hook; pauses if Auto Scaling does not answer.
async fn find_hook(world: &World, node: usize, hook: &Hook) {
    // Without an answer, the group is the one that the tags name.
    let _ = world.ask(node, Service::AutoScaling, "DescribeAutoScalingInstances").await;
    if world.ask(node, Service::AutoScaling, "DescribeLifecycleHooks").await.is_ok() {
        hook.is_known.set(true);
    } else {
        world.time.sleep(signals::retry_interval()).await;
    }
}

/// Sends heartbeats until the node has left.
async fn keep_alive(world: Rc<World>, node: usize, hook: Rc<Hook>) {
    while !hook.is_left.get() && !hook.is_known.get() {
        find_hook(&world, node, &hook).await;
    }
    while !hook.is_left.get() {
        let beat = world.ask(node, Service::AutoScaling, "RecordLifecycleActionHeartbeat").await;
        let pause = if beat.is_ok() {
            hook.beat_at.set(world.time.now());
            HOOK / BEATS
        } else {
            signals::retry_interval()
        };
        world.time.sleep(pause).await;
    }
}

/// Leaves in rounds, until skep's decision is that it has left.
async fn leave_swarm(world: &World, node: usize) {
    let departure = Departure {
        reason: Reason::Lifecycle,
        noticed_at: world.clock(),
        deadline: world.clock() + Settings::default().leave.deadline,
    };
    let (mut is_flushed, mut moved_at) = (false, world.time.now());
    loop {
        let is_readable = world.read_own(node).await.is_ok();
        let row = world.ledger.borrow().departures.get(&node).filter(|_| is_readable).cloned();
        let step = leave::decide(Role::Worker, &observed(world, node, row, is_flushed));
        let has_moved = match step {
            leave::Step::Done(_) => return,
            leave::Step::Wait { .. } => false,
            leave::Step::Request => {
                let is_written = world.write_own(node, "PutItem").await.is_ok();
                if is_written {
                    let (id, node_id) = (instance_of(node), node_id(node));
                    let row =
                        DepartureRow::request(&id, &node_id, Role::Worker, &departure, "boot");
                    let mut ledger = world.ledger.borrow_mut();
                    ledger.departures.insert(node, row);
                    ledger.hints.insert(node);
                }
                is_written
            }
            leave::Step::Flush => {
                is_flushed = true;
                true
            }
            leave::Step::Leave => {
                world.swarm.leave(node).await;
                true
            }
            leave::Step::MarkLeft => {
                let is_written = world.write_own(node, "UpdateItem").await.is_ok();
                if is_written && let Some(row) = world.ledger.borrow_mut().departures.get_mut(&node)
                {
                    row.state = DepartureState::Left;
                }
                is_written
            }
            // Only faults, tasks and load balancers lead to the others, and there are none.
            step => {
                debug_assert!(false, "no cause for {step:?}");
                false
            }
        };
        if has_moved {
            moved_at = world.time.now();
        } else {
            let since_step = world.time.now() - moved_at;
            world.time.sleep(leave::pause_between_looks(since_step)).await;
        }
    }
}

fn observed(
    world: &World,
    node: usize,
    row: Option<DepartureRow>,
    is_flushed: bool,
) -> leave::Observed {
    leave::Observed {
        local: world.local(node),
        is_withdrawn: false,
        ours: Fact::Yes,
        certified: leave::Lookup::CannotTell,
        is_joining: Fact::No,
        was_member: true,
        is_ledger_readable: row.is_some() || !world.ledger.borrow().departures.contains_key(&node),
        row,
        is_write_failing: false,
        is_drain_failing: false,
        traffic: leave::Wait::Over,
        awaits_turn: false,
        task_containers: 0,
        standalone_containers: 0,
        late_containers: 0,
        listed_tasks: None,
        is_flushed,
        is_last_manager: false,
        is_other_going: false,
        quorum: Quorum::of(&[]),
        node: None,
        clock: leave::Clock::default(),
    }
}
