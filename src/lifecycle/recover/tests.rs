use proptest::prelude::*;

use super::decide::{Leaving, Observed, Refusal, decide, plan};
use crate::clients::aws::autoscaling::GroupInstance;
use crate::clients::docker::{LocalNode, LocalState};
use crate::clients::ledger::fuzz;
use crate::clients::ledger::{Charter, CharterPhase, Member};
use crate::common::fact::Fact;
use crate::common::report::RecoveryPlan;
use time::{Duration, OffsetDateTime};

const NOW: OffsetDateTime = time::macros::datetime!(2026-11-02 12:00:00 UTC);
const LONG_AGO: Duration = Duration::hours(1);

fn row(number: u8, updated_at: OffsetDateTime) -> Member {
    serde_json::from_value(serde_json::json!({
        "instance_id": format!("i-{number}"), "role": "manager", "node_id": format!("node-{number}"),
        "zone": "a", "address": format!("10.0.0.{number}"), "generation": 1, "state": "ready",
        "group": "managers", "updated_at": updated_at.unix_timestamp(), "expires_at": 0,
    }))
    .unwrap()
}

fn listed(ids: &[&str]) -> std::collections::BTreeMap<String, GroupInstance> {
    let (group, lifecycle_state, health) = (String::new(), "InService".into(), String::new());
    let instance =
        GroupInstance { group, lifecycle_state, health, protected: None, settings: None };
    ids.iter().map(|id| ((*id).to_owned(), instance.clone())).collect()
}

/// The first of three managers, which has no leader; the others are gone.
fn survivor() -> Observed {
    Observed {
        me: "i-1".into(),
        charter: Some(Charter {
            phase: CharterPhase::Open,
            generation: 1,
            founder: "i-1".into(),
            lease_expires_at: OffsetDateTime::UNIX_EPOCH,
            swarm_id: Some("swarm".into()),
            ca_digest: None,
            founded_at: None,
            former: vec![],
            recovers: None,
            adopts: None,
        }),
        local: Some(LocalNode {
            state: LocalState::Active,
            node_id: Some("node-1".into()),
            swarm_id: Some("swarm".into()),
            is_manager: true,
            has_managers: true,
            managers: vec![],
            error: "The swarm does not have a leader".into(),
            address: None,
            live_restore: false,
        }),
        row: Some(row(1, NOW)),
        others: vec![row(2, NOW), row(3, NOW)],
        listed: Some(listed(&["i-1"])),
        listening: [].into(),
        unlock_keys: None,
        has_leader: Fact::No,
        unreadable: [].into(),
        leaves_by: None,
        now: NOW,
    }
}

fn refusal(change: impl FnOnce(&mut Observed)) -> Option<Refusal> {
    let mut seen = survivor();
    change(&mut seen);
    decide(&seen).err()
}

fn of(seen: &mut Observed) -> &mut Charter {
    seen.charter.as_mut().unwrap()
}

#[test]
fn each_reason_against_it_is_named() {
    assert_eq!(refusal(|_| {}), None);
    assert_eq!(refusal(|seen| seen.charter = None), Some(Refusal::NoCharter));
    let closed = refusal(|seen| of(seen).phase = CharterPhase::Closed);
    assert_eq!(closed, Some(Refusal::Closed));
    let founding = refusal(|seen| of(seen).phase = CharterPhase::Founding);
    assert_eq!(founding, Some(Refusal::Founding { founder: "i-1".into() }));
    assert_eq!(refusal(|seen| seen.has_leader = Fact::Yes), Some(Refusal::QuorumExists));
    let silent = refusal(|seen| seen.has_leader = Fact::CannotTell);
    assert_eq!(silent, Some(Refusal::LeaderUnknown), "silence is no evidence");
    assert_eq!(refusal(|seen| seen.local = None), Some(Refusal::NoDocker));
    let place = "/skep/prod/manager-unlock-key/1";
    let locks = refusal(|seen| seen.unlock_keys = Some(place.to_owned()));
    assert_eq!(locks, Some(Refusal::Locks { place: place.to_owned() }));
    let worker = refusal(|seen| seen.local.as_mut().unwrap().is_manager = false);
    assert_eq!(worker, Some(Refusal::NotManager));
    let another = refusal(|seen| seen.local.as_mut().unwrap().swarm_id = Some("next".into()));
    assert_eq!(another, Some(Refusal::NotManager));
    let fenced = refusal(|seen| {
        *of(seen) = Charter {
            phase: CharterPhase::Open,
            swarm_id: Some("swarm".into()),
            ..Charter::recovery(of(seen), "swarm", "i-2", NOW)
        };
    });
    assert_eq!(fenced, Some(Refusal::Fenced));
    assert_eq!(refusal(|seen| seen.row = None), Some(Refusal::NotManager), "it has only come in");
}

/// The survivor is scaled in, and is the only one that can recover: the swarm's state would be lost with its machine.
#[test]
fn who_is_leaving_may_and_says_that_another_manager_is_needed() {
    let mut seen = survivor();
    let says_so = |seen: &Observed| {
        let costs = plan("prod", seen, decide(seen)).costs;
        costs.iter().any(|cost| cost.contains("this node is leaving, by 2026"))
    };
    assert!(!says_so(&seen));
    seen.leaves_by = Some(leaving(Some(20 * 60)));
    assert_eq!(decide(&seen), Ok(()));
    assert!(says_so(&seen));
}

/// Returns a departure with this many seconds in which the quorum can be re-created; `None` once that is over.
fn leaving(seconds: Option<i64>) -> Leaving {
    let deadline = NOW + Duration::minutes(30);
    Leaving { deadline, recovery_until: seconds.map(|seconds| NOW + Duration::seconds(seconds)) }
}

/// A claim that its manager cannot complete keeps the other managers out for its lease.
#[test]
fn a_departure_without_time_for_it_refuses_it() {
    let refused = |seconds| refusal(|seen| seen.leaves_by = Some(leaving(seconds)));
    assert_eq!(refused(Some(45)), None);
    for seconds in [Some(44), Some(-1), None] {
        let Some(refused) = refused(seconds) else { panic!("{seconds:?}: it would be dropped") };
        assert!(matches!(refused, Refusal::LeavesTooSoon { .. }), "{refused:?}");
        let words = refused.to_string();
        assert!(words.starts_with("this node is leaving, by 2026-11-02 12:30:00 UTC"), "{words}");
        assert!(words.contains("run this command on another manager"), "{words}");
    }
    let led = refusal(|seen| {
        seen.leaves_by = Some(leaving(None));
        seen.has_leader = Fact::Yes;
    });
    assert_eq!(led, Some(Refusal::QuorumExists), "nothing is lost");
}

#[test]
fn one_recovery_runs_at_a_time_and_a_dead_one_is_taken_over() {
    let running = |founder: &str, lease_expires_at| {
        refusal(|seen| *of(seen) = Charter::recovery(of(seen), "swarm", founder, lease_expires_at))
    };
    let later = NOW + Duration::minutes(1);
    assert!(matches!(running("i-2", later), Some(Refusal::Running { .. })));
    assert_eq!(running("i-1", NOW), Some(Refusal::RunsHere));
    assert_eq!(running("i-2", NOW), None);
    for has_leader in [Fact::Yes, Fact::CannotTell] {
        let led = refusal(|seen| {
            seen.has_leader = has_leader;
            *of(seen) = Charter::recovery(of(seen), "swarm", "i-2", NOW);
        });
        assert_eq!(led, None, "the charter stays shut otherwise");
    }
}

/// Two of the others are enough for a quorum that this node cannot see.
#[test]
fn who_may_be_alive_elsewhere_counts() {
    let elsewhere = |change: fn(&mut Observed)| {
        matches!(refusal(change), Some(Refusal::MayBeElsewhere { alive: 2, .. }))
    };
    assert!(elsewhere(|seen| seen.listed = Some(listed(&["i-1", "i-2", "i-3"]))));
    assert!(elsewhere(|seen| seen.listed = None), "no answer is no evidence");
    assert!(elsewhere(|seen| {
        seen.listening = [[10, 0, 0, 2].into(), [10, 0, 0, 3].into()].into();
    }));
    assert!(!elsewhere(|seen| seen.listed = Some(listed(&["i-1", "i-2"]))));
    assert!(
        elsewhere(|seen| {
            seen.listed = Some(listed(&["i-1", "i-2"]));
            seen.others[1].group = None;
        }),
        "Auto Scaling never had i-3"
    );
    assert!(!elsewhere(|seen| {
        seen.listed = Some(listed(&["i-1", "i-2", "i-3"]));
        seen.others[0].updated_at = NOW - LONG_AGO;
    }));
}

/// A row of a newer skep, or one that was edited by hand, may be that of a manager that is alive.
#[test]
fn while_a_row_cannot_be_read_nothing_is_done_and_its_key_is_named() {
    let odd = |seen: &mut Observed| seen.unreadable = ["member#manager#i-3".to_owned()].into();
    let mut seen = survivor();
    odd(&mut seen);
    seen.others.pop();
    let Err(refused) = decide(&seen) else { panic!("i-3 may be alive") };
    assert_eq!(refused, Refusal::UnreadableRows { keys: "member#manager#i-3".into() });
    let words = refused.to_string();
    assert!(words.contains("member#manager#i-3") && words.contains("repair them"), "{words}");
    seen.row = None;
    assert_eq!(decide(&seen), Err(refused), "it may be this node's own");
    let led = refusal(|seen| {
        odd(seen);
        seen.has_leader = Fact::Yes;
    });
    assert_eq!(led, Some(Refusal::QuorumExists), "nothing is lost");
    let another = refusal(|seen| {
        odd(seen);
        seen.local.as_mut().unwrap().swarm_id = Some("next".into());
    });
    assert_eq!(another, Some(Refusal::NotManager));
}

#[test]
fn the_plan_tells_who_is_seen_how_and_what_may_be_lost() {
    let mut seen = survivor();
    seen.listed = Some(listed(&["i-1", "i-2"]));
    let shown = plan("prod", &seen, decide(&seen));
    let managers: Vec<_> = shown
        .managers
        .iter()
        .map(|it| (it.instance_id.as_str(), it.auto_scaling.as_deref(), it.may_be_alive))
        .collect();
    assert_eq!(managers, [("i-2", Some("InService"), true), ("i-3", Some("gone"), false)]);
    assert!(shown.refusal.is_none() && shown.steps[0].contains("generation 2"));
    assert!(shown.costs.iter().any(|it| it.starts_with("i-2 may be alive")), "{shown:?}");
    let tells_of_detached = |shown: &RecoveryPlan| {
        shown.costs.iter().any(|it| it.starts_with("i-3 is gone") && it.contains("detached"))
    };
    assert!(tells_of_detached(&shown), "{shown:?}");
    let of_several = {
        let mut seen = survivor();
        seen.listed = Some(listed(&["i-1"]));
        plan("prod", &seen, decide(&seen)).costs
    };
    let words = "i-2, i-3 are gone by Auto Scaling's answer, but wrote their rows within";
    assert!(of_several.iter().any(|it| it.starts_with(words)), "{of_several:?}");
    seen.others[1].updated_at = NOW - LONG_AGO;
    assert!(!tells_of_detached(&plan("prod", &seen, decide(&seen))));
    let of_workers = shown.costs.iter().find(|it| it.contains("those on a worker"));
    let of_workers = of_workers.map(String::as_str).unwrap_or_default();
    assert!(of_workers.contains("if it reconnects within about 15 s"), "{shown:?}");
    assert!(of_workers.contains("starts its tasks on other nodes"), "{shown:?}");
    seen.has_leader = Fact::Yes;
    let refused = plan("prod", &seen, decide(&seen));
    assert!(refused.refusal.is_some() && refused.steps.is_empty() && refused.costs.is_empty());
}

proptest! {
    /// For any facts: only with Docker's answer that there is no leader, never while so many others may be alive that
    /// they could have one or rows cannot be read, never of another swarm, never while another node founds or recovers.
    #[test]
    fn nothing_that_may_live_is_taken_apart(
        has_leader in prop::sample::select(&[Fact::Yes, Fact::No, Fact::CannotTell]),
        is_readable in any::<bool>(),
        is_own_readable in any::<bool>(),
        is_manager in any::<bool>(),
        swarm in prop::sample::select(&["swarm", "next"]),
        phase in prop::sample::select(
            &[CharterPhase::Open, CharterPhase::Founding, CharterPhase::Closed]
        ),
        others in prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>()), 0..7),
        is_answered in any::<bool>(),
        locks in any::<bool>(),
    ) {
        let mut seen = survivor();
        seen.has_leader = has_leader;
        seen.unlock_keys = locks.then(String::new);
        if !is_readable {
            seen.unreadable = ["member#manager#i-9".to_owned()].into();
        }
        if !is_own_readable {
            seen.row = None;
            seen.unreadable.insert("member#manager#i-1".to_owned());
        }
        of(&mut seen).phase = phase;
        let local = seen.local.as_mut().unwrap();
        (local.is_manager, local.swarm_id) = (is_manager, Some(swarm.into()));
        let numbered = || (2u8..).zip(&others);
        seen.others = numbered()
            .map(|(n, (_, is_fresh, _))| row(n, if *is_fresh { NOW } else { NOW - LONG_AGO }))
            .collect();
        let ids: Vec<String> =
            numbered().filter(|(_, it)| it.0).map(|(n, _)| format!("i-{n}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).chain(["i-1"]).collect();
        seen.listed = is_answered.then(|| listed(&ids));
        seen.listening =
            numbered().filter(|(_, it)| it.2).map(|(n, _)| [10, 0, 0, n].into()).collect();
        let alive = others
            .iter()
            .filter(|(is_listed, is_fresh, listens)| {
                *listens || (*is_fresh && (*is_listed || !is_answered))
            })
            .count();
        let may = has_leader == Fact::No
            && is_readable
            && is_own_readable
            && !locks
            && is_manager
            && swarm == "swarm"
            && phase == CharterPhase::Open
            && 2 * alive <= others.len() + 1;
        prop_assert_eq!(decide(&seen).is_ok(), may);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Rows of any readable content: the plan is complete and can be serialized.
    #[test]
    fn no_row_that_can_be_read_ends_a_plan(
        charter in prop::option::of(fuzz::charter()),
        own in prop::option::of(fuzz::member()),
        others in fuzz::members(),
        local in prop::option::of(fuzz::local()),
        is_answered in any::<bool>(),
    ) {
        let seen = Observed {
            me: "i-0".into(),
            charter,
            local,
            row: own,
            others: others.rows,
            unreadable: others.unreadable,
            listed: is_answered.then(|| listed(&["i-0", "i-1"])),
            now: fuzz::NOW,
            ..survivor()
        };
        let shown = plan("prod", &seen, decide(&seen));
        prop_assert_eq!(shown.refusal.is_none(), !shown.steps.is_empty());
        prop_assert!(serde_json::to_string(&shown).is_ok());
    }
}
