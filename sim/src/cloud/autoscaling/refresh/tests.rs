use std::net::Ipv4Addr;

use super::*;
use crate::cloud::autoscaling::action::ActionName;
use crate::cloud::autoscaling::scaling::Outcome;
use crate::cloud::autoscaling::scaling::Scaling;
use crate::cloud::autoscaling::states::{ActionResult, LifecycleState as S, Transition};
use crate::cloud::specs::{CloudOptions, HookSpec};

const GROUP: &str = "workers";
const NEW_IMAGE: &str = "ami-00000000000000002";
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const START: Duration = Duration::from_secs(100);

/// A group without hooks, in which everything happens at once, at a time that the test chooses.
struct Bench {
    scaling: Scaling,
    now: Duration,
}

impl Bench {
    fn new(desired: u32) -> Self {
        Self::of_zones(&["eu-central-1a"], desired)
    }

    fn of_zones(zones: &[&str], desired: u32) -> Self {
        let options = CloudOptions {
            region: "eu-central-1".to_owned(),
            zones: zones.iter().map(|zone| (*zone).to_owned()).collect(),
            subnet: (Ipv4Addr::new(10, 0, 0, 0), 24),
            seed: 1,
        };
        let mut scaling = Scaling::new(&options).unwrap();
        let spec = GroupSpec { name: GROUP.to_owned(), max: 20, desired, ..GroupSpec::default() };
        scaling.create_group(spec, vec![], vec![], None, START).unwrap();
        Self { scaling, now: START }
    }

    fn hook(&mut self, name: &str, transition: Transition) {
        self.scaling.put_hook(HookSpec::new(GROUP, name, transition)).unwrap();
    }

    fn start(&mut self, spec: RefreshSpec) -> String {
        self.scaling.start_refresh(GROUP, spec, self.now).unwrap()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.scaling.tick(self.now);
    }

    fn view(&self) -> RefreshView {
        self.scaling.refreshes_of(GROUP).next().unwrap().view()
    }

    fn status(&self) -> RefreshStatus {
        self.view().status
    }

    /// The instances, oldest first.
    fn ids(&self) -> Vec<String> {
        let mut instances: Vec<_> = self.scaling.instances().collect();
        instances.sort_by_key(|it| it.sequence);
        instances.iter().map(|it| it.id.clone()).collect()
    }

    fn in_state(&self, state: S) -> Vec<String> {
        let mut ids = self.ids();
        ids.retain(|id| self.scaling.instance(id).unwrap().lifecycle.state() == state);
        ids
    }

    /// The only instance in this state.
    fn only(&self, state: S) -> String {
        let [id] = &self.in_state(state)[..] else { panic!("one instance in {state}") };
        id.clone()
    }

    fn counts(&self, states: &[S]) -> Vec<usize> {
        states.iter().map(|state| self.in_state(*state).len()).collect()
    }

    fn complete(&mut self, id: &str, hook: &str, result: ActionResult) {
        let name = ActionName { hook, token: None };
        self.scaling.complete(GROUP, Some(id), name, result, self.now).unwrap();
    }
}

fn warm(seconds: u32) -> RefreshSpec {
    RefreshSpec { warmup: Some(SECOND * seconds), ..RefreshSpec::default() }
}

fn healthy(min: u32, max: u32) -> RefreshSpec {
    RefreshSpec { min_healthy: min, max_healthy: max, ..warm(10) }
}

#[test]
fn new_instances_are_spread_over_the_zones_so_that_none_is_launched_twice() {
    let mut bench = Bench::of_zones(&["a", "b"], 2);
    let launched = |bench: &Bench| bench.scaling.sequence;
    let before = launched(&bench);
    bench.start(healthy(100, 100));
    for _ in 0..3 {
        bench.pass(SECOND * 10);
    }
    assert_eq!(bench.status(), RefreshStatus::Successful);
    assert_eq!(launched(&bench) - before, 2);
    let zones: BTreeSet<_> = bench.scaling.instances().map(|it| it.zone.clone()).collect();
    assert_eq!(zones.len(), 2);
}

#[test]
fn nothing_is_replaced_while_a_process_is_suspended() {
    use crate::cloud::autoscaling::states::Process;
    for process in [Process::Launch, Process::Terminate, Process::InstanceRefresh] {
        let mut bench = Bench::new(2);
        let old = bench.ids();
        bench.scaling.suspend(GROUP, &[process]).unwrap();
        bench.start(warm(10));
        bench.pass(HOUR * 2);
        assert_eq!((bench.ids(), bench.status()), (old.clone(), RefreshStatus::InProgress));
        let reason = bench.view().reason.unwrap();
        assert!(reason.contains("suspended"), "{reason}");
        bench.scaling.resume(GROUP, &[process], bench.now).unwrap();
        assert_ne!(bench.ids(), old, "{process:?}");
    }
}

#[test]
fn a_refresh_fails_after_an_hour_without_a_launch_and_not_because_an_operator_removed_one() {
    let mut bench = Bench::new(2);
    bench.start(warm(10));
    bench.scaling.impair_zone("eu-central-1a", true, bench.now);
    let new = bench.ids().pop().unwrap();
    bench.scaling.terminate(&new, false, "by hand", bench.now).unwrap();
    bench.pass(HOUR + SECOND);
    assert_eq!(bench.status(), RefreshStatus::Failed);

    let mut bench = Bench::new(3);
    let spec = RefreshSpec { bake: HOUR * 3, ..warm(10) };
    bench.start(spec);
    for _ in 0..3 {
        bench.pass(SECOND * 10);
    }
    assert_eq!(bench.status(), RefreshStatus::Baking);
    bench.scaling.set_desired(GROUP, 4, bench.now).unwrap();
    let new = bench.ids().pop().unwrap();
    bench.scaling.terminate(&new, true, "by hand", bench.now).unwrap();
    bench.pass(HOUR * 4);
    assert_eq!(bench.status(), RefreshStatus::Successful);
}

#[test]
fn by_default_a_tenth_is_terminated_and_launched_at_a_time() {
    let mut bench = Bench::new(20);
    let old = bench.ids();
    bench.start(warm(10));
    // Two of twenty are gone, and their replacements are not ready.
    assert_eq!(bench.ids()[..18], old[2..]);
    assert_eq!((bench.ids().len(), bench.view().percentage), (20, 0));
    bench.pass(SECOND * 9);
    assert_eq!(bench.view().percentage, 0);
    bench.pass(SECOND);
    assert_eq!((bench.view().percentage, bench.view().remaining), (10, 18));
    assert_eq!(bench.ids()[..16], old[4..], "the next two, the oldest first");
    for _ in 0..9 {
        bench.pass(SECOND * 10);
    }
    assert_eq!(bench.status(), RefreshStatus::Successful);
    assert!(bench.ids().iter().all(|id| !old.contains(id)));
    assert_eq!(bench.scaling.refresh_deadline(), None);
}

#[test]
fn a_small_group_loses_one_at_a_time_although_a_tenth_of_it_is_less() {
    let mut bench = Bench::new(3);
    let old = bench.ids();
    bench.start(warm(10));
    assert_eq!(bench.ids()[..2], old[1..]);
    assert_eq!(bench.scaling.instances().count(), 3);
}

#[test]
fn all_at_once_without_a_minimum() {
    let mut bench = Bench::new(3);
    let old = bench.ids();
    bench.start(healthy(0, 100));
    assert!(bench.ids().iter().all(|id| !old.contains(id)));
    bench.pass(SECOND * 10);
    assert_eq!(bench.status(), RefreshStatus::Successful);
}

#[test]
fn a_minimum_of_all_launches_before_it_terminates() {
    for (max, beyond) in [(100, 1), (110, 1), (150, 2), (200, 4)] {
        let mut bench = Bench::new(4);
        let old = bench.ids();
        bench.start(healthy(100, max));
        assert_eq!(bench.ids().len(), 4 + beyond, "{max}");
        assert_eq!(bench.ids()[..4], old[..], "{max}: nothing leaves before a new one is ready");
        bench.pass(SECOND * 10);
        assert_eq!(bench.ids()[..4 - beyond], old[beyond..], "{max}");
        for _ in 0..8 {
            assert!(bench.in_state(S::InService).len() >= 4, "{max}");
            bench.pass(SECOND * 10);
        }
        assert_eq!(bench.status(), RefreshStatus::Successful, "{max}");
        assert_eq!(bench.ids().len(), 4, "{max}");
        assert!(bench.ids().iter().all(|id| !old.contains(id)), "{max}");
    }
}

#[test]
fn the_hooks_hold_every_replacement_and_the_end() {
    let mut bench = Bench::new(2);
    bench.hook("ready", Transition::Launching);
    bench.hook("drain", Transition::Terminating);
    let old = bench.ids();
    bench.start(RefreshSpec::default());
    for gone in &old {
        assert_eq!(bench.only(S::TerminatingWait), *gone);
        let new = bench.in_state(S::PendingWait);
        assert_eq!(new.len(), 1);
        bench.complete(gone, "drain", ActionResult::Continue);
        assert_eq!(bench.counts(&[S::PendingWait, S::TerminatingWait]), [1, 0]);
        assert_eq!(bench.status(), RefreshStatus::InProgress);
        bench.complete(&new[0], "ready", ActionResult::Continue);
    }
    assert_eq!(bench.status(), RefreshStatus::Successful);

    bench.start(healthy(100, 100));
    let new = bench.in_state(S::PendingWait);
    bench.complete(&new[0], "ready", ActionResult::Continue);
    bench.pass(SECOND * 10);
    let leaving = bench.in_state(S::TerminatingWait);
    let new = bench.in_state(S::PendingWait);
    assert_eq!((leaving.len(), new.len()), (1, 1), "the next launch does not wait for the hook");
    bench.complete(&new[0], "ready", ActionResult::Continue);
    bench.pass(SECOND * 10);
    assert_eq!((bench.status(), bench.view().percentage), (RefreshStatus::InProgress, 100));
    for id in bench.in_state(S::TerminatingWait) {
        bench.complete(&id, "drain", ActionResult::Continue);
    }
    assert_eq!(bench.status(), RefreshStatus::Successful, "with the last termination");
}

#[test]
fn one_refresh_at_a_time_and_a_cancelled_one_finishes_what_it_has_begun() {
    let mut bench = Bench::new(3);
    bench.hook("ready", Transition::Launching);
    bench.hook("drain", Transition::Terminating);
    let none = bench.scaling.cancel_refresh(GROUP, true, START).unwrap_err();
    assert_eq!(none.code, "ActiveInstanceRefreshNotFound");
    let old = bench.ids();
    let id = bench.start(healthy(100, 100));
    let second = bench.scaling.start_refresh(GROUP, RefreshSpec::default(), START).unwrap_err();
    assert_eq!(second.code, "InstanceRefreshInProgress");

    assert_eq!(bench.scaling.cancel_refresh(GROUP, true, START).unwrap(), id);
    assert_eq!(bench.status(), RefreshStatus::Cancelling);
    let new = bench.in_state(S::PendingWait);
    bench.complete(&new[0], "ready", ActionResult::Continue);
    bench.pass(SECOND * 10);
    assert_eq!(bench.only(S::TerminatingWait), old[0]);
    bench.complete(&old[0], "drain", ActionResult::Continue);
    assert_eq!(bench.status(), RefreshStatus::Cancelled);
    assert_eq!(bench.view().reason.as_deref(), Some("Cancelled due to user request."));
    assert_eq!(bench.ids(), [&old[1..], &new[..]].concat());
    bench.pass(HOUR);
    assert_eq!(bench.ids(), [&old[1..], &new[..]].concat());
}

#[test]
fn a_cancellation_that_does_not_wait_scales_in_what_is_too_much() {
    let mut bench = Bench::new(2);
    bench.hook("ready", Transition::Launching);
    bench.start(healthy(100, 200));
    assert_eq!(bench.ids().len(), 4);
    bench.scaling.cancel_refresh(GROUP, false, START).unwrap();
    assert_eq!((bench.status(), bench.ids().len()), (RefreshStatus::Cancelled, 2));
}

#[test]
fn launches_that_never_succeed_fail_the_refresh_after_an_hour() {
    let mut bench = Bench::new(3);
    bench.hook("ready", Transition::Launching);
    let old = bench.ids();
    bench.start(RefreshSpec::default());
    let new = bench.in_state(S::PendingWait);
    bench.complete(&new[0], "ready", ActionResult::Abandon);
    bench.pass(HOUR - SECOND);
    assert_eq!(bench.status(), RefreshStatus::InProgress);
    let again = bench.in_state(S::PendingWait);
    assert!(again.len() == 1 && again != new);
    bench.pass(SECOND);
    assert_eq!(bench.status(), RefreshStatus::Failed);
    assert!(bench.view().reason.unwrap().contains("new instances"));
    assert_eq!(bench.in_state(S::InService), old[1..], "the others are untouched");
}

#[test]
fn a_launch_that_succeeds_ends_the_hour() {
    let mut bench = Bench::new(3);
    bench.hook("ready", Transition::Launching);
    bench.start(RefreshSpec::default());
    let new = bench.in_state(S::PendingWait);
    bench.complete(&new[0], "ready", ActionResult::Abandon);
    bench.pass(HOUR / 2);
    for _ in 0..3 {
        let new = bench.in_state(S::PendingWait);
        bench.complete(&new[0], "ready", ActionResult::Continue);
        bench.pass(HOUR - SECOND);
    }
    assert_eq!(bench.status(), RefreshStatus::Successful);
}

#[test]
fn checkpoints_pause_it_and_the_last_one_ends_it() {
    let mut bench = Bench::new(10);
    let old = bench.ids();
    let spec = RefreshSpec {
        checkpoints: vec![10, 20, 50],
        checkpoint_delay: SECOND * 60,
        ..healthy(80, 100)
    };
    bench.start(spec);
    let replaced = |bench: &Bench| old.iter().filter(|id| !bench.ids().contains(id)).count();
    assert_eq!(replaced(&bench), 1, "fewer than the percentage allows");
    bench.pass(SECOND * 10);
    assert_eq!((bench.view().percentage, replaced(&bench)), (10, 1));
    bench.pass(SECOND * 59);
    assert_eq!(replaced(&bench), 1);
    bench.pass(SECOND);
    assert_eq!(replaced(&bench), 2);
    bench.pass(SECOND * 10);
    bench.pass(SECOND * 60);
    assert_eq!(replaced(&bench), 4);
    bench.pass(SECOND * 10);
    assert_eq!((bench.view().percentage, replaced(&bench)), (40, 5));
    bench.pass(SECOND * 10);
    assert_eq!((bench.status(), replaced(&bench)), (RefreshStatus::Successful, 5));
}

#[test]
fn a_checkpoint_that_is_jumped_over_is_no_pause_of_its_own() {
    let mut bench = Bench::new(2);
    bench.start(RefreshSpec { checkpoints: vec![10, 40, 100], ..warm(0) });
    assert_eq!(bench.view().percentage, 50);
    bench.pass(HOUR);
    assert_eq!(bench.status(), RefreshStatus::Successful, "one pause, for 10 and 40");
}

#[test]
fn protected_instances_are_waited_for_an_hour_or_ignored_or_replaced() {
    let protected = |of: OfProtected| {
        let mut bench = Bench::new(3);
        let first = bench.ids()[0].clone();
        bench.scaling.set_protection(GROUP, std::slice::from_ref(&first), true, START).unwrap();
        bench.start(RefreshSpec { protected: of, ..warm(0) });
        (bench, first)
    };
    let (bench, first) = protected(OfProtected::Ignore);
    assert_eq!(bench.status(), RefreshStatus::Successful);
    assert!(bench.ids().contains(&first) && bench.ids().len() == 3);
    let (bench, first) = protected(OfProtected::Refresh);
    assert_eq!(bench.status(), RefreshStatus::Successful);
    assert!(!bench.ids().contains(&first));

    let (mut bench, first) = protected(OfProtected::Wait);
    assert_eq!((bench.view().percentage, bench.status()), (66, RefreshStatus::InProgress));
    assert!(bench.view().reason.unwrap().contains(&first));
    bench.pass(HOUR - SECOND);
    assert_eq!(bench.status(), RefreshStatus::InProgress);
    bench.pass(SECOND);
    assert_eq!(bench.status(), RefreshStatus::Failed);
    let (mut bench, first) = protected(OfProtected::Wait);
    bench.pass(HOUR - SECOND);
    bench.scaling.set_protection(GROUP, &[first], false, bench.now).unwrap();
    assert_eq!(bench.status(), RefreshStatus::Successful);
}

#[test]
fn instances_on_standby_are_waited_for_an_hour_or_ignored_or_terminated() {
    let standby = |of: OfStandby| {
        let mut bench = Bench::new(3);
        let first = bench.ids()[0].clone();
        let ids = std::slice::from_ref(&first);
        bench.scaling.enter_standby(GROUP, ids, true, START).unwrap();
        bench.start(RefreshSpec { standby: of, ..warm(0) });
        (bench, first)
    };
    let (bench, first) = standby(OfStandby::Ignore);
    assert_eq!(bench.status(), RefreshStatus::Successful);
    assert_eq!(bench.in_state(S::Standby), [first]);
    let (bench, _) = standby(OfStandby::Terminate);
    assert_eq!((bench.status(), bench.ids().len()), (RefreshStatus::Successful, 2));

    let (mut bench, first) = standby(OfStandby::Wait);
    assert_eq!((bench.view().percentage, bench.status()), (100, RefreshStatus::InProgress));
    bench.scaling.exit_standby(GROUP, std::slice::from_ref(&first), START).unwrap();
    assert_eq!(bench.status(), RefreshStatus::Successful);
    assert!(!bench.ids().contains(&first) && bench.ids().len() == 3);
    let (mut bench, _) = standby(OfStandby::Wait);
    bench.pass(HOUR);
    assert_eq!(bench.status(), RefreshStatus::Failed);
}

#[test]
fn the_desired_capacity_can_change_meanwhile() {
    let mut bench = Bench::new(4);
    let old = bench.ids();
    bench.start(warm(10));
    bench.scaling.set_desired(GROUP, 6, bench.now).unwrap();
    for _ in 0..4 {
        bench.pass(SECOND * 10);
    }
    assert_eq!((bench.status(), bench.ids().len()), (RefreshStatus::Successful, 6));
    assert!(bench.ids().iter().all(|id| !old.contains(id)));
    bench.start(warm(10));
    bench.scaling.set_desired(GROUP, 2, bench.now).unwrap();
    for _ in 0..4 {
        bench.pass(SECOND * 10);
    }
    assert_eq!((bench.status(), bench.ids().len()), (RefreshStatus::Successful, 2));
}

#[test]
fn instances_that_match_are_skipped_and_the_image_becomes_the_groups() {
    let mut bench = Bench::new(2);
    let old = bench.ids();
    bench.start(RefreshSpec { skip_matching: true, ..warm(0) });
    assert_eq!((bench.status(), bench.ids()), (RefreshStatus::Successful, old.clone()));
    let own = GroupSpec::default();
    let images = [(own.instance_type, NEW_IMAGE.to_owned())].into();
    bench.start(RefreshSpec { skip_matching: true, images, ..warm(10) });
    let new = bench.ids()[1].clone();
    assert_eq!(bench.scaling.instance(&new).unwrap().image_id, NEW_IMAGE);
    assert_eq!(bench.scaling.group(GROUP).unwrap().spec.image_id, own.image_id);
    bench.pass(SECOND * 10);
    bench.pass(SECOND * 10);
    assert_eq!(bench.status(), RefreshStatus::Successful);
    assert_eq!(bench.scaling.group(GROUP).unwrap().spec.image_id, NEW_IMAGE);
    assert!(bench.ids().iter().all(|id| !old.contains(id)));
}

#[test]
fn a_bake_time_delays_the_end_and_an_empty_group_has_none() {
    let mut bench = Bench::new(1);
    bench.start(RefreshSpec { bake: SECOND * 30, ..warm(0) });
    assert_eq!(bench.status(), RefreshStatus::Baking);
    bench.pass(SECOND * 30);
    assert_eq!(bench.status(), RefreshStatus::Successful);
    let mut empty = Bench::new(0);
    empty.start(RefreshSpec::default());
    assert_eq!((empty.status(), empty.view().percentage), (RefreshStatus::Successful, 100));
}

#[test]
fn preferences_outside_their_ranges_are_refused() {
    let rises = |checkpoints: &[u32]| RefreshSpec {
        checkpoints: checkpoints.to_vec(),
        ..RefreshSpec::default()
    };
    for wrong in [
        healthy(101, 200),
        healthy(90, 99),
        healthy(90, 201),
        healthy(99, 200),
        rises(&[50, 50]),
        rises(&[0, 50]),
        rises(&[50, 101]),
        RefreshSpec { bake: Duration::from_secs(172_801), ..RefreshSpec::default() },
    ] {
        assert!(wrong.check().is_err(), "{wrong:?}");
    }
    assert!(healthy(100, 200).check().is_ok() && rises(&[10, 100]).check().is_ok());
}

#[test]
fn a_retained_instance_does_not_hold_up_the_end() {
    let mut bench = Bench::new(1);
    bench.hook("drain", Transition::Terminating);
    bench.scaling.set_retention(GROUP, true).unwrap();
    let id = bench.ids()[0].clone();
    bench.start(warm(0));
    bench.complete(&id, "drain", ActionResult::Abandon);
    assert_eq!((bench.status(), bench.ids().len()), (RefreshStatus::Successful, 2));
    assert_eq!(bench.in_state(S::TerminatingRetained), [id]);
}

mod volumes;
