//! What a boot looks up in each situation.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;
use time::OffsetDateTime;

use super::world::row;
use crate::clients::docker::{LocalNode, LocalState};
use crate::clients::ledger::{Charter, CharterPhase, Member, MemberState, Traces, fuzz};
use crate::common::fact::Fact;
use crate::common::instance::Role::{self, Manager, Worker};
use crate::common::timing::LEADER_WITHIN;
use crate::lifecycle::boot::lookups::{
    Facts, Lookups, OwnLookup, Rest, choose, needs_attempt, needs_certificate, needs_row,
};
use crate::lifecycle::boot::types::STUCK_TIME;

const ME: &str = "i-me";

/// The charters: none, of a founder, of one that re-creates the quorum of `ours`, open for `ours`, open after the
/// quorum of `ours` was re-created without this node, closed over `ours`.
fn charters() -> [Option<Charter>; 6] {
    let (now, ours) = (OffsetDateTime::UNIX_EPOCH, || Some("ours".to_owned()));
    let founding = Charter::claim(None, &Traces::default(), "i-other", now, Duration::ZERO);
    let recovery = Charter { recovers: ours(), ..founding.clone() };
    let open = Charter { phase: CharterPhase::Open, swarm_id: ours(), ..founding.clone() };
    let recreated = Charter { recovers: ours(), ..open.clone() };
    let closed = Charter { phase: CharterPhase::Closed, ..open.clone() };
    [None, Some(founding), Some(recovery), Some(open), Some(recreated), Some(closed)]
}

fn docker(state: LocalState, swarm_id: Option<&str>, is_manager: bool) -> LocalNode {
    LocalNode {
        state,
        node_id: swarm_id.map(|_| "node".to_owned()),
        swarm_id: swarm_id.map(str::to_owned),
        is_manager,
        has_managers: true,
        managers: vec![],
        error: String::new(),
        address: None,
        live_restore: false,
    }
}

fn facts<'a>(charter: Option<&'a Charter>, local: &'a LocalNode, role: Role) -> Facts<'a> {
    Facts {
        me: ME,
        role,
        charter,
        local,
        member: None,
        certified: None,
        is_joining: Fact::CannotTell,
        is_moved: false,
        unsettled_for: Duration::ZERO,
    }
}

/// The first two stages, in words.
fn early(local: &LocalNode, member: Option<&Member>) -> String {
    let asked = [
        (needs_row(local), "row"),
        (needs_certificate(local), "certificate"),
        (needs_attempt(local, member), "attempt"),
    ];
    asked.iter().filter(|it| it.0).map(|it| it.1).collect::<Vec<_>>().join(", ")
}

/// The last stage, in words and in its order.
fn late(facts: &Facts) -> String {
    let Lookups { peer_demotion, own_swarm, starts_tracker, absence, lives_on } = choose(facts);
    let charters = [
        peer_demotion,
        own_swarm.as_ref().and_then(|own| own.former),
        match absence {
            Some(Rest::Charter(charter)) => Some(charter),
            _ => None,
        },
        lives_on,
    ];
    assert!(charters.iter().flatten().all(|it| Some(*it) == facts.charter));
    let mut said = Vec::new();
    said.extend(peer_demotion.map(|_| "demotion".to_owned()));
    said.extend(own_swarm.map(|OwnLookup { former, patience, is_generation_in_rows }| {
        let former = former.map_or("", |_| "former, ");
        let rows = if is_generation_in_rows { ", rows" } else { "" };
        format!("{former}leader {}{rows}", patience.as_secs())
    }));
    said.extend(starts_tracker.then(|| "start".to_owned()));
    said.extend(absence.map(|rest| match rest {
        Rest::Charter(_) => "absence".to_owned(),
        Rest::AnySwarm => "absence of any".to_owned(),
        Rest::OtherSwarms => "absence of others".to_owned(),
    }));
    said.extend(lives_on.map(|_| "lives on".to_owned()));
    said.join(", ")
}

#[test]
fn each_situation_has_its_lookups() {
    use LocalState::{Active, Error, Inactive, Locked, Pending};
    let (ours, other) = (Some("ours"), Some("other"));
    let in_none = ["start", "", "start", "", "", ""];
    let in_doubt = |open, recreated| {
        let none = "leader 5, rows, start, absence of others";
        [none, "leader 5", "former, leader 5, start", open, recreated, "leader 5"]
    };
    let demoted = ["start", "", "start", "demotion", "demotion", ""];
    let unsettled = "row, certificate, attempt";
    for (local, role, is_row_ours, first, then) in [
        (
            docker(Inactive, None, false),
            Manager,
            false,
            "",
            ["start, absence of any", "", "start, absence", "absence", "absence", "lives on"],
        ),
        (
            docker(Inactive, None, false),
            Worker,
            false,
            "",
            ["start", "", "start", "", "", "lives on"],
        ),
        (docker(Active, ours, true), Manager, true, "row", in_doubt("", "")),
        (docker(Active, ours, true), Manager, false, "row", in_doubt("", "former, leader 35")),
        (docker(Active, other, true), Manager, true, "row", in_doubt("leader 35", "leader 35")),
        (docker(Active, ours, false), Manager, true, "row", demoted),
        (docker(Active, ours, false), Worker, true, "row", in_none),
        (docker(Active, other, false), Worker, true, "row", in_none),
        // Promoted by hand: in its swarm it is a manager, and still does not found or publish.
        (
            docker(Active, other, true),
            Worker,
            true,
            "row",
            [
                "leader 5, rows, start",
                "leader 5",
                "former, leader 5, start",
                "leader 35",
                "leader 35",
                "leader 5",
            ],
        ),
        // The certificate cannot be read, so nothing shows the swarm.
        (docker(Active, None, false), Worker, false, "row, certificate", in_none),
        (docker(Locked, None, false), Manager, false, "row, certificate", in_none),
        (docker(Locked, None, false), Worker, false, "row, certificate", in_none),
        (docker(Pending, ours, false), Manager, true, "row, certificate", in_none),
        (docker(Pending, ours, false), Manager, false, unsettled, in_none),
        (docker(Pending, None, false), Worker, false, unsettled, in_none),
        (docker(Error, ours, false), Manager, true, "row, certificate", in_none),
        (docker(Error, None, false), Manager, false, unsettled, in_none),
        (docker(Error, None, false), Worker, false, unsettled, in_none),
    ] {
        let member = is_row_ours.then(|| row("node", 1, MemberState::Ready));
        let situation = format!("{local:?} as {role}, {is_row_ours}");
        assert_eq!(early(&local, member.as_ref()), first, "{situation}");
        for (charter, expected) in charters().iter().zip(then) {
            let member = member.as_ref();
            let facts = Facts { member, ..facts(charter.as_ref(), &local, role) };
            assert_eq!(late(&facts), expected, "{situation}, {charter:?}");
        }
    }
}

/// A manager that is not sound looks for its attempt, and for a demotion only for one of these reasons.
#[test]
fn a_manager_of_no_use_looks_for_those_who_could_demote_it() {
    let [.., open, _, closed] = charters();
    let sound = docker(LocalState::Active, Some("ours"), true);
    let leaderless =
        LocalNode { error: "The swarm does not have a leader".into(), ..sound.clone() };
    let refused = LocalNode { error: "x509: certificate has expired".into(), ..sound.clone() };
    let pending = docker(LocalState::Pending, Some("ours"), false);
    assert_eq!(early(&leaderless, None), "row, attempt");
    assert_eq!(early(&leaderless, Some(&row("node", 1, MemberState::Ready))), "row");
    assert_eq!(early(&leaderless, Some(&row("earlier", 1, MemberState::Ready))), "row, attempt");
    let of = |local| facts(open.as_ref(), local, Manager);
    let joining = |local| Facts { is_joining: Fact::Yes, unsettled_for: STUCK_TIME, ..of(local) };
    for (facts, expected) in [
        (of(&sound), ""),
        (Facts { is_moved: true, ..of(&sound) }, "demotion"),
        (Facts { is_moved: true, role: Worker, ..of(&sound) }, ""),
        (Facts { is_moved: true, charter: None, ..of(&pending) }, "start"),
        (Facts { is_moved: true, charter: closed.as_ref(), ..of(&pending) }, ""),
        (of(&refused), "demotion"),
        (of(&leaderless), ""),
        (joining(&leaderless), "demotion"),
        (Facts { is_joining: Fact::CannotTell, ..joining(&leaderless) }, ""),
        (Facts { unsettled_for: STUCK_TIME / 2, ..joining(&leaderless) }, ""),
        (joining(&pending), ""),
        (Facts { certified: Some(Manager), ..joining(&pending) }, "demotion"),
    ] {
        assert_eq!(late(&facts), expected, "{:?} {}", facts.local, facts.role);
    }
}

proptest! {
    /// For any charter, row and state of Docker: a worker founds and publishes nothing, an inactive Docker has no swarm
    /// to ask about, and the swarm is asked only through a manager of it, longer only where a charter names another.
    #[test]
    fn nothing_is_looked_up_that_the_charter_and_docker_have_settled(
        charter in prop::option::of(fuzz::charter()),
        local in fuzz::local(),
        member in prop::option::of(fuzz::member()),
        role in select(&Role::ALL),
        certified in prop::option::of(select(&Role::ALL)),
        is_joining in select(vec![Fact::Yes, Fact::No, Fact::CannotTell]),
        is_moved in any::<bool>(),
        seconds in 0u64..300,
    ) {
        let is_inactive = local.state == LocalState::Inactive;
        prop_assert_eq!(early(&local, member.as_ref()).is_empty(), is_inactive);
        let (member, unsettled_for) = (member.as_ref(), Duration::from_secs(seconds));
        let facts = facts(charter.as_ref(), &local, role);
        let facts = Facts { member, certified, is_joining, is_moved, unsettled_for, ..facts };
        let chosen = choose(&facts);
        if role == Worker {
            prop_assert_eq!((&chosen.peer_demotion, &chosen.absence), (&None, &None));
        }
        if !local.is_manager {
            prop_assert_eq!((&chosen.own_swarm, chosen.absence == Some(Rest::OtherSwarms)), (&None, false));
        }
        let is_open = charter.as_ref().is_some_and(|it| it.phase == CharterPhase::Open);
        if let Some(own) = &chosen.own_swarm {
            prop_assert_eq!(own.patience > LEADER_WITHIN, is_open);
            prop_assert_eq!(own.is_generation_in_rows, charter.is_none());
        }
        let is_named = is_open && charter.as_ref().is_some_and(|it| it.swarm_id == local.swarm_id);
        let is_row_ours = member.is_some_and(|it| Some(&it.node_id) == local.node_id.as_ref());
        let is_use = local.is_sound() && !is_moved && local.is_manager == (role == Manager);
        if is_named && is_row_ours && is_use {
            prop_assert_eq!(late(&facts), "", "it is where it belongs");
        }
    }
}
