//! The quorum of the charter's swarm is being re-created, or was.

use super::world::row;
use super::{observed, open, own_swarm};
use crate::clients::docker::LocalState;
use crate::clients::ledger::{Charter, MemberState};
use crate::common::fact::Fact;
use crate::common::instance::Role;
use crate::lifecycle::boot::decide::{Mark, Observed, OwnSwarm, Step, decide};

/// It joined with an old token, through a manager that no longer belongs to the charter's swarm.
#[test]
fn a_manager_without_a_row_asks_whose_raft_it_is_in_once_the_quorum_was_re_created() {
    let mut seen = observed(LocalState::Active);
    open(&mut seen, 2, "same");
    seen.charter.as_mut().unwrap().recovers = Some("same".into());
    seen.local.swarm_id = Some("same".into());
    seen.local.node_id = Some("node".into());
    (seen.local.is_manager, seen.local.has_managers) = (true, true);
    let step = |seen: &Observed| decide("i-9", Role::Manager, seen);
    assert!(matches!(step(&seen), Step::Wait { .. }), "no leader lists the members of raft");
    let own = OwnSwarm { has_former: Fact::Yes, ..own_swarm(Mark::Ours, false) };
    seen.own_swarm = Some(own);
    assert!(matches!(step(&seen), Step::LeaveStale { by_force: true, .. }));
    seen.own_swarm = Some(OwnSwarm { has_former: Fact::CannotTell, ..own });
    let Step::Wait { why } = step(&seen) else { panic!("the row of one in raft cannot be read") };
    assert!(why.contains("ledger rows that cannot be read"), "{why}");
    seen.own_swarm = Some(OwnSwarm { has_former: Fact::No, ..own });
    assert!(matches!(step(&seen), Step::Ready(_)));
    seen.own_swarm = None;
    seen.member = Some(row("node", 2, MemberState::Ready));
    assert!(matches!(step(&seen), Step::Ready(_)), "its row shows it");
    seen.member = None;
    let founder = seen.charter.clone().unwrap().founder;
    assert!(matches!(decide(&founder, Role::Manager, &seen), Step::Ready(_)));
    seen.charter.as_mut().unwrap().recovers = None;
    assert!(matches!(step(&seen), Step::Ready(_)), "nothing was re-created");
}

/// A former manager may still be in raft, or none: nothing is re-created or published on that.
#[test]
fn who_has_claimed_a_recovery_waits_while_nobody_says_whether_it_is_done() {
    let mut seen = observed(LocalState::Active);
    let now = seen.now;
    open(&mut seen, 1, "same");
    let charter = seen.charter.clone().unwrap();
    seen.charter = Some(Charter::recovery(&charter, "same", "i-1", now));
    seen.local.swarm_id = Some("same".into());
    seen.local.node_id = Some("node".into());
    seen.local.is_manager = true;
    seen.member = Some(row("node", 1, MemberState::Ready));
    let mut step = |has_former: Option<Fact>| {
        let own = own_swarm(Mark::Ours, false);
        seen.own_swarm = has_former.map(|has_former| OwnSwarm { has_former, ..own });
        decide("i-1", Role::Manager, &seen)
    };
    assert!(matches!(step(None), Step::Recreate { .. }));
    assert!(matches!(step(Some(Fact::Yes)), Step::Recreate { .. }));
    assert!(matches!(step(Some(Fact::No)), Step::Publish { .. }));
    assert!(matches!(step(Some(Fact::CannotTell)), Step::Wait { .. }));
}
