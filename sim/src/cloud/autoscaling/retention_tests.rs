use std::net::Ipv4Addr;
use std::time::Duration;

use super::super::action::ActionName;
use super::super::activities::Status;
use super::super::states::{ActionResult, LifecycleState as S, PoolState, Transition};
use super::*;
use crate::cloud::specs::{CloudOptions, GroupSpec, HookSpec, WarmPoolSpec};

const NOW: Duration = Duration::from_secs(100);
const GROUP: &str = "workers";
const DRAIN: ActionName<'_> = ActionName { hook: "drain", token: None };
const TIMEOUT: Duration = Duration::from_secs(30);

/// Returns a group of one instance that retains it, with this default result of its termination hook.
fn scaling(default_result: ActionResult) -> (Scaling, String) {
    let options = CloudOptions {
        region: "eu-central-1".to_owned(),
        zones: vec!["eu-central-1a".to_owned()],
        subnet: (Ipv4Addr::new(10, 0, 0, 0), 24),
        seed: 1,
    };
    let mut scaling = Scaling::new(&options).unwrap();
    let spec = GroupSpec {
        name: GROUP.to_owned(),
        max: 4,
        desired: 1,
        retain_abandoned: true,
        ..GroupSpec::default()
    };
    let hook = HookSpec::new(GROUP, "drain", Transition::Terminating);
    let hook = hook.timeout(TIMEOUT, default_result);
    scaling.create_group(spec, vec![], vec![hook], None, NOW).unwrap();
    let id = scaling.instances().next().unwrap().id.clone();
    (scaling, id)
}

fn state(scaling: &Scaling, id: &str) -> Option<S> {
    scaling.instance(id).map(|it| it.lifecycle.state())
}

fn complete(scaling: &mut Scaling, id: &str, result: ActionResult) {
    scaling.complete(GROUP, Some(id), DRAIN, result, NOW).unwrap();
}

fn terminate(scaling: &mut Scaling, id: &str, decrement: bool) -> Result<(), ApiError> {
    scaling.terminate(id, decrement, "by hand", NOW).map(drop)
}

#[test]
fn an_abandoned_instance_is_retained_beside_its_replacement_until_it_is_terminated() {
    let (mut scaling, id) = scaling(ActionResult::Continue);
    terminate(&mut scaling, &id, false).unwrap();
    complete(&mut scaling, &id, ActionResult::Abandon);
    assert_eq!(state(&scaling, &id), Some(S::TerminatingRetained));
    assert_eq!(scaling.instance(&id).unwrap().lifecycle.target(), Some("Terminated"));
    let activity = scaling.instance(&id).unwrap().activity;
    assert_eq!(scaling.activities[activity].status, Status::Cancelled);
    assert_eq!(scaling.instances().count(), 2);
    scaling.tick(NOW + Duration::from_secs(86_400));
    assert_eq!(scaling.instances().count(), 2, "it stays");

    assert!(terminate(&mut scaling, &id, true).is_err(), "it does not count");
    assert!(scaling.set_health(&id, false, NOW).is_ok());
    assert_eq!(state(&scaling, &id), Some(S::TerminatingRetained));
    assert_eq!(scaling.delete_group(GROUP, true, NOW).unwrap_err().code, "ResourceInUse");
    terminate(&mut scaling, &id, false).unwrap();
    assert_eq!(state(&scaling, &id), Some(S::TerminatingWait), "the hooks run again");
    complete(&mut scaling, &id, ActionResult::Abandon);
    assert_eq!(state(&scaling, &id), Some(S::TerminatingRetained));
    terminate(&mut scaling, &id, false).unwrap();
    complete(&mut scaling, &id, ActionResult::Continue);
    assert_eq!((state(&scaling, &id), scaling.instances().count()), (None, 1));
    assert!(scaling.delete_group(GROUP, true, NOW).is_ok());
}

#[test]
fn a_hook_that_times_out_retains_by_its_default_result() {
    for (default_result, left) in
        [(ActionResult::Abandon, Some(S::TerminatingRetained)), (ActionResult::Continue, None)]
    {
        let (mut scaling, id) = scaling(default_result);
        terminate(&mut scaling, &id, false).unwrap();
        scaling.tick(NOW + TIMEOUT);
        assert_eq!(state(&scaling, &id), left);
    }
}

#[test]
fn heartbeats_up_to_the_global_timeout_retain_by_the_default_result() {
    let (mut scaling, id) = scaling(ActionResult::Abandon);
    terminate(&mut scaling, &id, false).unwrap();
    let end = TIMEOUT * 100;
    let mut at = Duration::ZERO;
    while at < end - TIMEOUT {
        at += TIMEOUT / 2;
        scaling.heartbeat(GROUP, Some(&id), DRAIN, NOW + at).unwrap();
    }
    scaling.heartbeat(GROUP, Some(&id), DRAIN, NOW + end - TIMEOUT / 2).unwrap();
    assert_eq!(state(&scaling, &id), Some(S::TerminatingWait));
    scaling.tick(NOW + end);
    assert_eq!(state(&scaling, &id), Some(S::TerminatingRetained));
}

#[test]
fn without_the_policy_an_abandoned_instance_is_terminated() {
    let (mut scaling, id) = scaling(ActionResult::Abandon);
    scaling.set_retention(GROUP, false).unwrap();
    terminate(&mut scaling, &id, false).unwrap();
    complete(&mut scaling, &id, ActionResult::Abandon);
    assert_eq!(state(&scaling, &id), None);
}

#[test]
fn the_way_back_into_the_warm_pool_and_out_of_it_retains_too() {
    let (mut scaling, _) = scaling(ActionResult::Abandon);
    let pool = WarmPoolSpec { state: PoolState::Running, reuse: true, ..WarmPoolSpec::default() };
    scaling.put_warm_pool(GROUP, pool, NOW).unwrap();
    scaling.set_desired(GROUP, 2, NOW).unwrap();
    scaling.set_desired(GROUP, 1, NOW).unwrap();
    let find = |scaling: &Scaling, wanted: S| {
        let mut found = scaling.instances().filter(|it| it.lifecycle.state() == wanted);
        found.next().unwrap_or_else(|| panic!("none in {wanted}")).id.clone()
    };
    let back = find(&scaling, S::WarmedPendingWait);
    complete(&mut scaling, &back, ActionResult::Abandon);
    assert_eq!(state(&scaling, &back), Some(S::WarmedPendingRetained));
    assert_eq!(scaling.instance(&back).unwrap().lifecycle.target(), Some("Warmed:Running"));

    let pooled = find(&scaling, S::WarmedRunning);
    terminate(&mut scaling, &pooled, false).unwrap();
    complete(&mut scaling, &pooled, ActionResult::Abandon);
    assert_eq!(state(&scaling, &pooled), Some(S::WarmedTerminatingRetained));
    for id in [back, pooled] {
        terminate(&mut scaling, &id, false).unwrap();
        assert_eq!(state(&scaling, &id), Some(S::WarmedTerminatingWait));
        complete(&mut scaling, &id, ActionResult::Continue);
        assert_eq!(state(&scaling, &id), None);
    }
}
