use std::net::Ipv4Addr;

use super::super::action::ActionName;
use super::super::states::{ActionResult, Transition};
use super::*;
use crate::cloud::cloudwatch::Metric;
use crate::cloud::specs::{CloudOptions, GroupSpec, HookSpec};
use time::macros::datetime;

const START: Duration = Duration::from_secs(1000);
const DATE: OffsetDateTime = datetime!(2026-11-30 18:00 UTC);
const MINUTE: Duration = Duration::from_secs(60);
const READY: ActionName<'_> = ActionName { hook: "ready", token: None };

/// A group of 0 to 10 with a policy that keeps a metric at 50, by AWS's pace.
struct Bench {
    scaling: Scaling,
    metrics: CloudWatch,
    now: Duration,
}

fn load() -> Metric {
    Metric::new("skep", "Load", &[("Group", "workers")])
}

fn tracking(warmup: Duration) -> PolicySpec {
    PolicySpec { warmup: Some(warmup), ..PolicySpec::new("workers", "load", load(), 50.0) }
}

impl Bench {
    fn new(desired: u32) -> Self {
        let mut scaling = Scaling::new(&CloudOptions {
            region: "eu-central-1".to_owned(),
            zones: vec!["eu-central-1a".to_owned()],
            subnet: (Ipv4Addr::new(10, 0, 0, 0), 24),
            seed: 1,
        })
        .unwrap();
        let spec =
            GroupSpec { name: "workers".to_owned(), max: 10, desired, ..GroupSpec::default() };
        scaling.create_group(spec, vec![], vec![], None, START).unwrap();
        scaling.put_policy(tracking(Duration::ZERO), START).unwrap();
        Self { scaling, metrics: CloudWatch::default(), now: START }
    }

    fn publish(&mut self, metric: &Metric, value: f64) {
        self.metrics.publish(metric, value, DATE + (self.now - START));
    }

    /// Lets minutes pass, each with this value.
    fn minutes(&mut self, minutes: u32, value: Option<f64>) {
        for _ in 0..minutes {
            if let Some(value) = value {
                self.publish(&load(), value);
            }
            self.pass();
        }
    }

    fn pass(&mut self) {
        self.now += MINUTE;
        self.scaling.tick(self.now);
        let date = DATE + (self.now - START);
        self.scaling.follow_policies(&self.metrics, date, self.now);
    }

    fn desired(&self) -> u32 {
        self.scaling.group("workers").unwrap().spec.desired
    }

    fn states(&self) -> Vec<AlarmState> {
        self.scaling.alarms().map(|alarm| alarm.state).collect()
    }
}

#[test]
fn a_scale_out_needs_three_minutes_and_is_in_proportion() {
    let mut bench = Bench::new(2);
    bench.minutes(2, Some(80.0));
    assert_eq!(bench.desired(), 2, "two minutes are too few");
    bench.minutes(1, Some(80.0));
    // 2 × 80 / 50 = 3.2
    assert_eq!(bench.desired(), 4);
    assert_eq!(bench.states(), [AlarmState::Alarm, AlarmState::Ok]);
    bench.minutes(1, Some(50.0));
    assert_eq!((bench.desired(), bench.states()[0]), (4, AlarmState::Ok), "at the target");
}

#[test]
fn a_minute_without_a_value_or_below_the_target_starts_the_count_again() {
    for interruption in [None, Some(50.0)] {
        let mut bench = Bench::new(2);
        bench.minutes(2, Some(80.0));
        bench.minutes(1, interruption);
        bench.minutes(2, Some(80.0));
        assert_eq!(bench.desired(), 2, "{interruption:?}");
    }
    let mut bench = Bench::new(2);
    bench.minutes(2, Some(80.0));
    bench.minutes(3, None);
    assert_eq!(bench.states()[0], AlarmState::InsufficientData);
    bench.minutes(30, None);
    assert_eq!(bench.states(), [AlarmState::InsufficientData; 2]);
    assert_eq!(bench.desired(), 2, "no action without data");
}

#[test]
fn a_scale_in_needs_fifteen_minutes_below_nine_tenths() {
    let mut bench = Bench::new(6);
    bench.minutes(20, Some(46.0));
    assert_eq!(bench.desired(), 6, "46 is not below 45");
    bench.minutes(14, Some(30.0));
    assert_eq!(bench.desired(), 6);
    bench.minutes(1, Some(30.0));
    // 6 × 30 / 50 = 3.6
    assert_eq!(bench.desired(), 4);
}

#[test]
fn the_desired_capacity_stays_between_the_sizes() {
    let mut bench = Bench::new(4);
    bench.minutes(3, Some(900.0));
    assert_eq!(bench.desired(), 10);
    bench.minutes(15, Some(0.0));
    assert_eq!(bench.desired(), 0);
}

#[test]
fn a_group_of_no_instances_scales_out_like_one_of_one() {
    let mut bench = Bench::new(0);
    bench.minutes(3, Some(50.0));
    assert_eq!(bench.desired(), 0, "not above the target");
    bench.minutes(3, Some(120.0));
    // 1 × 120 / 50 = 2.4
    assert_eq!(bench.desired(), 3);
}

#[test]
fn instances_that_launch_or_warm_up_do_not_count_and_delay_a_scale_in() {
    let mut bench = Bench::new(2);
    bench.minutes(10, Some(50.0));
    let hook = HookSpec::new("workers", "ready", Transition::Launching);
    bench.scaling.put_hook(hook).unwrap();
    bench.scaling.put_policy(tracking(MINUTE * 5), bench.now).unwrap();
    bench.minutes(3, Some(100.0));
    assert_eq!(bench.desired(), 4);
    bench.minutes(3, Some(100.0));
    assert_eq!(bench.desired(), 4, "two of four are still launched");
    let launched = bench.scaling.instances().filter(|it| it.lifecycle.state().is_waiting());
    for id in launched.map(|it| it.id.clone()).collect::<Vec<_>>() {
        let done = ActionResult::Continue;
        bench.scaling.complete("workers", Some(&id), READY, done, bench.now).unwrap();
    }
    bench.minutes(3, Some(100.0));
    assert_eq!(bench.desired(), 4, "two of four still warm up");
    bench.minutes(2, Some(100.0));
    assert_eq!(bench.desired(), 8, "all four count");
    bench.minutes(30, Some(10.0));
    assert_eq!(bench.desired(), 8, "a scale-out is in progress");
}

#[test]
fn instances_that_terminate_still_count_at_a_scale_in() {
    let mut bench = Bench::new(6);
    let hook = HookSpec::new("workers", "drain", Transition::Terminating);
    bench.scaling.put_hook(hook).unwrap();
    bench.minutes(15, Some(30.0));
    assert_eq!(bench.desired(), 4);
    bench.minutes(1, Some(34.0));
    // 6 × 34 / 50 = 4.08: four without the two that terminate would become three.
    assert_eq!(bench.desired(), 4);
}

#[test]
fn protected_instances_stay_after_a_scale_in() {
    let mut bench = Bench::new(4);
    let ids: Vec<String> = bench.scaling.instances().map(|it| it.id.clone()).collect();
    bench.scaling.set_protection("workers", &ids[..3], true, START).unwrap();
    bench.minutes(15, Some(10.0));
    assert_eq!(bench.desired(), 1);
    assert_eq!(bench.scaling.instances().count(), 3);
}

#[test]
fn several_policies_take_the_largest_capacity_and_agree_on_a_scale_in() {
    let mut bench = Bench::new(4);
    let other = Metric::new("skep", "Memory", &[]);
    let memory = PolicySpec::new("workers", "memory", other.clone(), 50.0);
    let memory = PolicySpec { warmup: Some(Duration::ZERO), ..memory };
    bench.scaling.put_policy(memory.clone(), START).unwrap();
    for _ in 0..15 {
        bench.publish(&other, 50.0);
        bench.minutes(1, Some(10.0));
    }
    assert_eq!(bench.desired(), 4, "one wants to stay");
    bench.scaling.put_policy(PolicySpec { disable_scale_in: true, ..memory }, bench.now).unwrap();
    assert_eq!(bench.scaling.alarms().count(), 3, "without scale-in there is no lower alarm");
    bench.minutes(1, Some(10.0));
    assert_eq!(bench.desired(), 1, "what never scales in is not asked");
    for _ in 0..3 {
        bench.publish(&other, 200.0);
        bench.minutes(1, Some(70.0));
    }
    assert_eq!(bench.desired(), 4, "1 × 200 / 50 is more than 1 × 70 / 50");
}

#[test]
fn suspended_processes_and_disabled_policies_do_not_scale() {
    for process in [Process::AlarmNotification, Process::Launch] {
        let mut bench = Bench::new(2);
        bench.scaling.suspend("workers", &[process]).unwrap();
        bench.minutes(5, Some(100.0));
        assert_eq!((bench.desired(), bench.states()[0]), (2, AlarmState::Alarm), "{process:?}");
        bench.scaling.resume("workers", &[process], bench.now).unwrap();
        bench.minutes(1, Some(100.0));
        assert_eq!(bench.desired(), 4, "the alarm still holds");
    }
    let mut bench = Bench::new(2);
    bench.scaling.suspend("workers", &[Process::Terminate]).unwrap();
    bench.minutes(20, Some(5.0));
    assert_eq!(bench.desired(), 2);
    let mut bench = Bench::new(2);
    let disabled = PolicySpec { enabled: false, ..tracking(Duration::ZERO) };
    bench.scaling.put_policy(disabled, START).unwrap();
    bench.minutes(5, Some(100.0));
    assert_eq!(bench.desired(), 2);
}

#[test]
fn policies_are_refused_deleted_and_go_with_their_group() {
    let mut bench = Bench::new(2);
    let mut put = |spec| bench.scaling.put_policy(spec, START).map(|_| ()).map_err(|it| it.message);
    let on_nothing = PolicySpec { group: "other".to_owned(), ..tracking(MINUTE) };
    assert!(put(on_nothing).unwrap_err().contains("not found"));
    for target in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(put(PolicySpec { target, ..tracking(MINUTE) }).is_err(), "{target}");
    }
    let same_metric = PolicySpec { name: "again".to_owned(), ..tracking(MINUTE) };
    assert!(put(same_metric).unwrap_err().contains("Only one"));
    put(tracking(MINUTE)).unwrap();
    assert_eq!(bench.scaling.policies().count(), 1, "the same name changes it");
    assert!(bench.scaling.policies_due().is_some());
    assert!(bench.scaling.delete_policy(Some("workers"), "other").is_err());
    let arn = bench.scaling.policies().next().unwrap().arn("eu-central-1");
    bench.scaling.delete_policy(None, &arn).unwrap();
    assert_eq!(bench.scaling.policies_due(), None);
    bench.scaling.put_policy(tracking(MINUTE), START).unwrap();
    bench.scaling.delete_group("workers", true, START).unwrap();
    assert_eq!(bench.scaling.policies().count(), 0);
}

#[test]
fn periods_that_passed_unnoticed_are_evaluated_once() {
    let mut bench = Bench::new(2);
    for seconds in [0, 60, 120] {
        let at = DATE + Duration::from_secs(seconds);
        bench.metrics.publish(&load(), 100.0, at);
    }
    bench.now += Duration::from_secs(190);
    let date = DATE + Duration::from_secs(190);
    bench.scaling.follow_policies(&bench.metrics, date, bench.now);
    assert_eq!(bench.desired(), 4);
    assert_eq!(bench.scaling.policies_due(), Some(START + MINUTE * 4));
}
