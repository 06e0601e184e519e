use std::net::Ipv4Addr;

use super::super::action::ActionName;
use super::super::scaling::Outcome;
use super::super::states::{ActionResult, LifecycleState as S, Transition};
use super::*;
use crate::cloud::specs::{CloudOptions, GroupSpec, HookSpec};

const NOW: Duration = Duration::from_secs(100);
const GROUP: &str = "workers";
const READY: ActionName<'_> = ActionName { hook: "ready", token: None };

/// Returns a group with one desired instance and a warm pool for one more.
fn scaling(state: PoolState) -> Scaling {
    let options = CloudOptions {
        region: "eu-central-1".to_owned(),
        zones: vec!["eu-central-1a".to_owned()],
        subnet: (Ipv4Addr::new(10, 0, 0, 0), 24),
        seed: 1,
    };
    let mut scaling = Scaling::new(&options).unwrap();
    let spec = GroupSpec { name: GROUP.to_owned(), max: 4, desired: 1, ..GroupSpec::default() };
    scaling.create_group(spec, vec![], vec![], None, NOW).unwrap();
    for (name, transition) in [("ready", Transition::Launching), ("drain", Transition::Terminating)]
    {
        scaling.put_hook(HookSpec::new(GROUP, name, transition)).unwrap();
    }
    scaling.put_warm_pool(GROUP, pool(state), NOW).unwrap();
    scaling
}

fn pool(state: PoolState) -> WarmPoolSpec {
    WarmPoolSpec { min_size: 1, max_prepared: Some(2), state, reuse: false }
}

fn states(scaling: &Scaling) -> Vec<S> {
    let mut instances: Vec<_> = scaling.instances().collect();
    instances.sort_by_key(|i| i.sequence);
    instances.iter().map(|i| i.lifecycle.state()).collect()
}

fn only(scaling: &Scaling, state: S) -> String {
    let mut found = scaling.instances().filter(|i| i.lifecycle.state() == state);
    let id = found.next().unwrap_or_else(|| panic!("none in {state}")).id.clone();
    assert!(found.next().is_none(), "more than one in {state}");
    id
}

fn target(scaling: &Scaling, id: &str) -> Option<&'static str> {
    scaling.instance(id).unwrap().lifecycle.target()
}

fn complete(scaling: &mut Scaling, id: &str, name: ActionName<'_>, result: ActionResult) {
    scaling.complete(GROUP, Some(id), name, result, NOW).unwrap();
}

/// Returns the orders to the machine of `id`, oldest first.
fn orders(scaling: &mut Scaling, id: &str) -> Vec<&'static str> {
    let outcomes = scaling.take_outcomes();
    let order = |outcome: &Outcome| match outcome {
        Outcome::Launch(launch) if launch.instance_id == id => Some("launch"),
        Outcome::Stop(it) if it == id => Some("stop"),
        Outcome::Start(it) if it == id => Some("start"),
        Outcome::PowerOff(it) if it == id => Some("power off"),
        _ => None,
    };
    outcomes.iter().filter_map(order).collect()
}

#[test]
fn the_launch_hook_fires_on_the_way_into_the_pool_and_out_of_it() {
    let mut scaling = scaling(PoolState::Stopped);
    let id = only(&scaling, S::WarmedPendingWait);
    assert_eq!(target(&scaling, &id), Some("Warmed:Stopped"));
    complete(&mut scaling, &id, READY, ActionResult::Continue);
    assert_eq!(states(&scaling), [S::InService, S::WarmedStopped]);
    assert_eq!(orders(&mut scaling, &id), ["launch", "stop"]);

    scaling.set_desired(GROUP, 2, NOW).unwrap();
    assert_eq!(only(&scaling, S::PendingWait), id, "the pool is used before a launch");
    assert_eq!(target(&scaling, &id), Some("InService"));
    assert_eq!(orders(&mut scaling, &id), ["start"]);
    assert_ne!(only(&scaling, S::WarmedPendingWait), id, "the pool is filled up again");
    complete(&mut scaling, &id, READY, ActionResult::Continue);
    assert_eq!(states(&scaling), [S::InService, S::InService, S::WarmedPendingWait]);
}

#[test]
fn a_running_pool_stops_nothing_and_the_metadata_changes_with_the_hook() {
    let mut scaling = scaling(PoolState::Running);
    let id = only(&scaling, S::WarmedPendingWait);
    complete(&mut scaling, &id, READY, ActionResult::Continue);
    assert_eq!(target(&scaling, &id), Some("Warmed:Running"));
    scaling.timing.launching = Duration::from_secs(5);
    scaling.set_desired(GROUP, 2, NOW).unwrap();
    assert_eq!(only(&scaling, S::Pending), id);
    assert_eq!(target(&scaling, &id), Some("Warmed:Running"), "stays until the hook starts");
    scaling.tick(NOW + Duration::from_secs(5));
    assert_eq!(target(&scaling, &id), Some("InService"));
    assert_eq!(orders(&mut scaling, &id), ["launch"]);
}

#[test]
fn an_instance_that_is_too_much_in_the_group_returns_by_its_termination_hook() {
    let mut scaling = scaling(PoolState::Stopped);
    let pooled = only(&scaling, S::WarmedPendingWait);
    complete(&mut scaling, &pooled, READY, ActionResult::Continue);
    let spec = WarmPoolSpec { min_size: 0, reuse: true, ..pool(PoolState::Stopped) };
    scaling.put_warm_pool(GROUP, spec, NOW).unwrap();
    scaling.set_desired(GROUP, 2, NOW).unwrap();
    complete(&mut scaling, &pooled, READY, ActionResult::Continue);
    assert_eq!(states(&scaling), [S::InService; 2]);

    scaling.set_desired(GROUP, 1, NOW).unwrap();
    let back = only(&scaling, S::WarmedPendingWait);
    assert_ne!(back, pooled, "scale-in takes the oldest");
    assert_eq!(target(&scaling, &back), Some("Warmed:Stopped"));
    assert!(scaling.complete(GROUP, Some(&back), READY, ActionResult::Continue, NOW).is_err());
    let drain = ActionName { hook: "drain", token: None };
    complete(&mut scaling, &back, drain, ActionResult::Continue);
    assert_eq!(only(&scaling, S::WarmedStopped), back);
    assert_eq!(orders(&mut scaling, &back), ["launch", "stop"]);

    scaling.set_desired(GROUP, 2, NOW).unwrap();
    assert_eq!(only(&scaling, S::PendingWait), back);
    complete(&mut scaling, &back, READY, ActionResult::Continue);
    assert_eq!(states(&scaling), [S::InService; 2]);
}

#[test]
fn what_is_too_much_in_the_pool_goes_by_its_hook() {
    let mut scaling = scaling(PoolState::Running);
    let id = only(&scaling, S::WarmedPendingWait);
    scaling.delete_warm_pool(GROUP, false, NOW).unwrap();
    assert_eq!(only(&scaling, S::WarmedTerminatingWait), id);
    assert_eq!(target(&scaling, &id), Some("Warmed:Terminated"));
    assert!(scaling.group(GROUP).unwrap().warm_pool.is_some());
    let drain = ActionName { hook: "drain", token: None };
    complete(&mut scaling, &id, drain, ActionResult::Continue);
    assert_eq!(states(&scaling), [S::InService]);
    assert_eq!(orders(&mut scaling, &id), ["launch", "power off"]);
    assert!(scaling.group(GROUP).unwrap().warm_pool.is_none());
}

#[test]
fn an_abandoned_instance_of_the_pool_is_replaced_in_the_pool() {
    let mut scaling = scaling(PoolState::Stopped);
    scaling.delete_hook(GROUP, "drain").unwrap();
    let id = only(&scaling, S::WarmedPendingWait);
    complete(&mut scaling, &id, READY, ActionResult::Abandon);
    assert_eq!(orders(&mut scaling, &id), ["launch", "power off"]);
    assert_eq!(states(&scaling), [S::InService, S::WarmedPendingWait]);
    assert_ne!(only(&scaling, S::WarmedPendingWait), id);
}

#[test]
fn the_pool_has_what_is_prepared_beyond_the_desired_capacity() {
    let mut scaling = scaling(PoolState::Stopped);
    let size = |scaling: &Scaling| scaling.pooled(GROUP).len();
    scaling.put_warm_pool(GROUP, WarmPoolSpec::default(), NOW).unwrap();
    assert_eq!(size(&scaling), 3, "up to the group's maximum of 4");
    scaling.delete_warm_pool(GROUP, true, NOW).unwrap();
    assert_eq!(states(&scaling), [S::InService], "force waits for no hook");
    assert!(scaling.delete_warm_pool(GROUP, false, NOW).is_err());
    scaling.put_warm_pool(GROUP, pool(PoolState::Stopped), NOW).unwrap();
    scaling.set_desired(GROUP, 4, NOW).unwrap();
    assert_eq!(size(&scaling), 1, "never below its own minimum");
}
