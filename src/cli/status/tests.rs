use std::collections::BTreeSet;

use time::macros::datetime;

use super::table::row;
use super::*;
use crate::common::instance::{self, Market, Reason};
use crate::common::instance::{Departure, Role, SchedulingHold};
use crate::common::report::{FleetMember, Outsider, ViewSource};
use crate::common::state::StateHandle;

pub(super) const NOW: OffsetDateTime = datetime!(2026-11-02 12:00:00 UTC);
const PIPE: Look = Look { width: None, rows: usize::MAX, colour: false };

/// A report as the running skep would send it: skep's own types, through JSON.
pub(super) fn report(departure: Option<Departure>, fleet: Option<FleetView>) -> StatusReport<Node> {
    let state = StateHandle::default();
    state.enter(Phase::Ready, "serving");
    state.update(|state| {
        state.since = datetime!(2026-11-02 09:54:57 UTC);
        state.cluster = Some("prod".into());
        state.role = Some(Role::Manager);
        state.departure = departure;
        state.instance = Some(instance::Instance {
            id: "i-0abc".into(),
            arn: String::new(),
            instance_type: "m6g.large".into(),
            zone: "eu-central-1a".into(),
            region: "eu-central-1".into(),
            private_address: [10, 0, 0, 7].into(),
            market: Market::Spot,
            group: None,
            stack: None,
            tags: [].into(),
        });
        state.membership = Some(instance::Membership {
            node_id: "n1".into(),
            swarm_id: "s1".into(),
            generation: 3,
            role: Role::Manager,
        });
    });
    let sent = serde_json::to_value(StatusReport { node: state.now(), fleet }).unwrap();
    serde_json::from_value(sent).unwrap()
}

pub(super) fn member(instance_id: &str, node_id: &str) -> FleetMember {
    FleetMember {
        instance_id: Some(instance_id.into()),
        role: Role::Manager,
        node_id: Some(node_id.into()),
        address: Some([10, 0, 0, 7].into()),
        zone: Some("eu-central-1a".into()),
        group: None,
        generation: Some(3),
        leaving: None,
        state: Some("ready".into()),
        docker_state: Some("ready".into()),
        docker_availability: Some("active".into()),
        labels: [].into(),
        leader: true,
        hostname: None,
        engine: None,
        joined_at: None,
        departure: None,
        scheduling_hold: None,
        verdict: None,
        tasks: Some(3),
        updated_at: Some(datetime!(2026-11-02 11:59:18 UTC)),
    }
}

pub(super) fn fleet(members: Vec<FleetMember>) -> FleetView {
    FleetView {
        source: ViewSource::LedgerAndDocker,
        quorum: Some(QuorumView { managers: 3, reachable: 3, may_be_lost: 1 }),
        quorum_lost_since: None,
        members,
        problem: None,
        warnings: vec![],
        departed: vec![],
        outsiders: Some(Outsiders { asked_at: NOW, instances: vec![] }),
    }
}

#[test]
fn a_node_tells_who_it_is_what_it_does_and_since_when() {
    assert_eq!(
        text(&report(None, None), NOW, PIPE),
        "instance  i-0abc m6g.large in eu-central-1a, 10.0.0.7\n\
         swarm     prod, generation 3: manager, node n1\n\
         phase     ready for 2h 5m, since 2026-11-02 09:54:57 UTC\n\
         doing     serving\n"
    );
}

#[test]
fn a_departure_tells_why_and_how_long_there_is() {
    let departure = |deadline| Departure {
        reason: Reason::Spot,
        noticed_at: datetime!(2026-11-02 11:59:48 UTC),
        deadline,
    };
    let text_of = |deadline| text(&report(Some(departure(deadline)), None), NOW, PIPE);
    assert!(text_of(datetime!(2026-11-02 12:01:30 UTC)).ends_with(
        "leaving   spot notice 12s ago; must be gone in 1m 30s, at 2026-11-02 12:01:30 UTC\n"
    ));
    assert!(text_of(datetime!(2026-11-02 11:59:58 UTC)).contains("overdue by 2s, at"));
}

#[test]
fn a_flusher_tells_what_came_of_it_and_what_is_left() {
    let mut report = report(None, None);
    report.node.flush = vec![
        Outcome { result: FlushResult::Done, seconds: 0.04, ..Outcome::running("journal") },
        Outcome {
            result: FlushResult::TimedOut,
            seconds: 24.0,
            sent: Some(812),
            unsent: Some(40),
            detail: Some("3 chunks".into()),
            ..Outcome::running("fluent-bit")
        },
    ];
    assert!(text(&report, NOW, PIPE).ends_with(
        "doing     serving\n\
         flush     journal: flushed after 0.0s\n\
         flush     fluent-bit: timed out after 24.0s, 812 sent, 40 unsent: 3 chunks\n"
    ));
}

#[test]
fn a_node_that_is_quiet_and_stays_tells_why() {
    let mut report = report(None, None);
    report.node.scheduling_hold = Some(SchedulingHold::Standby);
    let text = text(&report, NOW, PIPE);
    assert!(text.ends_with("hold      in Standby: no tasks here until it is InService again\n"));
    let scheduling_hold =
        FleetMember { scheduling_hold: Some("standby".into()), ..member("i-0abc", "n1") };
    assert_eq!(row(&scheduling_hold, None, NOW, false)[8], "standby: stays");
    let leaves = FleetMember { departure: Some("spot: draining".into()), ..scheduling_hold };
    assert_eq!(row(&leaves, None, NOW, false)[8], "spot: draining", "a departure matters more");
}

#[test]
fn trouble_has_a_line_of_its_own() {
    let mut report = report(None, None);
    report.node.trouble = Some("the secret store is down".into());
    let text = text(&report, NOW, PIPE);
    assert!(text.ends_with("doing     serving\ntrouble   the secret store is down\n"), "{text}");
}

#[test]
fn what_is_not_known_is_said_to_be_so() {
    let mut report = report(None, None);
    report.node.membership = None;
    let unconfirmed = "prod: configured as manager, not confirmed as a member";
    assert!(text(&report, NOW, PIPE).contains(unconfirmed), "Docker may not answer");
    report.node.phase = Phase::Left;
    let left = "prod: configured as manager, no longer a member";
    assert!(text(&report, NOW, PIPE).contains(left));
    (report.node.instance, report.node.cluster) = (None, None);
    let text = text(&report, NOW, PIPE);
    assert!(text.starts_with("instance  not known yet\nswarm     not known yet\n"), "{text}");
}

#[test]
fn colour_is_only_where_it_is_asked_for() {
    assert!(!text(&report(None, None), NOW, PIPE).contains('\x1b'));
    assert!(text(&report(None, None), NOW, Look::whole(true)).contains("\x1b[32mready\x1b[0m for"));
}

#[test]
fn a_manager_shows_the_fleet() {
    let drained = FleetMember {
        role: Role::Worker,
        zone: None,
        state: Some("leaving".into()),
        docker_availability: Some("drain".into()),
        leader: false,
        departure: Some("spot: draining".into()),
        ..member("i-0def", "n2")
    };
    let stranger = FleetMember {
        instance_id: None,
        address: None,
        generation: None,
        state: None,
        docker_state: None,
        docker_availability: None,
        leader: false,
        verdict: Some("Down for 35 s; no row names its instance".into()),
        tasks: None,
        updated_at: None,
        ..member("", "n3")
    };
    let fleet = FleetView {
        problem: Some("the ledger is slow".into()),
        warnings: vec!["encrypted overlay networks do not work".into()],
        outsiders: None,
        ..fleet(vec![member("i-0abc", "n1"), drained, stranger])
    };
    let text = text(&report(None, Some(fleet)), NOW, PIPE);
    let (_, fleet) = text.split_once("\n\n").unwrap();
    let cells = |line: &str| -> Vec<String> {
        line.split("  ").map(str::trim).filter(|c| !c.is_empty()).map(String::from).collect()
    };
    let lines: Vec<Vec<String>> = fleet.lines().map(cells).collect();
    let manager =
        ["i-0abc *", "manager (leader)", "10.0.0.7", "eu-central-1a", "3", "ready", "ready"];
    assert_eq!(lines[1], [&manager[..], &["3", "-", "42s ago"]].concat());
    let worker = ["i-0def", "worker", "10.0.0.7", "-", "3", "leaving", "ready, drain"];
    assert_eq!(lines[2], [&worker[..], &["3", "spot: draining", "42s ago"]].concat());
    assert_eq!(lines[3], ["n3", "manager", "-", "eu-central-1a", "-", "-", "-", "?", "-", "-"]);
    assert_eq!(lines[5], ["n3: Down for 35 s; no row names its instance"]);
    assert_eq!(lines[7], ["quorum: 3 managers, 3 reachable, 1 may be lost"]);
    assert_eq!(lines[9], ["in service and not members: not known"]);
    assert_eq!(lines[11], ["warning: encrypted overlay networks do not work"]);
    assert_eq!(lines[13], ["Not the whole fleet: the ledger is slow"]);
    let alone = QuorumView { managers: 1, reachable: 1, may_be_lost: 0 };
    assert_eq!(quorum(&alone), "quorum: 1 manager, 1 reachable, none may be lost");
}

#[test]
fn a_node_for_which_nobody_vouches_is_ready_nowhere() {
    let unheard_of = FleetMember { docker_state: Some("unknown".into()), ..member("i-0def", "n2") };
    let row = row(&unheard_of, None, NOW, false);
    assert_eq!((&*row[5], &*row[6]), ("unknown", "unknown"));
}

#[test]
fn a_lost_quorum_is_a_trouble_that_names_the_remedy() {
    let state = StateHandle::default();
    state.set_quorum_lost(Some(datetime!(2026-11-02 11:58:00 UTC)));
    let sent = serde_json::to_value(StatusReport { node: state.now(), fleet: None }).unwrap();
    assert_eq!(sent["node"]["quorum_lost_since"], "2026-11-02T11:58:00Z");
    let text = text(&serde_json::from_value(sent).unwrap(), NOW, PIPE);
    let trouble = "trouble   the quorum is lost since 2026-11-02 11:58:00 UTC";
    assert!(text.contains(trouble) && text.contains("`skep recover`"), "{text}");
}

#[test]
fn only_a_member_has_a_star() {
    let unknown = FleetMember { node_id: None, ..member("i-0abc", "") };
    assert_eq!(row(&unknown, None, NOW, false)[0], "i-0abc");
    assert_eq!(row(&member("i-0def", "n2"), Some("n1"), NOW, false)[0], "i-0def");
}

#[test]
fn a_span_is_short_and_never_negative() {
    let seconds = time::Duration::seconds;
    assert_eq!(span(seconds(0)), "0s");
    assert_eq!(span(seconds(59)), "59s");
    assert_eq!(span(seconds(93_784)), "1day 2h");
    assert_eq!(span(seconds(-5)), "0s");
}

#[test]
fn an_instance_in_service_that_is_no_member_is_named() {
    let text = |many: usize| {
        let instance = |n| Outsider { instance_id: format!("i-{n}"), group: "workers".into() };
        let instances = (0..many).map(instance).collect();
        let asked_at = datetime!(2026-11-02 11:59:18 UTC);
        outsiders(Some(&Outsiders { asked_at, instances }), NOW)
    };
    assert_eq!(text(0), None);
    let said = "in service and not members: i-0 (workers), i-1 (workers), by Auto Scaling 42s ago";
    assert_eq!(text(2).as_deref(), Some(said));
    assert!(text(1000).unwrap().contains("i-7 (workers), and 992 more, by Auto Scaling"));
    assert!(outsiders(None, NOW).unwrap().ends_with("not known"), "nobody has asked");
}

/// Returns the keys that a section's table describes; one of several in a cell counts, and `a.b` does not.
fn documented(section: &str) -> Vec<&'static str> {
    let (_, text) = PAGE.split_once(&format!("\n{section}\n")).expect("the section");
    let end = text.find("\n#").unwrap_or(text.len());
    let rows = text[..end].lines().filter_map(|line| line.strip_prefix("| `")?.split('|').next());
    rows.flat_map(|cell| cell.split('`').step_by(2)).filter(|key| !key.contains('.')).collect()
}

const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/status.md"));

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn the_page_documents_every_key_and_its_example_has_them() {
    let state = StateHandle::default();
    let fleet = FleetView {
        outsiders: Some(Outsiders {
            asked_at: NOW,
            instances: vec![Outsider { instance_id: "i-1".into(), group: "workers".into() }],
        }),
        ..fleet(vec![member("i-0abc", "n1")])
    };
    let report = StatusReport { node: state.now(), fleet: Some(fleet) };
    let report = serde_json::to_value(report).unwrap();
    let fleet = &report["fleet"];
    for (section, value) in [
        ("## This node", &report["node"]),
        ("## The fleet", fleet),
        ("### A member", &fleet["members"][0]),
        ("### Instances that are no members", &fleet["outsiders"]),
        ("### Instances that are no members", &fleet["outsiders"]["instances"][0]),
    ] {
        let documented = documented(section);
        for key in keys(value) {
            assert!(documented.contains(&key), "{section} lacks {key}: {documented:?}");
        }
    }
    let (_, example) = PAGE.split_once("```json\n").expect("an example");
    let example = example.split_once("```").expect("its end").0;
    let shown: Value = serde_json::from_str(example).unwrap();
    assert_eq!(keys(&shown["fleet"]), keys(fleet));
    for member in shown["fleet"]["members"].as_array().unwrap() {
        assert_eq!(keys(member), keys(&fleet["members"][0]));
    }
    let read: StatusReport<Node> = serde_json::from_str(example).unwrap();
    let read = read.fleet.unwrap();
    assert!(read.outsiders.is_some());
    let departed = serde_json::to_value(&read.departed[0]).unwrap();
    let of_page = documented("### A departure that is over");
    assert!(keys(&departed).iter().all(|key| of_page.contains(key)), "{of_page:?}");
}

#[test]
fn the_report_of_an_older_skep_is_read() {
    let mut report = serde_json::to_value(fleet(vec![member("i-0abc", "n1")])).unwrap();
    report.as_object_mut().unwrap().remove("outsiders");
    report["members"][0].as_object_mut().unwrap().remove("tasks");
    let read: FleetView = serde_json::from_value(report).unwrap();
    assert_eq!((read.outsiders, read.members[0].tasks), (None, None));
}
