//! One node, from the start of its skep until its launch hook is completed. Every step is skep's own decision.

use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{join, join3};
use skep::clients::docker::JoinAnswer;
use skep::clients::ledger::{Charter, CharterPhase};
use skep::common::fact::Fact;
use skep::common::instance::Role;
use skep::config::Settings;
use skep::lifecycle::boot::{Absence, Mark, Observed, OwnSwarm, Step, decide, pause_after};
use skep::lifecycle::{membership, signals};

use super::super::store::Store;
use super::account::{Call, Throttled};
use super::managers;
use super::swarm::SWARM_ID;
use super::world::{World, instance_of, role_of};
use crate::cloud::Service;

/// The template's `HeartbeatTimeout` of the launch hook; nobody sends heartbeats for it.
const LAUNCH_HOOK: Duration = Duration::from_secs(900);

/// Runs one node.
pub(super) async fn run(world: Rc<World>, node: usize) {
    let start = world.plan.within.mul_f64(fastrand::f64());
    world.time.sleep(start).await;
    let deadline = start + Settings::default().boot.deadline;
    if !boot(&world, node, deadline).await {
        world.fates.borrow_mut().failed.insert(node);
        return;
    }
    // A ledger that throttles delays a node that has joined by two seconds at most; it tries again beside that.
    let _ = world.write_own(node, "PutItem").await;
    let now = world.time.now();
    world.fates.borrow_mut().ready.insert(node, now);
    if role_of(node) == Role::Manager {
        managers::start(&world, node);
    }
    let _ = world.write_own(node, "DeleteItem").await;
    let _ = world.ask(node, Service::CloudFormation, "SignalResource").await;
    complete_launch_hook(&world, node, start + LAUNCH_HOOK).await;
    serve(&world, node).await;
}

/// Boots in rounds. Returns whether the node is Ready by `deadline`.
async fn boot(world: &World, node: usize, deadline: Duration) -> bool {
    let (mut pauses, mut is_departure_known, mut is_announced) = (0, false, false);
    while world.time.now() < deadline {
        let departure =
            async { if is_departure_known { Ok(()) } else { world.read_own(node).await } };
        let (seen, departure) = join(observe(world, node), departure).await;
        let seen = seen.ok().filter(|_| departure.is_ok());
        is_departure_known |= seen.is_some();
        let step = seen.map(|seen| decide(&instance_of(node), role_of(node), &seen));
        let goes_on = match step {
            None | Some(Step::Wait { .. }) => false,
            Some(Step::Ready(_)) => return world.time.now() < deadline,
            Some(Step::Claim { seen, traces }) => {
                let lease = Settings::default().boot.lease;
                let name = instance_of(node);
                let claim = Charter::claim(seen.as_ref(), &traces, &name, world.clock(), lease);
                let is_served = world.write_own(node, "PutItem").await.is_ok();
                let mut ledger = world.ledger.borrow_mut();
                // DynamoDB's condition: nobody else has claimed it meanwhile.
                if is_served && ledger.charter == seen {
                    ledger.charter = Some(claim);
                }
                is_served
            }
            Some(Step::Init { .. }) => {
                world.swarm.init(node).await;
                true
            }
            Some(Step::Publish { claim, .. }) => publish(world, node, claim).await.is_ok(),
            Some(Step::Join { .. }) => join_swarm(world, node, &mut is_announced).await,
            // Only faults lead to the others, and there are none.
            Some(step) => {
                debug_assert!(false, "no cause for {step:?}");
                false
            }
        };
        if goes_on {
            pauses = 0;
        } else {
            world.time.sleep(pause_after(pauses)).await;
            pauses += 1;
        }
    }
    false
}

/// Reads what skep reads for one decision.
async fn observe(world: &World, node: usize) -> Result<Observed, Throttled> {
    world.read_shared(node).await?;
    let charter = world.ledger.borrow().charter.clone();
    let local = world.local(node);
    let is_in = local.node_id.is_some();
    if is_in {
        // Its own row, which does not exist yet.
        world.read_own(node).await?;
    }
    let is_open = charter.as_ref().is_some_and(|charter| charter.phase == CharterPhase::Open);
    let generation = charter.as_ref().map(|charter| charter.generation);
    let is_in_doubt = local.is_manager && !is_open;
    let is_alone = world.swarm.len() <= 1;
    Ok(Observed {
        own_swarm: is_in_doubt.then_some(OwnSwarm {
            mark: Mark::Ours,
            is_alone,
            generation,
            created_at: None,
            has_former: Fact::No,
        }),
        absence: (role_of(node) == Role::Manager && !is_in).then(Absence::default),
        charter,
        has_leader: Fact::from(is_in),
        local,
        certificate_error: None,
        certified: None,
        member: None,
        lives_on: None,
        is_joining: Fact::CannotTell,
        is_moved: false,
        peer_demotion: None,
        unsettled_for: Duration::ZERO,
        lease: Settings::default().boot.lease,
        now: world.clock(),
    })
}

/// Stores the tokens, the founder's row and the history, and opens the charter.
async fn publish(world: &World, node: usize, claim: Charter) -> Result<(), Throttled> {
    for _ in Role::ALL {
        match world.plan.store {
            Store::Ssm => world.ask(node, Service::Ssm, "PutParameter").await?,
            Store::Dynamodb => world.write_own(node, "PutItem").await?,
        }
    }
    for _row in ["member", "history", "charter"] {
        world.write_own(node, "PutItem").await?;
    }
    let mut ledger = world.ledger.borrow_mut();
    if ledger.charter.as_ref() == Some(&claim) {
        let swarm_id = Some(SWARM_ID.to_owned());
        ledger.charter = Some(Charter { phase: CharterPhase::Open, swarm_id, ..claim });
    }
    Ok(())
}

/// Makes one attempt to join. Returns whether skep looks again at once.
async fn join_swarm(world: &World, node: usize, is_announced: &mut bool) -> bool {
    let role = role_of(node);
    let token = async {
        match world.plan.store {
            Store::Ssm => world.ask(node, Service::Ssm, "GetParameter").await,
            Store::Dynamodb => world.read_shared(node).await,
        }
    };
    let managers = world.account.call(role, Call::Query);
    let announce = async {
        if !*is_announced {
            *is_announced = world.write_own(node, "PutItem").await.is_ok();
        }
    };
    let (token, managers, ()) = join3(token, managers, announce).await;
    if token.is_err() || managers.is_err() {
        return false;
    }
    let answer = world.swarm.join(node, role).await;
    // skep ends such a join by force, and its place in the leader's queue is of no use any more.
    let is_ended = answer.is_ended_by_force(role);
    world.fates.borrow_mut().joins_given_up += usize::from(is_ended);
    answer == JoinAnswer::Joined
}

/// Completes the launch hook, with skep's pauses, until Auto Scaling accepts that, or the hook times out at `until`.
async fn complete_launch_hook(world: &World, node: usize, until: Duration) {
    for attempt in 0.. {
        let hooks = world.ask(node, Service::AutoScaling, "DescribeLifecycleHooks").await;
        let is_done = hooks.is_ok()
            && world.ask(node, Service::AutoScaling, "CompleteLifecycleAction").await.is_ok();
        let (now, mut fates) = (world.time.now(), world.fates.borrow_mut());
        if now > until {
            fates.timed_out.insert(node);
            return;
        }
        if is_done {
            fates.in_service.insert(node, now);
            return;
        }
        drop(fates);
        world.time.sleep(signals::wait(signals::PASSING, attempt)).await;
    }
}

/// Reads the charter and the own row as often as a node that serves.
async fn serve(world: &World, node: usize) {
    let every = match role_of(node) {
        Role::Manager => membership::MANAGER_LEDGER_EVERY,
        Role::Worker => membership::WORKER_LEDGER_EVERY,
    };
    while !world.ledger.borrow().departures.contains_key(&node) {
        let looks = (0..every).map(|_| membership::INTERVAL.mul_f64(0.75 + 0.5 * fastrand::f64()));
        world.time.sleep(looks.sum()).await;
        let _ = join(world.read_shared(node), world.read_own(node)).await;
    }
}
