use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::super::action::ActionName;
use super::super::states::{ActionResult, Transition};
use super::*;
use crate::cloud::specs::{CloudOptions, GroupSpec, HookSpec};

const NOW: Duration = Duration::from_secs(100);
const READY: ActionName<'_> = ActionName { hook: "ready", token: None };

fn zones() -> Vec<String> {
    ["a", "b", "c"].map(str::to_owned).to_vec()
}

/// Returns a group of this size in three zones, whose instances start at once, and later ones with a launch hook.
fn scaling(desired: u32, max: u32) -> Scaling {
    let options = CloudOptions {
        region: "eu-central-1".to_owned(),
        zones: zones(),
        subnet: (Ipv4Addr::new(10, 0, 0, 0), 24),
        seed: 1,
    };
    let mut scaling = Scaling::new(&options).unwrap();
    let spec = GroupSpec { name: "workers".to_owned(), max, desired, ..GroupSpec::default() };
    scaling.create_group(spec, vec![], vec![], None, NOW).unwrap();
    scaling.put_hook(HookSpec::new("workers", "ready", Transition::Launching)).unwrap();
    scaling
}

/// Returns the number of instances in each zone, and how many wait for their launch hook.
fn spread(scaling: &Scaling) -> (BTreeMap<String, usize>, usize) {
    let members = scaling.members("workers");
    let mut by_zone = BTreeMap::new();
    members.iter().for_each(|it| *by_zone.entry(it.zone.clone()).or_default() += 1);
    let waits = |it: &&Member| scaling.instance(&it.id).unwrap().lifecycle.state().is_waiting();
    (by_zone, members.iter().filter(waits).count())
}

fn in_zones(counts: &[(&str, usize)]) -> BTreeMap<String, usize> {
    counts.iter().map(|(zone, count)| ((*zone).to_owned(), *count)).collect()
}

/// Completes the launch hook of the oldest instance that waits.
fn complete_one(scaling: &mut Scaling) {
    let members = scaling.members("workers");
    let mut waiting = members
        .iter()
        .filter(|it| scaling.instance(&it.id).unwrap().lifecycle.state().is_waiting());
    let id = waiting.next().unwrap().id.clone();
    scaling.complete("workers", Some(&id), READY, ActionResult::Continue, NOW).unwrap();
}

#[test]
fn new_zones_get_their_instances_before_others_are_terminated() {
    let mut scaling = scaling(4, 20);
    scaling.set_zones("workers", vec!["a".to_owned()], NOW).unwrap();
    // Those in b and c are replaced first: two of four were there.
    assert_eq!(spread(&scaling), (in_zones(&[("a", 4), ("b", 1), ("c", 1)]), 2));
    complete_one(&mut scaling);
    assert_eq!(spread(&scaling).0.values().sum::<usize>(), 5, "one for one");
    complete_one(&mut scaling);
    assert_eq!(spread(&scaling), (in_zones(&[("a", 4)]), 0));
    scaling.set_zones("workers", zones(), NOW).unwrap();
    assert_eq!(spread(&scaling), (in_zones(&[("a", 4), ("b", 1), ("c", 1)]), 2));
    complete_one(&mut scaling);
    complete_one(&mut scaling);
    assert_eq!(spread(&scaling), (in_zones(&[("a", 2), ("b", 1), ("c", 1)]), 0));
    assert!(scaling.set_zones("workers", vec!["z".to_owned()], NOW).is_err());
}

#[test]
fn a_full_group_exceeds_its_maximum_by_one_or_a_tenth() {
    for (size, more) in [(4, 1), (30, 3)] {
        let mut scaling = scaling(size, size);
        scaling.set_zones("workers", vec!["a".to_owned()], NOW).unwrap();
        let total = |scaling: &Scaling| scaling.members("workers").len();
        assert_eq!(total(&scaling), (size + more) as usize);
        let mut moves = 0;
        while spread(&scaling).1 > 0 {
            complete_one(&mut scaling);
            assert!(total(&scaling) <= (size + more) as usize);
            moves += 1;
        }
        assert_eq!(spread(&scaling).0, in_zones(&[("a", size as usize)]));
        // Two thirds were in other zones.
        assert_eq!(moves, size - size.div_ceil(3));
    }
}

#[test]
fn an_impaired_zone_gets_nothing_and_is_filled_when_it_recovers() {
    let mut scaling = scaling(3, 20);
    scaling.impair_zone("c", true, NOW);
    assert_eq!(spread(&scaling), (in_zones(&[("a", 1), ("b", 1), ("c", 1)]), 0));
    let lost = scaling.members("workers").into_iter().find(|it| it.zone == "c").unwrap();
    scaling.vanish(&lost.id, NOW);
    complete_one(&mut scaling);
    scaling.set_desired("workers", 5, NOW).unwrap();
    complete_one(&mut scaling);
    complete_one(&mut scaling);
    assert_eq!(spread(&scaling), (in_zones(&[("a", 3), ("b", 2)]), 0));
    scaling.impair_zone("c", false, NOW);
    assert_eq!(spread(&scaling), (in_zones(&[("a", 3), ("b", 2), ("c", 1)]), 1));
    complete_one(&mut scaling);
    assert_eq!(spread(&scaling), (in_zones(&[("a", 2), ("b", 2), ("c", 1)]), 0));
    for zone in ["a", "b", "c"] {
        scaling.impair_zone(zone, true, NOW);
    }
    scaling.set_desired("workers", 6, NOW).unwrap();
    assert_eq!(scaling.members("workers").len(), 5, "there is no zone for it");
}

#[test]
fn an_explicit_termination_that_leaves_the_zones_uneven_is_balanced() {
    let mut scaling = scaling(4, 20);
    let members = scaling.members("workers");
    assert_eq!(spread(&scaling).0, in_zones(&[("a", 2), ("b", 1), ("c", 1)]));
    let of_b = members.iter().find(|it| it.zone == "b").unwrap();
    scaling.terminate(&of_b.id, true, "test", NOW).unwrap();
    assert_eq!(spread(&scaling), (in_zones(&[("a", 2), ("b", 1), ("c", 1)]), 1));
    let launch = scaling.activities.last().unwrap();
    assert_eq!(
        launch.cause,
        "availability zones a b c had 2 0 1 instances respectively. An instance was launched to \
         aid in balancing the group's zones."
    );
    complete_one(&mut scaling);
    assert_eq!(spread(&scaling), (in_zones(&[("a", 1), ("b", 1), ("c", 1)]), 0));
    let termination = scaling.activities.iter().rev().find(|it| it.ended.is_some()).unwrap();
    assert!(
        termination.cause.starts_with("instances were launched to balance instances in zones"),
        "{}",
        termination.cause
    );
}

#[test]
fn suspended_processes_stop_the_balancing() {
    for process in [Process::AzRebalance, Process::Launch] {
        let mut scaling = scaling(3, 20);
        scaling.suspend("workers", &[process]).unwrap();
        scaling.set_zones("workers", vec!["a".to_owned()], NOW).unwrap();
        assert_eq!(spread(&scaling).1, 0, "{process:?}");
        scaling.resume("workers", &[process], NOW).unwrap();
        assert_eq!(spread(&scaling).1, 2, "{process:?}");
    }
    // Without terminations the group stays too large, and launches no more.
    let mut scaling = scaling(3, 20);
    scaling.suspend("workers", &[Process::Terminate]).unwrap();
    scaling.set_zones("workers", vec!["a".to_owned()], NOW).unwrap();
    complete_one(&mut scaling);
    complete_one(&mut scaling);
    assert_eq!(spread(&scaling), (in_zones(&[("a", 3), ("b", 1), ("c", 1)]), 0));
    scaling.resume("workers", &[Process::Terminate], NOW).unwrap();
    assert_eq!(spread(&scaling).0, in_zones(&[("a", 3)]));
}

#[test]
fn protected_instances_stay_and_nothing_is_launched_for_them() {
    let mut scaling = scaling(3, 20);
    let ids: Vec<String> = scaling.members("workers").into_iter().map(|it| it.id).collect();
    scaling.set_protection("workers", &ids, true, NOW).unwrap();
    scaling.set_zones("workers", vec!["a".to_owned()], NOW).unwrap();
    assert_eq!(spread(&scaling), (in_zones(&[("a", 1), ("b", 1), ("c", 1)]), 0));
    scaling.set_protection("workers", &ids[1..2], false, NOW).unwrap();
    assert_eq!(spread(&scaling).1, 1);
}

#[test]
fn an_instance_that_dies_meanwhile_is_replaced_by_the_one_that_is_launched_already() {
    let mut scaling = scaling(3, 3);
    scaling.set_zones("workers", vec!["a".to_owned()], NOW).unwrap();
    let of_b = scaling.members("workers").into_iter().find(|it| it.zone == "b").unwrap();
    scaling.vanish(&of_b.id, NOW);
    // The one of c goes, too: there is room for the next launch.
    assert_eq!(spread(&scaling), (in_zones(&[("a", 3), ("c", 1)]), 2));
    complete_one(&mut scaling);
    complete_one(&mut scaling);
    assert_eq!(spread(&scaling), (in_zones(&[("a", 3)]), 0));
}

#[test]
fn a_scale_in_takes_the_oldest_of_the_fullest_zone() {
    let member = |sequence, zone: &str, protected| Member {
        sequence,
        id: format!("i-{sequence}"),
        zone: zone.to_owned(),
        protected,
    };
    let members = [
        member(1, "b", false),
        member(2, "a", true),
        member(3, "a", false),
        member(4, "a", false),
        member(5, "z", false),
    ];
    let taken = |count| victims(&members, &zones(), count);
    // z is none of the zones; a has three; then a and b are even, and b has the oldest.
    assert_eq!(taken(3), ["i-5", "i-3", "i-4"]);
    assert_eq!(taken(9), ["i-5", "i-3", "i-4", "i-1"], "the protected one stays");
}
