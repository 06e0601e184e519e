//! A missing charter: which nodes found, publish again, or wait.

use std::collections::BTreeSet;
use std::time::Duration;

use super::world::{Event, World, row, swarm_name};
use super::{observed, open, own_swarm};
use crate::clients::docker::LocalState;
use crate::clients::ledger::{Charter, Living, MemberState, Traces};
use crate::common::instance::Role;
use crate::lifecycle::boot::decide::{Mark, Observed, OwnSwarm, Step, decide};
use crate::lifecycle::boot::is_never_published;
use crate::lifecycle::boot::lost_swarm::Absence;

const PATIENCE: Duration = Duration::from_secs(120);

fn traces() -> Traces {
    Traces { highest: 3, swarms: ["lost".to_owned()].into() }
}

/// There are rows of generation 3, and all managers are gone.
fn all_gone() -> Absence {
    Absence {
        managers: ["i-1".to_owned()].into(),
        is_self_listed: true,
        traces: traces(),
        lasted: PATIENCE,
        patience: PATIENCE,
        ..Absence::default()
    }
}

fn without_charter(state: LocalState, absence: Option<Absence>) -> Observed {
    Observed { charter: None, absence, ..observed(state) }
}

#[test]
fn nobody_founds_over_nothing_while_somebody_may_be_there() {
    let step =
        |absence| decide("i-9", Role::Manager, &without_charter(LocalState::Inactive, absence));
    let first = Step::Claim { seen: None, traces: Traces::default() };
    assert_eq!(step(Some(Absence::default())), first, "a cluster that is new");
    assert_eq!(step(Some(all_gone())), Step::Claim { seen: None, traces: traces() });
    let set = |id: &str| BTreeSet::from([id.to_owned()]);
    for absence in [
        None,
        Some(Absence { fresh: set("i-1"), ..all_gone() }),
        Some(Absence { unreadable: set("member#manager#i-2"), ..all_gone() }),
        Some(Absence { unreadable: set("member#manager#i-2"), ..Absence::default() }),
        Some(Absence { listed: set("i-1"), ..all_gone() }),
        Some(Absence { listening: Some([10, 0, 0, 1].into()), ..all_gone() }),
        Some(Absence { lasted: Duration::ZERO, ..all_gone() }),
    ] {
        let waits = step(absence.clone());
        assert!(matches!(waits, Step::Wait { .. }), "{absence:?}: {waits:?}");
    }
    let worker = without_charter(LocalState::Inactive, Some(Absence::default()));
    assert!(matches!(decide("i-9", Role::Worker, &worker), Step::Wait { .. }));
}

fn in_own_swarm(absence: Option<Absence>) -> Observed {
    let mut seen = without_charter(LocalState::Active, absence);
    seen.local.swarm_id = Some("own".into());
    seen.local.node_id = Some("node".into());
    (seen.local.is_manager, seen.local.has_managers) = (true, true);
    seen.member = Some(row("node", 2, MemberState::Ready));
    seen.own_swarm = Some(OwnSwarm { generation: Some(2), ..own_swarm(Mark::Ours, false) });
    seen
}

#[test]
fn a_manager_that_restarts_publishes_its_swarm_again_under_its_own_generation() {
    let decide = |seen: &Observed| decide("i-1", Role::Manager, seen);
    let Step::PublishAgain { membership } = decide(&in_own_swarm(Some(Absence::default()))) else {
        panic!("it is published again")
    };
    assert_eq!((membership.generation, membership.swarm_id.as_str()), (2, "own"));
    assert!(matches!(decide(&in_own_swarm(None)), Step::Wait { .. }), "rows cannot be read");
    // Rows of another swarm under this generation or a later one.
    let alive = Absence { fresh: ["i-2".to_owned()].into(), ..all_gone() };
    assert!(matches!(decide(&in_own_swarm(Some(alive))), Step::Wait { .. }));
    let claim = Step::Claim { seen: None, traces: traces() };
    assert_eq!(decide(&in_own_swarm(Some(all_gone()))), claim, "the number is taken");
    let unreadable = ["member#manager#i-2".to_owned()].into();
    let mut odd = in_own_swarm(Some(Absence { unreadable, ..Absence::default() }));
    assert!(matches!(decide(&odd), Step::PublishAgain { .. }), "others are in it");
    odd.own_swarm = Some(OwnSwarm { is_alone: true, ..odd.own_swarm.unwrap() });
    assert!(matches!(decide(&odd), Step::Wait { .. }), "it may never have been published");
    odd.own_swarm = Some(OwnSwarm { mark: Mark::Missing, ..odd.own_swarm.unwrap() });
    assert!(matches!(decide(&odd), Step::Refuse(_)));
    let leaderless = Observed { own_swarm: None, ..in_own_swarm(Some(Absence::default())) };
    assert!(matches!(decide(&leaderless), Step::Wait { .. }));
}

#[test]
fn a_worker_waits_until_a_charter_names_a_swarm() {
    let mut seen = without_charter(LocalState::Active, None);
    seen.local.swarm_id = Some("own".into());
    seen.local.node_id = Some("node".into());
    assert!(matches!(decide("i-1", Role::Worker, &seen), Step::Wait { .. }), "without a row");
    seen.local.state = LocalState::Error;
    seen.unsettled_for = PATIENCE;
    assert!(matches!(decide("i-1", Role::Worker, &seen), Step::Wait { .. }));
}

/// Regression: the next manager founded another swarm, as generation 1 again.
#[test]
fn a_charter_that_is_deleted_comes_back_for_the_same_swarm_and_generation() {
    for is_serving in [true, false] {
        let mut world = World::new(4, 1);
        world.settle();
        let before = world.charter.clone().unwrap();
        world.happen(Event::Replace(3));
        world.happen(Event::DeleteCharter);
        world.happen(Event::Look(3));
        world.happen(Event::Act(3));
        assert_eq!(world.charter, None, "the others are there");
        if is_serving {
            world.happen(Event::Serve(1));
            let after = world.charter.clone().unwrap();
            assert_eq!((after.swarm_id, after.generation), (before.swarm_id.clone(), 1));
        }
        world.settle();
        assert_eq!(world.opened, [(1, 0)]);
        assert_eq!(world.swarms[0].len(), 5, "every node is in it");
    }
}

#[test]
fn where_nobody_is_left_the_next_generation_is_a_new_number() {
    let mut world = World::new(3, 1);
    world.settle();
    (0..3).for_each(|node| world.happen(Event::Replace(node)));
    world.happen(Event::DeleteCharter);
    world.settle();
    world.grow_old();
    world.settle();
    assert_eq!(world.opened, [(1, 0), (2, 1)]);
    assert_eq!(world.swarms[1].len(), 4, "every node has moved over");
}

#[test]
fn a_charter_is_restored_from_the_last_one_or_from_what_the_swarm_says() {
    let now = observed(LocalState::Active).now;
    let living = Living {
        swarm_id: swarm_name(0),
        generation: 2,
        is_recovered: true,
        ca_digest: "digest".into(),
        created_at: Some(now),
        restored_by: "i-1".into(),
        now,
    };
    let restored = Charter::restored(None, &living);
    assert_eq!((restored.generation, restored.founder.as_str()), (2, "i-1"));
    assert_eq!(restored.founded_at, Some(now));
    assert_eq!(
        (&restored.recovers, &restored.swarm_id),
        (&Some(swarm_name(0)), &Some(swarm_name(0)))
    );
    assert!(restored.fences("i-2", 1), "a manager from before its quorum was re-created");
    let known = Charter { former: vec!["lost".into()], founder: "i-0".into(), ..restored.clone() };
    let again = Charter::restored(Some(&known), &living);
    assert_eq!((again.former.len(), again.founder.as_str()), (1, "i-0"));
    let older = Charter { generation: 1, ..known };
    assert_eq!(Charter::restored(Some(&older), &living), restored, "of an earlier generation");
}

/// A boot that ends early leaves its own swarm only under a claim that it holds.
#[test]
fn without_a_claim_nothing_is_given_up() {
    let mut seen = in_own_swarm(None);
    seen.own_swarm = Some(own_swarm(Mark::Ours, true));
    assert!(!is_never_published("i-0", &seen), "the charter is missing");
    seen.charter = observed(LocalState::Active).charter;
    let founder = seen.charter.as_ref().unwrap().founder.clone();
    assert!(is_never_published(&founder, &seen));
    assert!(!is_never_published("i-9", &seen), "another manager's claim");
    seen.own_swarm = Some(OwnSwarm { generation: Some(2), ..own_swarm(Mark::Ours, true) });
    assert!(!is_never_published(&founder, &seen), "of another generation");
    open(&mut seen, 1, "own");
    assert!(!is_never_published(&founder, &seen));
}
