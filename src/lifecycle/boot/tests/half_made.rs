//! Docker creates a swarm and labels it in two steps, and may answer 500 in between.

use std::time::Duration;

use super::world::{Event, World};
use super::{observed, own_swarm};
use crate::clients::docker::LocalState;
use crate::clients::ledger::Charter;
use crate::common::instance::Role;
use crate::lifecycle::boot::decide::{Mark, Observed, OwnSwarm, Step, decide};

/// An observation of a node that holds the claim and is alone in a swarm without a label.
fn half_made() -> Observed {
    let mut seen = observed(LocalState::Active);
    seen.local.swarm_id = Some("made".into());
    seen.local.node_id = Some("node".into());
    (seen.local.is_manager, seen.local.has_managers) = (true, true);
    seen.own_swarm = Some(OwnSwarm { generation: None, ..own_swarm(Mark::Missing, true) });
    seen
}

fn founder(seen: &Observed) -> String {
    seen.charter.as_ref().unwrap().founder.clone()
}

#[test]
fn the_founder_labels_what_it_has_made_itself_and_nothing_else() {
    let seen = half_made();
    let me = founder(&seen);
    let step = |seen: &Observed| decide(&me, Role::Manager, seen);
    assert!(matches!(step(&seen), Step::Mark { .. }), "{:?}", step(&seen));
    let own = seen.own_swarm.unwrap();
    let claim = seen.charter.clone().unwrap();
    let at = |seconds: i64| Some(claim.lease_expires_at + time::Duration::seconds(seconds));
    let with = |own: OwnSwarm| Observed { own_swarm: Some(own), ..seen.clone() };
    let under = |charter: Charter| Observed { charter: Some(charter), ..seen.clone() };
    let lease = seen.lease.as_secs().cast_signed();
    for another in [
        with(OwnSwarm { is_alone: false, ..own }),
        with(OwnSwarm { mark: Mark::Others, ..own }),
        with(OwnSwarm { created_at: None, ..own }),
        with(OwnSwarm { created_at: at(-lease - 1), ..own }),
        with(OwnSwarm { created_at: at(0), ..own }),
        Observed { is_moved: true, ..seen.clone() },
        under(Charter { founder: "i-another".into(), ..claim.clone() }),
        under(Charter { adopts: Some("made".into()), ..claim.clone() }),
        // Released when an earlier boot ended.
        under(Charter { lease_expires_at: time::OffsetDateTime::UNIX_EPOCH, ..claim.clone() }),
    ] {
        let refuses = step(&another);
        assert!(matches!(refuses, Step::Refuse(_)), "{another:?}: {refuses:?}");
    }
    assert!(seen.lease > Duration::ZERO);
}

#[test]
fn a_swarm_whose_init_ended_in_between_is_labelled_and_published() {
    let mut world = World::new(1, 1);
    for _ in 0..2 {
        world.happen(Event::Look(0));
        world.happen(Event::ActHalf(0));
    }
    assert!(matches!(world.decide(0), Step::Mark { .. }));
    world.settle();
    assert_eq!(world.opened, [(1, 0)]);
    assert_eq!(world.swarms[0].len(), 2);
}
