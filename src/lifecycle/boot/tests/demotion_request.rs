//! A manager whose present node is of no use leaves raft once the others confirm its demotion.

use std::time::Duration;

use proptest::prelude::*;
use time::OffsetDateTime;

use super::world::row;
use super::{observed, open};
use crate::clients::docker::LocalState;
use crate::clients::ledger::{DemotionRequest, MemberState};
use crate::common::fact::Fact;
use crate::common::instance::Role;
use crate::lifecycle::boot::decide::decide;
use crate::lifecycle::boot::demotion_request::PeerDemotion;
use crate::lifecycle::boot::types::Stale;
use crate::lifecycle::boot::types::{Observed, SETTLE_TIME, STUCK_TIME, Step};

const EXPIRED: &str = "x509: certificate has expired or is not yet valid";
const LEADERLESS: &str = "rpc error: code = Unknown desc = The swarm does not have a leader";

proptest! {
    /// A manager that has moved, whose certificate is refused, or that raft admitted and that never got a leader,
    /// leaves by force only when another manager confirms the demotion of this very node. It asks for that only while
    /// another manager has a leader; with neither it stays.
    #[test]
    fn a_manager_leaves_raft_on_the_others_word_alone(
        state in prop::sample::select(&[LocalState::Active, LocalState::Pending, LocalState::Error]),
        is_manager in any::<bool>(),
        has_managers in any::<bool>(),
        error in prop::sample::select(&["", EXPIRED, LEADERLESS]),
        is_moved in any::<bool>(),
        is_stuck in any::<bool>(),
        is_known in any::<bool>(),
        is_row_its in any::<bool>(),
        is_led in any::<bool>(),
        asked in prop::sample::select(&[None, Some(("node", false)), Some(("node", true)), Some(("earlier", true))]),
        is_unreadable in any::<bool>(),
        is_joining in prop::sample::select(&[Fact::Yes, Fact::No, Fact::CannotTell]),
        certified in prop::sample::select(&[None, Some(Role::Manager), Some(Role::Worker)]),
    ) {
        let mut seen = observed(state);
        open(&mut seen, 1, "published");
        seen.member = Some(row(if is_row_its { "node" } else { "earlier" }, 1, MemberState::Ready));
        // Docker always names an active node.
        let is_known = is_known || state == LocalState::Active;
        seen.local.node_id = is_known.then(|| "node".into());
        seen.certified = certified.filter(|_| is_known && state != LocalState::Active);
        let is_in = state == LocalState::Active || seen.certified.is_some();
        seen.local.swarm_id = is_in.then(|| "published".into());
        (seen.local.is_manager, seen.local.has_managers) = (is_manager, has_managers);
        seen.local.error = error.into();
        let is_refused = error == EXPIRED;
        let is_unreadable = is_unreadable && seen.certified.is_none() && state != LocalState::Active;
        seen.certificate_error = is_unreadable.then(|| "Input/output error".to_owned());
        (seen.is_moved, seen.is_joining) = (is_moved, is_joining);
        seen.unsettled_for = if is_stuck { STUCK_TIME } else { SETTLE_TIME };
        let request = asked.map(|(node, is_out)| {
            let mut request = DemotionRequest::new("i-0", node, "it has moved", seen.now);
            request.is_out = is_out;
            request
        });
        let is_let_in = match state {
            LocalState::Pending => seen.certified == Some(Role::Manager),
            LocalState::Active => is_manager && error == LEADERLESS,
            _ => false,
        };
        let never_got_in = is_let_in && (is_joining, is_stuck, is_row_its) == (Fact::Yes, true, false);
        let is_worker = state == LocalState::Active && !is_manager;
        let is_broken = is_moved || is_refused || never_got_in;
        seen.peer_demotion = (is_broken || is_worker).then_some(PeerDemotion { request, is_led });
        let is_out = asked == Some(("node", true));
        match decide("i-0", Role::Manager, &seen) {
            Step::AskOut { node_id, .. } => {
                prop_assert!(is_broken && is_led && is_known && node_id == "node");
                prop_assert!(asked.is_none_or(|(node, _)| node != "node"));
            }
            Step::LeaveStale { by_force: true, .. } => prop_assert!(is_broken && is_known && is_out),
            Step::LeaveStale { by_force: false, .. } => prop_assert!(
                is_worker && (is_moved || is_out) && asked != Some(("node", false))
            ),
            // It has no certificate, and its join started after its row was written.
            Step::Discard { .. } => prop_assert!(
                !is_refused && !is_unreadable && !is_known && !is_manager && is_joining == Fact::Yes
                    || state == LocalState::Error && seen.certified.is_some() && is_joining == Fact::Yes && !is_refused
            ),
            // Started from an image of a running manager.
            Step::Refuse(_) => prop_assert!(
                state == LocalState::Active && is_manager && is_moved && !is_row_its
            ),
            Step::Ready(_) => prop_assert!(state == LocalState::Active && has_managers && error.is_empty()),
            Step::Wait { why } => prop_assert!(!why.is_empty()),
            step => prop_assert!(false, "no cause for {:?}", step),
        }
    }
}

/// With a single manager, or a lost quorum, it asks for nothing and reports why it waits.
#[test]
fn a_manager_that_is_refused_asks_after_its_time_and_only_where_somebody_can_help() {
    let mut seen = observed(LocalState::Error);
    open(&mut seen, 1, "published");
    seen.local.node_id = Some("node".into());
    seen.local.error = EXPIRED.into();
    seen.member = Some(row("node", 1, MemberState::Ready));
    let mut step = |is_led, request: Option<DemotionRequest>, unsettled_for| {
        (seen.peer_demotion, seen.unsettled_for) =
            (Some(PeerDemotion { request, is_led }), unsettled_for);
        decide("i-0", Role::Manager, &seen)
    };
    let Step::Wait { why } = step(false, None, STUCK_TIME) else { panic!("no manager can help") };
    assert!(why.contains("another manager that has a leader"), "{why}");
    assert!(matches!(step(true, None, SETTLE_TIME), Step::Wait { .. }), "it may pass");
    assert!(matches!(step(true, None, STUCK_TIME), Step::AskOut { .. }));
    let asked = DemotionRequest::new("i-0", "node", "refused", OffsetDateTime::UNIX_EPOCH);
    let mut out = asked.clone();
    out.is_out = true;
    let waits = step(false, Some(asked), Duration::ZERO);
    assert!(matches!(waits, Step::Wait { .. }), "it is still in raft");
    let goes = Step::LeaveStale { by_force: true, why: Stale::Demoted };
    assert_eq!(step(false, Some(out), Duration::ZERO), goes, "also after a restart");
}

/// Its Docker hangs while it catches up with raft, or the others no longer reach its port.
#[test]
fn a_manager_that_was_let_in_and_never_got_in_asks_after_its_time() {
    let mut pending = observed(LocalState::Pending);
    open(&mut pending, 1, "published");
    let local = &mut pending.local;
    (local.node_id, local.swarm_id) = (Some("node".into()), Some("published".into()));
    pending.certified = Some(Role::Manager);
    pending.is_joining = Fact::Yes;
    pending.unsettled_for = STUCK_TIME;
    pending.peer_demotion = Some(PeerDemotion { request: None, is_led: true });
    let mut active = Observed { certified: None, ..pending.clone() };
    active.local.state = LocalState::Active;
    (active.local.is_manager, active.local.has_managers) = (true, true);
    active.local.error = LEADERLESS.into();
    for stuck in [&pending, &active] {
        let step = |change: fn(&mut Observed)| {
            let mut seen = stuck.clone();
            change(&mut seen);
            decide("i-0", Role::Manager, &seen)
        };
        let waits = |change| {
            let step = step(change);
            assert!(matches!(step, Step::Wait { .. }), "{step:?} {:?}", stuck.local.state);
        };
        assert!(matches!(step(|_| {}), Step::AskOut { .. }), "{:?}", stuck.local.state);
        waits(|seen| seen.unsettled_for = SETTLE_TIME);
        waits(|seen| seen.peer_demotion = Some(PeerDemotion { request: None, is_led: false }));
        // An image of a running manager has never started to join; an unreadable ledger proves nothing.
        waits(|seen| seen.is_joining = Fact::No);
        waits(|seen| seen.is_joining = Fact::CannotTell);
        // Its raft state counts, and a restart may take some time.
        waits(|seen| seen.member = Some(row("node", 1, MemberState::Ready)));
        let asked = |seen: &mut Observed, is_out| {
            let mut request = DemotionRequest::new("i-0", "node", "stuck", seen.now);
            request.is_out = is_out;
            seen.peer_demotion = Some(PeerDemotion { request: Some(request), is_led: false });
        };
        let goes = |by_force| Step::LeaveStale { by_force, why: Stale::Demoted };
        let mut seen = stuck.clone();
        asked(&mut seen, false);
        assert!(matches!(decide("i-0", Role::Manager, &seen), Step::Wait { .. }), "still in raft");
        asked(&mut seen, true);
        assert_eq!(decide("i-0", Role::Manager, &seen), goes(true));
        // After the demotion, Docker gets it in as a worker.
        (seen.local.state, seen.local.is_manager) = (LocalState::Active, false);
        (seen.local.has_managers, seen.local.error) = (true, String::new());
        assert_eq!(decide("i-0", Role::Manager, &seen), goes(false));
        asked(&mut seen, false);
        assert!(matches!(decide("i-0", Role::Manager, &seen), Step::Wait { .. }), "still in raft");
        seen.peer_demotion = Some(PeerDemotion { request: None, is_led: false });
        assert!(matches!(decide("i-0", Role::Manager, &seen), Step::Ready(_)), "it has not asked");
    }
    pending.certified = Some(Role::Worker);
    assert!(matches!(decide("i-0", Role::Manager, &pending), Step::Wait { .. }), "not in raft");
    active.local.error = "rpc error: code = DeadlineExceeded".into();
    assert!(matches!(decide("i-0", Role::Manager, &active), Step::Wait { .. }), "it cannot tell");
    active.local.error = String::new();
    assert!(matches!(decide("i-0", Role::Manager, &active), Step::Ready(_)), "it is well");
}
