//! Several nodes found, join and lose a swarm, step by step in any order. Every node decides on an **earlier**
//! observation; nodes crash in between and are replaced, and leases expire. Writes are accepted or refused as by
//! DynamoDB's conditions and by Docker.

mod certificate;
mod demotion_request;
mod fuzz;
mod half_made;
mod lookups;
mod missing_charter;
mod nonsense;
mod recreated;
pub(crate) mod world;

use std::time::Duration;

use proptest::prelude::*;
use time::OffsetDateTime;

use super::decide::decide;
use super::types::{Mark, Observed, OwnSwarm, Refusal, SETTLE_TIME, STUCK_TIME, Stale, Step};
use super::{CONSISTENCY_GRACE, NotVisibleYet, Outlook, Unsettled};
use crate::clients::docker::{LocalNode, LocalState};
use crate::clients::ledger::{Charter, CharterPhase, MemberState, Traces};
use crate::common::fact::Fact;
use crate::common::instance::Role;
use world::{Event, World, row, swarm_name};

fn events(nodes: usize) -> impl Strategy<Value = Vec<Event>> {
    let node = 0..nodes;
    let event = prop_oneof![
        10 => node.clone().prop_map(Event::Look),
        10 => node.clone().prop_map(Event::Act),
        4 => node.clone().prop_map(Event::ActAndCrash),
        2 => node.clone().prop_map(Event::Crash),
        2 => node.clone().prop_map(Event::LookBlind),
        1 => node.clone().prop_map(Event::ActHalf),
        1 => node.clone().prop_map(Event::Serve),
        1 => node.clone().prop_map(Event::SpoilRow),
        1 => Just(Event::DeleteCharter),
        1 => Just(Event::RowsTidied),
        1 => node.clone().prop_map(Event::Silence),
        1 => node.clone().prop_map(Event::Detach),
        1 => node.clone().prop_map(Event::Promote),
        1 => node.clone().prop_map(Event::Demote),
        3 => node.clone().prop_map(Event::Replace),
        2 => node.prop_map(Event::Recover),
        2 => Just(Event::LeaseExpires),
        2 => Just(Event::PatienceEnds),
    ];
    prop::collection::vec(event, 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// After any events: each generation was published at most once, and never over a swarm that is alive; and when all
    /// has settled, every node is Ready in the charter's swarm. If a quorum is lost and managers survive, the operator
    /// must act: re-create the quorum on one of them, or terminate them where the ledger lacks the facts for that.
    #[test]
    fn any_order_of_steps_crashes_and_losses_ends_in_one_swarm(events in events(5)) {
        let mut world = World::new(3, 2);
        for event in events {
            world.happen(event);
        }
        for host in &mut world.nodes {
            (host.is_silent, host.is_detached) = (false, false);
        }
        world.mend_rows();
        world.settle();
        for node in 0..world.nodes.len() {
            let is_begun = world.charter.as_ref().is_some_and(Charter::is_recovery);
            let is_well = world.opened.last().is_none_or(|open| world.has_quorum(open.1));
            if is_well && !is_begun {
                break;
            }
            let before = world.charter.clone();
            world.happen(Event::Recover(node));
            if world.charter != before {
                world.settle();
            }
        }
        let charter = world.charter.clone();
        let is_begun = world.charter.as_ref().is_some_and(Charter::is_recovery);
        if charter.is_none() || is_begun || world.opened.last().is_some_and(|open| !world.has_quorum(open.1)) {
            for node in 0..world.nodes.len() {
                // A swarm that no charter names cannot be recovered.
                let is_survivor = world.nodes[node].swarm.is_some_and(|own| {
                    charter.as_ref().is_none_or(|it| it.swarm() == Some(&swarm_name(own)))
                });
                if is_survivor && world.counts_as_manager(node) {
                    world.happen(Event::Replace(node));
                }
            }
            world.settle();
        }
        for node in 0..world.nodes.len() {
            if world.is_stranded(node) || world.is_nobodys(node) {
                world.happen(Event::Replace(node));
                world.settle();
            }
        }
        for node in 0..world.nodes.len() {
            let step = world.decide(node);
            prop_assert!(matches!(step, Step::Ready(_)), "{node}: {step:?}");
        }
    }
}

/// The simplest case: three managers of a swarm are replaced at once.
#[test]
fn replacements_of_all_managers_found_the_next_generation_once() {
    let mut world = World::new(3, 2);
    world.settle();
    assert_eq!(world.opened.len(), 1);
    (0..3).for_each(|node| world.happen(Event::Replace(node)));
    world.settle();
    assert_eq!(world.opened.iter().map(|open| open.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(world.swarms[world.opened[1].1].len(), 5, "every node has moved over");
}

/// Two of three managers are replaced; the operator re-creates the quorum on the third.
#[test]
fn a_survivor_re_creates_the_quorum_and_the_swarm_stays() {
    let mut world = World::new(3, 2);
    world.settle();
    world.happen(Event::Recover(2));
    assert_eq!(world.charter.as_ref().unwrap().generation, 1, "a leader answers");
    (0..2).for_each(|node| world.happen(Event::Replace(node)));
    world.settle();
    assert_eq!(world.opened, [(1, 0)], "no node does it without the operator");
    world.happen(Event::Recover(2));
    world.settle();
    assert_eq!(world.opened, [(1, 0), (2, 0)]);
    assert_eq!((world.swarms.len(), world.swarms[0].len()), (1, 5), "every node is in it");
}

/// One of three managers is gone and one is unreachable; that one returns as a former manager.
#[test]
fn who_was_left_out_is_fenced_and_joins_anew() {
    let mut world = World::new(3, 0);
    world.settle();
    world.happen(Event::Silence(1));
    world.happen(Event::Replace(0));
    world.happen(Event::Recover(2));
    world.happen(Event::Silence(1));
    assert!(!matches!(world.decide(1), Step::LeaveStale { .. }), "not before it is open");
    (0..2).for_each(|_| (world.happen(Event::Look(2)), world.happen(Event::Act(2))).0);
    assert!(matches!(world.decide(1), Step::LeaveStale { by_force: true, .. }));
    world.settle();
    assert_eq!(world.swarms[0].len(), 3, "every node is in it");
}

/// The manager that holds the claim is gone for good before it is done: the swarm is then lost, on evidence alone.
#[test]
fn a_recovery_whose_founder_is_gone_is_claimed_over_in_the_end() {
    let mut world = World::new(3, 1);
    world.settle();
    (0..2).for_each(|node| world.happen(Event::Replace(node)));
    world.happen(Event::Recover(2));
    world.happen(Event::LeaseExpires);
    assert!(matches!(world.decide(0), Step::Wait { .. }), "its founder lives");
    world.happen(Event::Replace(2));
    world.settle();
    assert_eq!(world.opened, [(1, 0), (3, 1)]);
    assert!(world.charter.unwrap().former.contains(&swarm_name(0)));
}

#[test]
fn while_one_manager_is_listed_nothing_is_founded() {
    let mut world = World::new(3, 2);
    world.settle();
    world.happen(Event::Silence(2));
    (0..2).for_each(|node| world.happen(Event::Replace(node)));
    world.settle();
    assert_eq!(world.opened.len(), 1);
    assert!(matches!(world.decide(0), Step::Join { .. }));
}

fn observed(state: LocalState) -> Observed {
    let mut world = World::new(1, 0);
    world.act(0, Step::Claim { seen: None, traces: Traces::default() });
    let seen = world.look(0);
    Observed { local: LocalNode { state, ..seen.local.clone() }, ..seen }
}

/// A swarm with a leader, founded under generation 1 while the claim of [`observed`] was valid.
fn own_swarm(mark: Mark, is_alone: bool) -> OwnSwarm {
    let created_at = Some(OffsetDateTime::UNIX_EPOCH);
    OwnSwarm { mark, is_alone, generation: Some(1), created_at, has_former: Fact::No }
}

/// The swarm of that adoption exists elsewhere: founding another one would make two of one cluster.
#[test]
fn nothing_is_founded_under_the_claim_of_an_adoption() {
    let mut seen = observed(LocalState::Inactive);
    let mut claim = seen.charter.clone().unwrap();
    assert!(matches!(decide(&claim.founder, Role::Manager, &seen), Step::Init { .. }));
    claim.adopts = Some("theirs".into());
    seen.charter = Some(claim.clone());
    assert!(matches!(decide(&claim.founder, Role::Manager, &seen), Step::Wait { .. }));
    seen.now = claim.lease_expires_at;
    assert!(matches!(decide(&claim.founder, Role::Manager, &seen), Step::Claim { .. }));
}

#[test]
fn a_join_in_the_background_gets_time_to_settle_and_is_then_given_up() {
    let mut seen = observed(LocalState::Pending);
    assert!(matches!(decide("i-0", Role::Worker, &seen), Step::Wait { .. }));
    seen.unsettled_for = SETTLE_TIME;
    assert!(matches!(decide("i-0", Role::Worker, &seen), Step::Discard { .. }));
}

#[test]
fn a_swarm_that_bears_no_mark_of_ours_is_left_alone() {
    let mut seen = observed(LocalState::Active);
    seen.local.swarm_id = Some("theirs".into());
    seen.local.node_id = Some("node".into());
    // A worker whose row does not name this node is refused as soon as there is a swarm to compare with.
    assert!(matches!(decide("i-0", Role::Worker, &seen), Step::Wait { .. }));
    open(&mut seen, 1, "published");
    assert!(matches!(decide("i-0", Role::Worker, &seen), Step::Refuse(_)));
    // A manager of an unmarked swarm, even alone.
    seen.local.is_manager = true;
    for mark in [Mark::Missing, Mark::Others] {
        seen.own_swarm = Some(own_swarm(mark, true));
        assert!(matches!(decide("i-0", Role::Manager, &seen), Step::Refuse(_)), "{mark:?}");
    }
}

#[test]
fn beside_an_open_charter_only_a_marked_swarm_of_an_earlier_claim_without_others_is_given_up() {
    let mut seen = observed(LocalState::Active);
    open(&mut seen, 2, "published");
    seen.local.swarm_id = Some("another".into());
    seen.local.is_manager = true;
    let mut step = |mark, is_alone, generation| {
        seen.own_swarm = Some(OwnSwarm { generation, ..own_swarm(mark, is_alone) });
        decide("i-0", Role::Manager, &seen)
    };
    assert!(matches!(step(Mark::Ours, true, Some(1)), Step::Discard { .. }));
    for (is_alone, generation) in [(false, Some(1)), (true, Some(2)), (true, Some(3)), (true, None)]
    {
        let waits = step(Mark::Ours, is_alone, generation);
        assert!(matches!(waits, Step::Wait { .. }), "{is_alone} {generation:?}: {waits:?}");
    }
    for (mark, is_alone) in
        [(Mark::Missing, true), (Mark::Missing, false), (Mark::Others, true), (Mark::Others, false)]
    {
        assert!(matches!(step(mark, is_alone, Some(1)), Step::Refuse(_)), "{mark:?} {is_alone}");
    }
}

#[test]
fn a_worker_that_is_known_by_another_address_joins_anew_and_a_manager_is_demoted_first() {
    let mut seen = observed(LocalState::Active);
    let charter = seen.charter.as_mut().unwrap();
    charter.phase = CharterPhase::Open;
    charter.swarm_id = Some("published".into());
    seen.local.swarm_id = Some("published".into());
    seen.local.has_managers = true;
    seen.local.node_id = Some("node".into());
    seen.member = Some(row("node", 1, MemberState::Ready));
    assert!(matches!(decide("i-0", Role::Worker, &seen), Step::Ready(_)), "{:?}", seen.local);
    seen.is_moved = true;
    let leaves = Step::LeaveStale { by_force: false, why: Stale::Moved };
    assert_eq!(decide("i-0", Role::Worker, &seen), leaves);
    assert_eq!(decide("i-0", Role::Manager, &seen), leaves, "once it is demoted");
    seen.local.is_manager = true;
    assert!(matches!(decide("i-0", Role::Manager, &seen), Step::Ready(_)), "raft reaches it");
    seen.local.has_managers = false;
    let Step::Wait { why } = decide("i-0", Role::Manager, &seen) else { panic!("it is in raft") };
    assert!(why.contains("another manager that has a leader"), "{why}");
}

#[test]
fn a_locked_manager_tries_the_key_of_the_charters_generation() {
    let mut seen = observed(LocalState::Locked);
    let unlocks =
        |role, seen: &Observed| matches!(decide("i-0", role, seen), Step::Unlock { generation: 1 });
    for (phase, expected) in
        [(CharterPhase::Founding, true), (CharterPhase::Open, true), (CharterPhase::Closed, false)]
    {
        seen.charter.as_mut().unwrap().phase = phase;
        assert_eq!(unlocks(Role::Manager, &seen), expected, "{phase:?}");
        assert!(!unlocks(Role::Worker, &seen), "the key is the managers'");
    }
    seen.charter = None;
    assert!(matches!(decide("i-0", Role::Manager, &seen), Step::Refuse(Refusal::Locked)));
}

#[test]
fn a_closed_charter_is_claimed_by_managers_alone() {
    let mut seen = observed(LocalState::Inactive);
    seen.charter.as_mut().unwrap().phase = CharterPhase::Closed;
    assert!(matches!(decide("i-9", Role::Manager, &seen), Step::Claim { .. }));
    assert!(matches!(decide("i-9", Role::Worker, &seen), Step::Wait { .. }));
    seen.lives_on = Some([10, 0, 0, 1].into());
    let waits = decide("i-9", Role::Manager, &seen);
    assert!(matches!(waits, Step::Wait { .. }), "its swarm lives: {waits:?}");
}

fn open(seen: &mut Observed, generation: u64, swarm_id: &str) {
    let charter = seen.charter.as_mut().unwrap();
    charter.phase = CharterPhase::Open;
    charter.generation = generation;
    charter.swarm_id = Some(swarm_id.into());
}

#[test]
fn a_worker_that_the_managers_do_not_list_leaves_the_charters_own_swarm() {
    let mut seen = observed(LocalState::Active);
    open(&mut seen, 1, "published");
    seen.local.swarm_id = Some("published".into());
    seen.local.node_id = Some("node".into());
    seen.local.has_managers = true;
    seen.member = Some(row("node", 1, MemberState::Removed));
    let step = decide("i-0", Role::Worker, &seen);
    assert!(matches!(step, Step::LeaveStale { by_force: false, .. }), "{step:?}");
    // Docker has restarted meanwhile, and no manager lets it in.
    let waits = Observed {
        local: LocalNode { state: LocalState::Pending, has_managers: false, ..seen.local.clone() },
        ..seen.clone()
    };
    let step = decide("i-0", Role::Worker, &waits);
    assert!(matches!(step, Step::LeaveStale { by_force: true, .. }), "{step:?}");
    // Promoted by hand meanwhile: raft may count it.
    let promoted = Observed { certified: Some(Role::Manager), ..waits };
    let step = decide("i-0", Role::Worker, &promoted);
    assert!(matches!(step, Step::Wait { .. }), "{step:?}");
    // The row of an earlier life of the same instance proves nothing.
    seen.member = Some(row("earlier", 1, MemberState::Removed));
    assert!(matches!(decide("i-0", Role::Worker, &seen), Step::Ready(_)));
}

#[test]
fn a_manager_is_fenced_out_by_its_row_or_by_the_charter_and_by_nothing_else() {
    let mut seen = observed(LocalState::Active);
    open(&mut seen, 2, "next");
    seen.local.swarm_id = Some("lost".into());
    seen.local.node_id = Some("node".into());
    seen.local.is_manager = true;
    let step = |seen: &Observed| decide("i-0", Role::Manager, seen);
    assert!(matches!(step(&seen), Step::Wait { .. }), "it is unknown which cluster's swarm it is");
    seen.has_leader = Fact::No;
    assert!(matches!(step(&seen), Step::Wait { .. }), "it is unknown which cluster's swarm it is");
    seen.member = Some(row("node", 1, MemberState::Ready));
    assert!(matches!(step(&seen), Step::LeaveStale { by_force: true, .. }));
    seen.member = None;
    seen.charter.as_mut().unwrap().former = vec!["lost".into()];
    assert!(matches!(step(&seen), Step::LeaveStale { by_force: true, .. }));
    seen.own_swarm = Some(own_swarm(Mark::Others, true));
    assert!(matches!(step(&seen), Step::Refuse(_)), "it bears another mark");
}

/// The swarm may have a quorum that needs this manager.
#[test]
fn a_manager_leaves_a_swarm_of_the_past_by_force_only_where_it_has_no_leader() {
    for state in [LocalState::Active, LocalState::Pending, LocalState::Error] {
        let mut seen = observed(state);
        open(&mut seen, 2, "next");
        seen.charter.as_mut().unwrap().former = vec!["lost".into()];
        seen.local.swarm_id = Some("lost".into());
        seen.local.node_id = Some("node".into());
        seen.local.is_manager = true;
        seen.member = Some(row("node", 1, MemberState::Ready));
        for (has_leader, leaves) in
            [(Fact::Yes, false), (Fact::CannotTell, false), (Fact::No, true)]
        {
            seen.has_leader = has_leader;
            seen.own_swarm = (has_leader == Fact::Yes).then(|| own_swarm(Mark::Ours, false));
            let step = decide("i-0", Role::Manager, &seen);
            let is_forced = matches!(step, Step::LeaveStale { by_force: true, .. });
            let is_wait = matches!(step, Step::Wait { .. });
            assert_eq!(
                (is_forced, is_wait),
                (leaves, !leaves),
                "{state:?} {has_leader:?}: {step:?}"
            );
        }
    }
}

#[test]
fn a_worker_whose_certificate_is_refused_is_given_up_a_manager_never() {
    let mut seen = observed(LocalState::Error);
    open(&mut seen, 1, "published");
    seen.local.swarm_id = Some("published".into());
    seen.local.node_id = Some("node".into());
    seen.member = Some(row("node", 1, MemberState::Ready));
    seen.unsettled_for = STUCK_TIME;
    let step = |role, seen: &Observed| decide("i-0", role, seen);
    assert!(matches!(step(Role::Worker, &seen), Step::Wait { .. }), "no manager answers");
    seen.local.error = "x509: certificate has expired or is not yet valid".into();
    assert!(matches!(step(Role::Worker, &seen), Step::Discard { .. }));
    assert!(matches!(step(Role::Manager, &seen), Step::Wait { .. }));
    seen.unsettled_for = SETTLE_TIME;
    assert!(matches!(step(Role::Worker, &seen), Step::Wait { .. }));
}

#[test]
fn a_node_is_unsettled_for_as_long_as_every_look_says_so_in_one_way() {
    let start = tokio::time::Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let sound = |state| {
        let mut local = observed(state).local;
        (local.has_managers, local.error) = (true, String::new());
        local
    };
    let unsound = LocalNode { error: "no leader".into(), ..sound(LocalState::Active) };
    let (pending, error) = (sound(LocalState::Pending), sound(LocalState::Error));
    let mut unsettled = Unsettled::default();
    let mut lasted = |local: &LocalNode, seconds| {
        unsettled.see(local, at(seconds));
        unsettled.lasted(at(seconds)).as_secs()
    };
    assert_eq!((lasted(&pending, 0), lasted(&error, 60)), (0, 60));
    assert_eq!((lasted(&unsound, 70), lasted(&unsound, 100)), (0, 30), "another state");
    assert_eq!((lasted(&pending, 110), lasted(&pending, 120)), (0, 10));
    for ends in [LocalState::Active, LocalState::Inactive, LocalState::Locked] {
        assert_eq!((lasted(&sound(ends), 130), lasted(&pending, 140)), (0, 0), "{ends:?}");
    }
    unsettled.end();
    assert_eq!(unsettled.lasted(at(300)), Duration::ZERO, "an observation has failed");
}

#[test]
fn a_permission_that_comes_late_has_its_time_from_the_first_refusal() {
    let first = tokio::time::Instant::now();
    let at = |seconds| first + Duration::from_secs(seconds);
    let grace = CONSISTENCY_GRACE.as_secs();
    let mut not_yet = NotVisibleYet::default();
    assert!(not_yet.may_go_on(Outlook::Passing, at(0)), "the ledger did not answer for minutes");
    assert!(not_yet.may_go_on(Outlook::MaybeNotYet, at(300)), "the first refusal");
    assert!(not_yet.may_go_on(Outlook::Passing, at(310)));
    assert!(not_yet.may_go_on(Outlook::MaybeNotYet, at(300 + grace - 1)));
    assert!(!not_yet.may_go_on(Outlook::MaybeNotYet, at(300 + grace)), "it lasts");
    not_yet.end();
    assert!(not_yet.may_go_on(Outlook::MaybeNotYet, at(1000)), "another permission comes later");
    assert!(!not_yet.may_go_on(Outlook::Final, at(1000)));
}
