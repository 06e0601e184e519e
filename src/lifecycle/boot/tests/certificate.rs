//! A node that Docker does not get into its swarm: the certificate on the host shows which swarm that is.

use proptest::prelude::*;

use super::world::row;
use super::{observed, open, own_swarm};
use crate::clients::docker::LocalState;
use crate::clients::ledger::{CharterPhase, MemberState};
use crate::common::fact::Fact;
use crate::common::instance::Role;
use crate::lifecycle::boot::decide::decide;
use crate::lifecycle::boot::demotion_request::PeerDemotion;
use crate::lifecycle::boot::types::{Mark, Observed, Refusal, SETTLE_TIME, STUCK_TIME, Step};

/// An observation in which the charter names `published`, and the certificate `swarm_id`.
fn unsettled(state: LocalState, swarm_id: Option<&str>) -> Observed {
    let mut seen = observed(state);
    open(&mut seen, 2, "published");
    seen.local.swarm_id = swarm_id.map(str::to_owned);
    seen.local.node_id = Some("node".into());
    seen.unsettled_for = STUCK_TIME;
    seen
}

#[test]
fn a_raft_member_without_a_row_is_neither_discarded_nor_foreign() {
    for state in [LocalState::Pending, LocalState::Error] {
        for is_manager in [true, false] {
            let mut seen = unsettled(state, Some("published"));
            seen.local.is_manager = is_manager;
            for is_joining in [Fact::No, Fact::CannotTell] {
                seen.is_joining = is_joining;
                let step = decide("i-0", Role::Manager, &seen);
                assert!(matches!(step, Step::Wait { .. }), "{state:?} {is_manager}: {step:?}");
            }
        }
    }
}

#[test]
fn a_join_that_has_failed_after_its_certificate_is_given_up_once_docker_says_error() {
    let mut seen = unsettled(LocalState::Pending, Some("published"));
    seen.is_joining = Fact::Yes;
    assert!(matches!(decide("i-0", Role::Manager, &seen), Step::Wait { .. }), "raft may count it");
    assert!(matches!(decide("i-0", Role::Worker, &seen), Step::Discard { .. }));
    seen.local.state = LocalState::Error;
    assert!(matches!(decide("i-0", Role::Manager, &seen), Step::Discard { .. }));
    seen.member = Some(row("node", 2, MemberState::Ready));
    assert!(matches!(decide("i-0", Role::Manager, &seen), Step::Wait { .. }), "it was Ready once");
}

/// Docker names no node in `error`, and a failing disk or a missing socket proves nothing.
#[test]
fn while_the_certificate_cannot_be_read_nothing_is_discarded() {
    for state in [LocalState::Pending, LocalState::Error] {
        for role in Role::ALL {
            for member in [None, Some(row("node", 2, MemberState::Ready))] {
                let mut seen = unsettled(state, None);
                (seen.local.node_id, seen.member) = (None, member);
                seen.is_joining = Fact::Yes;
                seen.certificate_error = Some("Input/output error".into());
                let Step::Wait { why } = decide("i-0", role, &seen) else { panic!("{state:?}") };
                assert!(why.contains("Input/output error"), "{why}");
                seen.certificate_error = None;
                let step = decide("i-0", role, &seen);
                assert!(matches!(step, Step::Discard { .. }), "{state:?} {role}: {step:?}");
            }
        }
    }
    let mut seen = unsettled(LocalState::Active, None);
    assert!(matches!(decide("i-0", Role::Worker, &seen), Step::Refuse(_)));
    seen.certificate_error = Some("Input/output error".into());
    assert!(matches!(decide("i-0", Role::Worker, &seen), Step::Wait { .. }), "swarm unknown");
}

/// Its raft state may be the only copy of the swarm.
#[test]
fn a_manager_that_was_ready_and_has_no_certificate_waits() {
    let mut seen = unsettled(LocalState::Error, None);
    seen.local.node_id = None;
    seen.member = Some(row("node", 2, MemberState::Ready));
    for (is_joining, role, is_given_up) in [
        (Fact::No, Role::Manager, false),
        (Fact::CannotTell, Role::Manager, false),
        (Fact::Yes, Role::Manager, true),
        (Fact::No, Role::Worker, true),
    ] {
        seen.is_joining = is_joining;
        let step = decide("i-0", role, &seen);
        let is_discard = matches!(step, Step::Discard { .. });
        assert_eq!(is_discard, is_given_up, "{is_joining:?} {role}: {step:?}");
    }
}

/// Its configured role is worker; its certificate or its row shows that it is in raft.
#[test]
fn a_promoted_worker_is_neither_discarded_nor_made_to_leave_a_swarm_with_a_leader() {
    let promoted = |certified, serves_as| {
        let mut member = row("node", 2, MemberState::Ready);
        member.serves_as = Some(serves_as);
        let mut seen = unsettled(LocalState::Error, Some("published"));
        seen.local.error = "x509: certificate has expired".into();
        (seen.certified, seen.member) = (certified, Some(member));
        seen
    };
    for (certified, serves_as, is_given_up) in [
        (Some(Role::Manager), Role::Worker, false),
        (None, Role::Manager, false),
        (Some(Role::Worker), Role::Manager, true),
        (None, Role::Worker, true),
    ] {
        let step = decide("i-0", Role::Worker, &promoted(certified, serves_as));
        let is_discard = matches!(step, Step::Discard { .. });
        assert_eq!(is_discard, is_given_up, "{certified:?} {serves_as}: {step:?}");
    }
    let mut seen = promoted(Some(Role::Manager), Role::Manager);
    seen.local.swarm_id = Some("earlier".into());
    seen.charter.as_mut().unwrap().former = vec!["earlier".into()];
    for (has_leader, leaves) in [(Fact::Yes, false), (Fact::CannotTell, false), (Fact::No, true)] {
        seen.has_leader = has_leader;
        let step = decide("i-0", Role::Worker, &seen);
        assert_eq!(matches!(step, Step::LeaveStale { .. }), leaves, "{has_leader:?}: {step:?}");
    }
}

/// The IAM role of a worker does not permit it to write the charter.
#[test]
fn a_promoted_worker_claims_nothing() {
    let mut seen = observed(LocalState::Active);
    seen.local.is_manager = true;
    seen.local.swarm_id = Some("swarm".into());
    seen.own_swarm = Some(own_swarm(Mark::Ours, false));
    for phase in [CharterPhase::Closed, CharterPhase::Founding] {
        let charter = seen.charter.as_mut().unwrap();
        (charter.phase, charter.lease_expires_at) = (phase, seen.now);
        let step = |role| decide("i-9", role, &seen);
        assert!(matches!(step(Role::Manager), Step::Claim { .. }), "{phase:?}");
        assert!(matches!(step(Role::Worker), Step::Wait { .. }), "{phase:?}");
    }
}

/// A node that Docker names had a certificate, and raft may count it.
#[test]
fn a_managers_join_that_goes_on_is_given_up_only_without_a_node() {
    let mut seen = unsettled(LocalState::Pending, None);
    for (role, node_id, is_given_up) in [
        (Role::Manager, Some("node"), false),
        (Role::Manager, None, true),
        (Role::Worker, Some("node"), true),
        (Role::Worker, None, true),
    ] {
        seen.local.node_id = node_id.map(str::to_owned);
        let step = decide("i-0", role, &seen);
        assert_eq!(
            matches!(step, Step::Discard { .. }),
            is_given_up,
            "{role} {node_id:?}: {step:?}"
        );
    }
    seen.unsettled_for = SETTLE_TIME / 2;
    assert!(matches!(decide("i-0", Role::Manager, &seen), Step::Wait { .. }));
}

#[test]
fn a_swarm_that_the_certificate_calls_another_is_not_left_whatever_the_row_says() {
    let mut seen = unsettled(LocalState::Error, Some("theirs"));
    for member in [None, Some(row("node", 2, MemberState::Ready))] {
        seen.member = member;
        for role in Role::ALL {
            let step = decide("i-0", role, &seen);
            assert!(matches!(step, Step::Refuse(Refusal::ForeignSwarm { .. })), "{role}: {step:?}");
        }
    }
    seen.member = Some(row("node", 1, MemberState::Ready));
    assert!(
        matches!(decide("i-0", Role::Worker, &seen), Step::LeaveStale { .. }),
        "it joined that one under an earlier charter"
    );
}

#[test]
fn a_row_of_the_same_swarm_under_an_earlier_generation_is_not_of_the_past() {
    let mut seen = unsettled(LocalState::Error, None);
    let mut member = row("node", 1, MemberState::Ready);
    member.swarm_id = Some("published".into());
    seen.member = Some(member);
    assert!(matches!(decide("i-0", Role::Worker, &seen), Step::Wait { .. }));
}

/// An instance from an image of a running manager: its Docker has the certificate and the node id of the original.
#[test]
fn a_copy_of_a_manager_asks_for_nothing_in_its_name() {
    for member in [None, Some(row("earlier", 2, MemberState::Ready))] {
        let mut seen = unsettled(LocalState::Active, Some("published"));
        seen.member = member;
        (seen.local.is_manager, seen.local.has_managers) = (true, true);
        seen.is_moved = true;
        seen.peer_demotion = Some(PeerDemotion { request: None, is_led: true });
        let step = decide("i-copy", Role::Manager, &seen);
        assert!(matches!(step, Step::Refuse(Refusal::Copied { .. })), "{step:?}");
        seen.member = Some(row("node", 2, MemberState::Ready));
        let step = decide("i-0", Role::Manager, &seen);
        assert!(matches!(step, Step::AskOut { .. }), "the original, which has moved: {step:?}");
    }
}

const EXPIRED: &str = "x509: certificate has expired";

proptest! {
    /// Whatever else is known: skep does not leave a swarm that by the certificate is another one, unless the charter
    /// or this node's own row shows that it was abandoned; and it does not discard a manager of the charter's swarm
    /// that was Ready. While the certificate cannot be read, skep discards only a worker that its own row names and
    /// whose certificate Docker refuses; it never discards a manager without a certificate that may have been a node.
    /// It asks for no demotion of a node that no row of this instance names and that this instance's join has not
    /// created.
    #[test]
    fn the_certificate_comes_first(
        state in prop::sample::select(&[LocalState::Active, LocalState::Pending, LocalState::Error]),
        role in prop::sample::select(&Role::ALL),
        certified in prop::sample::select(&[None, Some("published"), Some("theirs")]),
        (is_unreadable, is_named) in any::<(bool, bool)>(),
        row_of in prop::sample::select(&[None, Some("node"), Some("earlier")]),
        row_in in prop::sample::select(&[None, Some("published"), Some("theirs")]),
        generation in 1u64..4,
        is_manager in any::<bool>(),
        is_manager_certified in any::<bool>(),
        is_moved in any::<bool>(),
        error in prop::sample::select(&["", EXPIRED, "The swarm does not have a leader"]),
        (is_led, is_stuck) in any::<(bool, bool)>(),
        is_joining in prop::sample::select(&[Fact::Yes, Fact::No, Fact::CannotTell]),
        has_leader in prop::sample::select(&[Fact::Yes, Fact::No, Fact::CannotTell]),
    ) {
        let mut seen = unsettled(state, certified);
        let is_unreadable = is_unreadable && certified.is_none();
        seen.certificate_error = is_unreadable.then(|| "Input/output error".to_owned());
        let role_of = |is_manager| if is_manager { Role::Manager } else { Role::Worker };
        seen.certified = certified.map(|_| role_of(is_manager_certified));
        // Docker always names an active node, and so does a certificate.
        let is_named = is_named || certified.is_some() || state == LocalState::Active;
        seen.local.node_id = seen.local.node_id.filter(|_| is_named);
        seen.member = row_of.map(|id| {
            let mut row = row(id, generation, MemberState::Ready);
            row.swarm_id = row_in.map(str::to_owned);
            row
        });
        (seen.local.is_manager, seen.is_moved) = (is_manager, is_moved);
        seen.local.error = error.into();
        seen.peer_demotion = Some(PeerDemotion { request: None, is_led });
        seen.unsettled_for = if is_stuck { STUCK_TIME } else { SETTLE_TIME };
        (seen.is_joining, seen.has_leader) = (is_joining, has_leader);
        let is_row_ours = row_of == Some("node") && is_named;
        let is_promoted = certified.is_some() && is_manager_certified;
        let may_be_manager =
            is_manager || (role == Role::Manager || is_promoted) && state != LocalState::Active;
        match decide("i-0", role, &seen) {
            Step::AskOut { .. } => {
                let is_let_in = match state {
                    LocalState::Active => is_manager && !error.is_empty() && error != EXPIRED,
                    _ => state == LocalState::Pending && is_promoted,
                };
                prop_assert!(certified != Some("theirs"));
                prop_assert!(is_row_ours || is_let_in && is_stuck && is_joining == Fact::Yes);
            }
            Step::Discard { .. } if certified == Some("theirs") => prop_assert!(false, "not ours"),
            Step::Discard { .. } if certified.is_none() => {
                let is_refused_worker = is_row_ours && !may_be_manager && error == EXPIRED;
                prop_assert!(!is_unreadable || is_refused_worker, "it may be a node of any swarm");
                let is_of_an_earlier_life = row_of.is_none() || is_joining == Fact::Yes;
                prop_assert!(!may_be_manager || !is_named && !is_manager && is_of_an_earlier_life);
            }
            Step::Refuse(_) | Step::LeaveStale { .. } if is_unreadable => {
                prop_assert!(is_row_ours, "nothing else says which swarm it is in");
            }
            Step::Discard { .. } if certified == Some("published") && may_be_manager => {
                prop_assert!(is_joining == Fact::Yes && !is_row_ours && state == LocalState::Error);
            }
            Step::LeaveStale { .. } if certified == Some("theirs") => {
                prop_assert!(is_row_ours && generation < 2);
                prop_assert!(!may_be_manager || has_leader == Fact::No);
            }
            Step::LeaveStale { .. } if certified == Some("published") => {
                prop_assert!(is_moved && !is_manager, "it is the charter's");
            }
            Step::Refuse(_) if certified == Some("published") => {
                prop_assert!(is_moved && is_manager && !is_row_ours, "a copy");
            }
            _ => {}
        }
    }
}
