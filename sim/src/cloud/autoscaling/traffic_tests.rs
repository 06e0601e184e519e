use std::net::Ipv4Addr;

use super::super::action::ActionName;
use super::super::refresh::RefreshSpec;
use super::super::states::{ActionResult, LifecycleState as S, PoolState, Transition};
use super::*;
use crate::cloud::elb::{TargetGroupSpec, TargetState};
use crate::cloud::specs::{CloudOptions, GroupSpec, HookSpec, WarmPoolSpec};

const SECOND: Duration = Duration::from_secs(1);
const NOW: Duration = Duration::from_secs(100);
const DRAIN: ActionName<'_> = ActionName { hook: "drain", token: None };

struct Bench {
    scaling: Scaling,
    /// The ARNs of the target groups, with deregistration delays of 30 s and 60 s.
    arns: Vec<String>,
}

impl Bench {
    /// Creates a group of two behind two target groups that listeners forward to.
    fn new(health_check_type: HealthCheckType) -> Self {
        let mut scaling = Scaling::new(&CloudOptions {
            region: "eu-central-1".to_owned(),
            zones: vec!["eu-central-1a".to_owned()],
            subnet: (Ipv4Addr::new(10, 0, 0, 0), 24),
            seed: 1,
        })
        .unwrap();
        let arns = scaling.balance(|elb| {
            let balancer = elb.create_balancer("front", "internal", NOW).unwrap();
            let create = |(port, delay): (u16, u32)| {
                let mut spec = TargetGroupSpec::new(&format!("t-{port}"), port);
                spec.attributes.deregistration_delay = SECOND * delay;
                let arn = elb.create_group(spec).unwrap();
                elb.create_listener(&balancer, port, &arn, NOW).unwrap();
                arn
            };
            [(80, 30), (81, 60)].map(create).to_vec()
        });
        let spec = GroupSpec {
            name: "workers".to_owned(),
            max: 5,
            desired: 2,
            target_group_arns: arns.clone(),
            health_check_type,
            health_check_grace: SECOND * 50,
            ..GroupSpec::default()
        };
        let hook = HookSpec::new("workers", "drain", Transition::Terminating);
        scaling.create_group(spec, vec![], vec![hook], None, NOW).unwrap();
        Self { scaling, arns }
    }

    fn oldest(&self) -> String {
        let instance = self.scaling.instances().min_by_key(|i| i.sequence).unwrap();
        instance.id.clone()
    }

    fn state(&self, id: &str) -> Option<S> {
        self.scaling.instance(id).map(|instance| instance.lifecycle.state())
    }

    /// Returns the states of an instance in the target groups.
    fn targets(&self, id: &str) -> Vec<TargetState> {
        let elb = self.scaling.elb();
        let key = |arn: &str| {
            let port = elb.group(arn).unwrap().spec.port;
            TargetKey { id: id.to_owned(), port }
        };
        self.arns.iter().map(|arn| elb.group(arn).unwrap().health(&key(arn)).state).collect()
    }

    /// Reports as many checks of an instance as change its state.
    fn check(&mut self, id: &str, passed: bool, now: Duration) {
        for it in self.scaling.elb().to_check().into_iter().filter(|it| it.key.id == id) {
            for _ in 0..it.check.healthy_threshold {
                self.scaling.balance(|elb| elb.checked(&it, passed, now));
            }
        }
        self.scaling.replace_unhealthy(now);
    }

    fn heartbeat(&mut self, id: &str, now: Duration) -> Result<(), String> {
        let beat = self.scaling.heartbeat("workers", Some(id), DRAIN, now);
        beat.map_err(|error| error.message)
    }
}

#[test]
fn the_hooks_of_a_termination_wait_for_the_last_deregistration() {
    let mut bench = Bench::new(HealthCheckType::Ec2);
    let id = bench.oldest();
    assert_eq!(bench.targets(&id), [TargetState::Initial; 2]);
    bench.check(&id, true, NOW);
    assert_eq!(bench.targets(&id), [TargetState::Healthy; 2]);

    bench.scaling.set_desired("workers", 1, NOW).unwrap();
    for (elapsed, targets) in [
        (0, [TargetState::Draining; 2]),
        (29, [TargetState::Draining; 2]),
        (30, [TargetState::Unused, TargetState::Draining]),
        (59, [TargetState::Unused, TargetState::Draining]),
    ] {
        let now = NOW + SECOND * elapsed;
        bench.scaling.tick(now);
        assert_eq!((bench.state(&id), bench.targets(&id)), (Some(S::Terminating), targets.into()));
        let metadata = bench.scaling.instance(&id).unwrap().lifecycle.target();
        assert_eq!(metadata, Some("Terminated"));
        let refused = bench.heartbeat(&id, now).unwrap_err();
        assert_eq!(refused, format!("No active Lifecycle Action found with instance ID {id}"));
        let activity = bench.scaling.activities.last().unwrap();
        assert_eq!(activity.status.as_str(), "WaitingForELBConnectionDraining");
        assert!(bench.scaling.next_deadline().unwrap() > now, "the deadline has passed");
    }
    let end = NOW + SECOND * 60;
    assert_eq!(bench.scaling.next_deadline(), Some(end));
    bench.scaling.tick(end);
    assert_eq!(bench.state(&id), Some(S::TerminatingWait));
    assert_eq!(bench.targets(&id), [TargetState::Unused; 2]);
    bench.heartbeat(&id, end).unwrap();
    bench.scaling.complete("workers", Some(&id), DRAIN, ActionResult::Continue, end).unwrap();
    assert_eq!(bench.state(&id), None);
}

#[test]
fn the_longer_of_auto_scalings_own_delay_and_the_deregistration_counts() {
    let mut bench = Bench::new(HealthCheckType::Ec2);
    bench.scaling.timing.terminating = SECOND * 90;
    let id = bench.oldest();
    bench.scaling.set_desired("workers", 1, NOW).unwrap();
    bench.scaling.tick(NOW + SECOND * 89);
    assert_eq!(bench.state(&id), Some(S::Terminating));
    bench.scaling.tick(NOW + SECOND * 90);
    assert_eq!(bench.state(&id), Some(S::TerminatingWait));
}

#[test]
fn without_a_delay_or_a_target_group_hooks_start_at_once() {
    let mut bench = Bench::new(HealthCheckType::Ec2);
    for arn in bench.arns.clone() {
        bench.scaling.balance(|elb| {
            let mut attributes = elb.group(&arn).unwrap().spec.attributes;
            attributes.deregistration_delay = Duration::ZERO;
            elb.set_attributes(&arn, attributes, NOW).unwrap();
        });
    }
    let first = bench.oldest();
    bench.scaling.terminate(&first, true, "test", NOW).unwrap();
    assert_eq!(bench.state(&first), Some(S::TerminatingWait));

    let mut bench = Bench::new(HealthCheckType::Ec2);
    bench.scaling.detach_target_groups("workers", &bench.arns, NOW).unwrap();
    let first = bench.oldest();
    assert_eq!(bench.targets(&first), [TargetState::Draining; 2]);
    bench.scaling.terminate(&first, true, "test", NOW).unwrap();
    assert_eq!(bench.state(&first), Some(S::TerminatingWait));
}

#[test]
fn detaching_and_registering_by_hand_end_the_wait() {
    let mut bench = Bench::new(HealthCheckType::Ec2);
    let id = bench.oldest();
    bench.scaling.set_desired("workers", 1, NOW).unwrap();
    let address = bench.scaling.instance(&id).unwrap().address;
    let first = bench.arns[0].clone();
    bench.scaling.balance(|elb| elb.register(&first, &id, None, address, NOW)).unwrap();
    assert_eq!(bench.targets(&id), [TargetState::Initial, TargetState::Draining]);
    bench.scaling.detach_target_groups("workers", &bench.arns[1..], NOW).unwrap();
    assert_eq!(bench.state(&id), Some(S::TerminatingWait));
    bench.scaling.complete("workers", Some(&id), DRAIN, ActionResult::Continue, NOW).unwrap();
    assert_eq!(bench.targets(&id), [TargetState::Unused; 2], "a terminated instance is gone");
}

#[test]
fn standby_deregisters_and_service_registers_again() {
    let mut bench = Bench::new(HealthCheckType::Ec2);
    let id = bench.oldest();
    bench.scaling.enter_standby("workers", std::slice::from_ref(&id), true, NOW).unwrap();
    assert_eq!(bench.targets(&id), [TargetState::Draining; 2]);
    bench.scaling.exit_standby("workers", std::slice::from_ref(&id), NOW).unwrap();
    assert_eq!(bench.targets(&id), [TargetState::Initial; 2]);
}

#[test]
fn a_return_to_the_warm_pool_waits_for_the_deregistration_and_a_launch_does_not() {
    let mut bench = Bench::new(HealthCheckType::Ec2);
    let pool =
        WarmPoolSpec { min_size: 0, max_prepared: Some(3), state: PoolState::Running, reuse: true };
    bench.scaling.put_warm_pool("workers", pool, NOW).unwrap();
    let pooled = |it: &&Instance| it.lifecycle.state() == S::WarmedRunning;
    let prepared = bench.scaling.instances().find(pooled).unwrap().id.clone();
    assert_eq!(bench.targets(&prepared), [TargetState::Unused; 2]);
    let id = bench.oldest();
    bench.scaling.set_desired("workers", 1, NOW).unwrap();
    assert_eq!(bench.state(&id), Some(S::WarmedPending));
    assert_eq!(bench.targets(&id), [TargetState::Draining; 2]);
    bench.scaling.tick(NOW + SECOND * 60);
    assert_eq!(bench.state(&id), Some(S::WarmedPendingWait));
}

#[test]
fn an_unhealthy_instance_is_replaced_after_the_grace_period() {
    for of_type in [HealthCheckType::Ec2, HealthCheckType::Elb] {
        let mut bench = Bench::new(of_type);
        let id = bench.oldest();
        let grace = NOW + SECOND * 50;
        bench.check(&id, false, grace - SECOND);
        assert_eq!(bench.targets(&id), [TargetState::Unhealthy; 2]);
        assert_eq!(bench.state(&id), Some(S::InService));
        bench.scaling.tick(grace);
        let expected = if of_type == HealthCheckType::Elb { S::Terminating } else { S::InService };
        assert_eq!(bench.state(&id), Some(expected));
        let healthy = bench.scaling.instances().filter(|it| it.healthy).count();
        assert_eq!(healthy, 2);
    }
}

#[test]
fn a_target_group_that_was_attached_later_counts_from_its_first_healthy_target_on() {
    let mut bench = Bench::new(HealthCheckType::Elb);
    let now = NOW + SECOND * 60;
    let arns = bench.arns.clone();
    bench.scaling.detach_target_groups("workers", &arns, NOW).unwrap();
    bench.scaling.attach_target_groups("workers", &arns, now).unwrap();
    let mut ids: Vec<String> = bench.scaling.instances().map(|it| it.id.clone()).collect();
    let (bad, good) = (ids.remove(0), ids.remove(0));
    bench.check(&bad, false, now);
    assert_eq!(bench.state(&bad), Some(S::InService));
    bench.check(&good, true, now);
    assert_eq!(bench.state(&bad), Some(S::Terminating));
    let unknown = bench.scaling.attach_target_groups("workers", &["arn:none".to_owned()], now);
    assert!(unknown.unwrap_err().message.contains("may not be valid"));
}

#[test]
fn a_new_root_volume_waits_for_the_deregistration_and_is_registered_again() {
    let mut bench = Bench::new(HealthCheckType::Ec2);
    let id = bench.oldest();
    bench.check(&id, true, NOW);
    let spec = RefreshSpec::root_volumes(&GroupSpec::default().instance_type, "ami-2");
    bench.scaling.start_refresh("workers", spec, NOW).unwrap();
    for elapsed in [0, 59] {
        bench.scaling.tick(NOW + SECOND * elapsed);
        assert_eq!(bench.state(&id), Some(S::ReplacingRootVolume));
        assert!(bench.heartbeat(&id, NOW + SECOND * elapsed).is_err());
    }
    let now = NOW + SECOND * 60;
    bench.scaling.tick(now);
    assert_eq!(bench.state(&id), Some(S::ReplacingRootVolumeWait));
    assert_eq!(bench.targets(&id), [TargetState::Unused; 2]);
    let result = ActionResult::Continue;
    bench.scaling.complete("workers", Some(&id), DRAIN, result, now).unwrap();
    bench.scaling.root_volume_is_replaced(&id, Ok(()), now);
    assert_eq!(bench.state(&id), Some(S::InService));
    assert_eq!(bench.targets(&id), [TargetState::Initial; 2]);
}
