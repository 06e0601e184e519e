use std::net::Ipv4Addr;
use std::slice::from_ref;

use super::super::action::ActionName;
use super::super::groups::Sizes;
use super::super::states::Process;
use super::super::states::{ActionResult, LifecycleState as S, Transition};
use super::*;
use crate::cloud::elb::TargetGroupSpec;
use crate::cloud::specs::{CloudOptions, GroupSpec, HookSpec};

const NOW: Duration = Duration::from_secs(100);
const SECOND: Duration = Duration::from_secs(1);
const READY: ActionName<'_> = ActionName { hook: "ready", token: None };
const DRAIN: ActionName<'_> = ActionName { hook: "drain", token: None };

/// Returns the groups `workers` (two instances, behind a target group with a delay of 30 s) and `other` (none), both with
/// hooks.
fn scaling() -> Scaling {
    let mut scaling = Scaling::new(&CloudOptions {
        region: "eu-central-1".to_owned(),
        zones: vec!["a".to_owned(), "b".to_owned()],
        subnet: (Ipv4Addr::new(10, 0, 0, 0), 24),
        seed: 1,
    })
    .unwrap();
    let arn = scaling.balance(|elb| {
        let mut spec = TargetGroupSpec::new("web", 80);
        spec.attributes.deregistration_delay = SECOND * 30;
        let arn = elb.create_group(spec).unwrap();
        let balancer = elb.create_balancer("front", "internal", NOW).unwrap();
        elb.create_listener(&balancer, 80, &arn, NOW).unwrap();
        arn
    });
    for (name, desired, arns) in [("workers", 2, vec![arn]), ("other", 0, vec![])] {
        let spec = GroupSpec {
            name: name.to_owned(),
            max: 2,
            desired,
            tags: [("owner".to_owned(), name.to_owned())].into(),
            target_group_arns: arns,
            ..GroupSpec::default()
        };
        scaling.create_group(spec, vec![], vec![], None, NOW).unwrap();
    }
    for (name, transition) in [("ready", Transition::Launching), ("drain", Transition::Terminating)]
    {
        for group in ["workers", "other"] {
            scaling.put_hook(HookSpec::new(group, name, transition)).unwrap();
        }
    }
    scaling.take_outcomes();
    scaling
}

fn oldest(scaling: &Scaling) -> String {
    scaling.members("workers")[0].id.clone()
}

/// Returns the instances that were given to EC2.
fn released(scaling: &mut Scaling) -> Vec<Instance> {
    let outcomes = scaling.take_outcomes().into_iter();
    let instance = |outcome| match outcome {
        Outcome::Released(Released(instance)) => Some(*instance),
        _ => None,
    };
    outcomes.filter_map(instance).collect()
}

fn state(scaling: &Scaling, id: &str) -> Option<S> {
    scaling.instance(id).map(|it| it.lifecycle.state())
}

#[test]
fn an_instance_is_detached_without_hooks_once_it_is_deregistered() {
    let mut scaling = scaling();
    let id = oldest(&scaling);
    let activities = scaling.detach("workers", from_ref(&id), true, NOW).unwrap();
    assert_eq!(activities[0].description, format!("Detaching EC2 instance: {id}"));
    assert_eq!(state(&scaling, &id), Some(S::Detaching));
    assert_eq!(scaling.instance(&id).unwrap().lifecycle.target(), Some("Detached"));
    assert!(scaling.instance(&id).unwrap().lifecycle.actions().is_empty());
    assert!(scaling.heartbeat("workers", Some(&id), DRAIN, NOW).is_err());
    let again = scaling.detach("workers", from_ref(&id), false, NOW);
    assert!(again.unwrap_err().message.contains("not in InService or Standby"));
    scaling.tick(NOW + SECOND * 29);
    assert_eq!(state(&scaling, &id), Some(S::Detaching));
    scaling.tick(NOW + SECOND * 30);
    assert_eq!(state(&scaling, &id), None);
    let [instance] = &released(&mut scaling)[..] else { panic!("one is released") };
    assert_eq!((instance.id.as_str(), instance.group.as_str()), (id.as_str(), ""));
    assert_eq!(instance.tags.get(GROUP_TAG), None);
    assert_eq!(instance.tags["owner"], "workers", "only Auto Scaling's own tag is removed");
    assert_eq!(instance.lifecycle.target(), Some("Detached"));
    assert!(scaling.instance_at(instance.address).is_none());
    assert_eq!(scaling.group("workers").unwrap().spec.desired, 1);
    assert_eq!(scaling.members("workers").len(), 1);
}

#[test]
fn without_a_decrement_it_is_replaced() {
    let mut scaling = scaling();
    let id = oldest(&scaling);
    scaling.detach("workers", from_ref(&id), false, NOW).unwrap();
    let members = scaling.members("workers");
    assert_eq!((members.len(), state(&scaling, &members[1].id)), (2, Some(S::PendingWait)));
    let replaced = scaling.take_outcomes().into_iter().any(|outcome| {
        let kind = crate::cloud::EventKind::Replaced {
            group: "workers".to_owned(),
            old: id.clone(),
            new: members[1].id.clone(),
        };
        matches!(outcome, Outcome::Event(event) if event == kind)
    });
    assert!(replaced);
}

#[test]
fn an_instance_in_standby_is_detached_at_once() {
    let mut scaling = scaling();
    let id = oldest(&scaling);
    scaling.enter_standby("workers", from_ref(&id), true, NOW).unwrap();
    scaling.tick(NOW + SECOND * 60);
    scaling.detach("workers", &[id], false, NOW + SECOND * 60).unwrap();
    assert_eq!(released(&mut scaling).len(), 1);
}

#[test]
fn the_address_and_the_credentials_stay_those_of_the_instance() {
    let mut scaling = scaling();
    let id = oldest(&scaling);
    let instance = scaling.instance(&id).unwrap().clone();
    let key = instance.credentials.unwrap().access_key_id;
    scaling.detach("workers", from_ref(&id), false, NOW).unwrap();
    scaling.tick(NOW + SECOND * 30);
    assert_eq!(scaling.principal(&key).unwrap().instance_id, id);
    let others: Vec<Ipv4Addr> = std::iter::from_fn(|| scaling.take_address()).collect();
    assert!(!others.contains(&instance.address));
}

#[test]
fn an_attached_instance_belongs_to_its_new_group() {
    let mut scaling = scaling();
    let id = oldest(&scaling);
    scaling.detach("workers", from_ref(&id), true, NOW).unwrap();
    scaling.tick(NOW + SECOND * 30);
    let now = NOW + SECOND * 40;
    let instances = released(&mut scaling);
    scaling.check_attachment("other", &["a"], 1).unwrap();
    scaling.attach("other", instances, now).unwrap();
    assert_eq!(scaling.group("other").unwrap().spec.desired, 1);
    assert_eq!(state(&scaling, &id), Some(S::PendingWait));
    let instance = scaling.instance(&id).unwrap();
    assert_eq!((&instance.tags[GROUP_TAG][..], &instance.tags["owner"][..]), ("other", "other"));
    assert_eq!(instance.lifecycle.target(), Some("InService"));
    assert_eq!(scaling.instance_at(instance.address).map(|it| &it.id), Some(&id));
    assert!(scaling.complete("workers", Some(&id), READY, ActionResult::Continue, now).is_err());
    scaling.complete("other", Some(&id), READY, ActionResult::Continue, now).unwrap();
    assert_eq!(state(&scaling, &id), Some(S::InService));
    scaling.set_desired("other", 0, now).unwrap();
    scaling.heartbeat("other", Some(&id), DRAIN, now).unwrap();
    scaling.complete("other", Some(&id), DRAIN, ActionResult::Continue, now).unwrap();
    assert_eq!(state(&scaling, &id), None);
}

#[test]
fn a_group_takes_only_what_fits() {
    let mut scaling = scaling();
    let check = |scaling: &Scaling, group, zones: &[&str]| {
        let count = u32::try_from(zones.len()).unwrap();
        scaling.check_attachment(group, zones, count).map_err(|it| it.message)
    };
    assert!(check(&scaling, "workers", &["a"]).unwrap_err().contains("max-size=2"));
    assert!(check(&scaling, "other", &["a", "b", "a"]).unwrap_err().contains("max-size=2"));
    assert!(check(&scaling, "other", &["a", "b"]).is_ok());
    scaling.set_zones("other", vec!["b".to_owned()], NOW).unwrap();
    assert!(check(&scaling, "other", &["a"]).unwrap_err().contains("zone a"));
    scaling.suspend("other", &[Process::Launch]).unwrap();
    assert!(check(&scaling, "other", &["b"]).unwrap_err().contains("suspended"));
    assert!(check(&scaling, "none", &["b"]).unwrap_err().contains("not found"));

    let sizes = Sizes { min: Some(2), ..Sizes::default() };
    scaling.update_group("workers", sizes, NOW).unwrap();
    let id = oldest(&scaling);
    assert!(scaling.detach("workers", from_ref(&id), true, NOW).is_err(), "below the minimum");
    assert!(scaling.detach("other", from_ref(&id), true, NOW).is_err(), "of another group");
    assert!(scaling.detach("workers", &[], true, NOW).is_err());
    assert_eq!(state(&scaling, &id), Some(S::InService));
}

#[test]
fn an_instance_that_is_named_twice_is_refused() {
    let mut scaling = scaling();
    let ids = vec![oldest(&scaling); 2];
    let refused = scaling.detach("workers", &ids, true, NOW).unwrap_err();
    assert!(refused.message.contains("different"), "{refused:?}");
    assert!(scaling.enter_standby("workers", &ids, true, NOW).is_err());
    assert_eq!(scaling.group("workers").unwrap().spec.desired, 2);
}
