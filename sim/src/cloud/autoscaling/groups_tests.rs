use std::net::Ipv4Addr;

use super::super::action::ActionName;
use super::super::scaling::Outcome;
use super::super::states::{ActionResult, Transition};
use super::*;
use crate::cloud::specs::CloudOptions;

const NOW: Duration = Duration::from_secs(100);

fn scaling(desired: u32) -> Scaling {
    let options = CloudOptions {
        region: "eu-central-1".to_owned(),
        zones: vec!["eu-central-1a".to_owned(), "eu-central-1b".to_owned()],
        subnet: (Ipv4Addr::new(10, 0, 0, 0), 24),
        seed: 1,
    };
    let mut scaling = Scaling::new(&options).unwrap();
    let spec = GroupSpec {
        name: "workers".to_owned(),
        min: 1,
        max: 5,
        desired,
        stack: Some(("demo".to_owned(), "Workers".to_owned())),
        ..GroupSpec::default()
    };
    scaling.create_group(spec, vec![], vec![], Some("arn:stack".to_owned()), NOW).unwrap();
    scaling
}

fn drain(scaling: &mut Scaling, result: ActionResult) {
    let hook = HookSpec::new("workers", "drain", Transition::Terminating);
    scaling.put_hook(hook.timeout(Duration::from_secs(30), result)).unwrap();
}

fn oldest(scaling: &Scaling) -> String {
    let instance = scaling.instances().min_by_key(|i| i.sequence).unwrap();
    instance.id.clone()
}

fn states(scaling: &Scaling) -> Vec<LifecycleState> {
    let mut instances: Vec<_> = scaling.instances().collect();
    instances.sort_by_key(|i| i.sequence);
    instances.iter().map(|i| i.lifecycle.state()).collect()
}

fn replaced(outcomes: &[Outcome]) -> Vec<(String, String)> {
    outcomes
        .iter()
        .filter_map(|outcome| match outcome {
            Outcome::Event(EventKind::Replaced { old, new, .. }) => {
                Some((old.clone(), new.clone()))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn launches_are_spread_over_the_zones_and_tagged() {
    let mut scaling = scaling(4);
    let mut zones: Vec<_> = scaling.instances().map(|i| i.zone.clone()).collect();
    zones.sort();
    zones.dedup();
    assert_eq!(zones.len(), 2);
    let launches: Vec<_> = scaling
        .take_outcomes()
        .into_iter()
        .filter_map(|outcome| match outcome {
            Outcome::Launch(launch) => Some(launch),
            _ => None,
        })
        .collect();
    assert_eq!(launches.len(), 4);
    let tags = &launches[0].tags;
    assert_eq!(tags["aws:autoscaling:groupName"], "workers");
    assert_eq!(tags["aws:cloudformation:stack-name"], "demo");
    assert_eq!(tags["aws:cloudformation:logical-id"], "Workers");
    assert_eq!(tags["aws:cloudformation:stack-id"], "arn:stack");
}

#[test]
fn scaling_in_takes_the_oldest_and_waits_for_its_hook() {
    let mut scaling = scaling(3);
    drain(&mut scaling, ActionResult::Continue);
    let first = oldest(&scaling);
    scaling.set_desired("workers", 2, NOW).unwrap();
    assert_eq!(
        states(&scaling),
        [LifecycleState::TerminatingWait, LifecycleState::InService, LifecycleState::InService]
    );
    let name = ActionName { hook: "drain", token: None };
    scaling.complete("workers", Some(&first), name, ActionResult::Continue, NOW).unwrap();
    assert!(scaling.instance(&first).is_none());
    let again = scaling.complete("workers", Some(&first), name, ActionResult::Continue, NOW);
    assert_eq!(
        again.unwrap_err(),
        ApiError::validation(format!("No active Lifecycle Action found with instance ID {first}"))
    );
    assert_eq!(scaling.instances().count(), 2);
}

#[test]
fn a_terminated_instance_is_replaced_at_once_unless_decremented() {
    let mut scaling = scaling(2);
    drain(&mut scaling, ActionResult::Continue);
    scaling.take_outcomes();
    let first = oldest(&scaling);
    scaling.terminate(&first, false, "test", NOW).unwrap();
    assert_eq!(scaling.instances().count(), 3);
    let outcomes = scaling.take_outcomes();
    assert_eq!(replaced(&outcomes).len(), 1);
    assert_eq!(replaced(&outcomes)[0].0, first);

    let second = scaling
        .instances()
        .find(|i| i.lifecycle.state() == LifecycleState::InService)
        .map(|i| i.id.clone())
        .unwrap();
    scaling.terminate(&second, true, "test", NOW).unwrap();
    assert_eq!(scaling.group("workers").unwrap().spec.desired, 1);
    assert_eq!(scaling.instances().count(), 3);
    let third = scaling
        .instances()
        .find(|i| i.lifecycle.state() == LifecycleState::InService)
        .map(|i| i.id.clone())
        .unwrap();
    let refused = scaling.terminate(&third, true, "test", NOW).unwrap_err();
    assert!(refused.message.contains("desiredSize equals minSize (1)"));
}

#[test]
fn a_hook_that_times_out_gives_way_and_abandoned_launches_are_replaced() {
    let mut scaling = scaling(1);
    let hook = HookSpec::new("workers", "ready", Transition::Launching);
    scaling.put_hook(hook.timeout(Duration::from_secs(30), ActionResult::Abandon)).unwrap();
    scaling.set_desired("workers", 2, NOW).unwrap();
    scaling.take_outcomes();
    let deadline = NOW + Duration::from_secs(30);
    assert_eq!(scaling.next_deadline(), Some(deadline));
    scaling.tick(deadline);
    let outcomes = scaling.take_outcomes();
    assert_eq!(replaced(&outcomes).len(), 1);
    assert_eq!(states(&scaling), [LifecycleState::InService, LifecycleState::PendingWait]);
}

#[test]
fn a_reclaimed_or_crashed_instance_waits_for_no_hook_and_is_replaced() {
    let mut scaling = scaling(1);
    drain(&mut scaling, ActionResult::Continue);
    let first = oldest(&scaling);
    scaling.take_outcomes();
    scaling.vanish(&first, NOW);
    let outcomes = scaling.take_outcomes();
    assert_eq!(replaced(&outcomes)[0].0, first);
    let powered_off =
        outcomes.iter().any(|outcome| matches!(outcome, Outcome::PowerOff(id) if *id == first));
    assert!(powered_off);
    assert_eq!(states(&scaling), [LifecycleState::InService]);
}

#[test]
fn standby_with_a_decrement_launches_nothing_and_comes_back() {
    let mut scaling = scaling(2);
    let first = [oldest(&scaling)];
    scaling.enter_standby("workers", &first, true, NOW).unwrap();
    assert_eq!(scaling.instances().count(), 2);
    assert!(scaling.exit_standby("workers", &["i-0".to_owned()], NOW).is_err());
    scaling.exit_standby("workers", &first, NOW).unwrap();
    assert_eq!(scaling.group("workers").unwrap().spec.desired, 2);
    assert_eq!(states(&scaling), [LifecycleState::InService; 2]);
    scaling.enter_standby("workers", &first, false, NOW).unwrap();
    assert_eq!(scaling.instances().count(), 3, "its place is filled");
}

#[test]
fn deleting_a_group_needs_force_while_it_has_instances() {
    let mut scaling = scaling(2);
    drain(&mut scaling, ActionResult::Continue);
    let refused = scaling.delete_group("workers", false, NOW).unwrap_err();
    assert_eq!(refused.code, "ResourceInUse");
    scaling.delete_group("workers", true, NOW).unwrap();
    assert_eq!(scaling.instances().count(), 0);
}

#[test]
fn a_protected_instance_is_left_alone_by_scale_in_and_by_nothing_else() {
    let mut scaling = scaling(3);
    let first = oldest(&scaling);
    scaling.set_protection("workers", std::slice::from_ref(&first), true, NOW).unwrap();
    scaling.set_desired("workers", 2, NOW).unwrap();
    assert!(scaling.instance(&first).is_some(), "the next oldest one is terminated");
    let rest: Vec<String> = scaling.instances().map(|it| it.id.clone()).collect();
    assert_eq!(rest.len(), 2);
    scaling.set_protection("workers", &rest, true, NOW).unwrap();
    scaling.set_desired("workers", 1, NOW).unwrap();
    assert_eq!(scaling.instances().count(), 2, "more than the desired capacity");
    scaling.set_protection("workers", &rest[..1], false, NOW).unwrap();
    assert_eq!(scaling.instances().map(|it| it.id.clone()).collect::<Vec<_>>(), rest[1..]);
    scaling.set_health(&rest[1], false, NOW).unwrap();
    assert!(scaling.instance(&rest[1]).is_none(), "it was unhealthy");

    let unknown = scaling.set_protection("workers", &["i-9".to_owned()], true, NOW).unwrap_err();
    assert!(unknown.message.contains("i-9"), "{unknown:?}");
    assert!(scaling.set_protection("workers", &[], true, NOW).is_err());
    drain(&mut scaling, ActionResult::Continue);
    let next = oldest(&scaling);
    scaling.terminate(&next, false, "a test", NOW).unwrap();
    let leaving = scaling.set_protection("workers", &[next], true, NOW).unwrap_err();
    assert!(leaving.message.contains("is not in InService"), "{leaving:?}");
}
