use proptest::prelude::*;

use super::table::{Table, table};
use super::tests::{NOW, fleet, member, report};
use super::*;
use crate::common::instance::Role;
use crate::common::report::{FleetMember, ViewSource};

const WAITS: &str = "spot: draining, waiting for the tasks to stop";

fn on(width: usize) -> Look {
    Look { width: Some(width), rows: MOST, colour: false }
}

fn worker(n: usize) -> FleetMember {
    FleetMember {
        role: Role::Worker,
        leader: false,
        ..member(&format!("i-{n:017x}"), &format!("node{n:021}"))
    }
}

fn leaving(n: usize) -> FleetMember {
    FleetMember {
        state: Some("leaving".into()),
        docker_availability: Some("drain".into()),
        departure: Some(WAITS.into()),
        ..worker(n)
    }
}

fn shown(members: Vec<FleetMember>, look: Look) -> String {
    text(&report(None, Some(fleet(members))), NOW, look)
}

fn widest(text: &str) -> usize {
    text.lines().map(|line| line.chars().count()).max().unwrap_or_default()
}

fn headings(text: &str) -> Vec<&str> {
    let line = text.lines().find(|line| line.starts_with("NODE")).expect("a line of headings");
    line.split_whitespace().collect()
}

#[test]
fn eighty_columns_hold_what_matters() {
    let text = shown(vec![member("i-00000000000000000", "n1"), worker(1), worker(2)], on(80));
    assert!(widest(&text) <= 80, "{text}");
    let all = ["NODE", "ROLE", "ZONE", "LEDGER", "DOCKER", "TASKS", "DEPARTURE"];
    assert_eq!(headings(&text), all, "{text}");
    assert!(text.contains("i-00000000000000000 *  leader  eu-central-1a  ready"), "{text}");
    let text = shown(vec![member("i-00000000000000000", "n1"), worker(1)], on(200));
    assert_eq!(headings(&text).len(), 10, "there is room: {text}");
    assert!(text.contains("manager (leader)"), "{text}");
}

#[test]
fn a_departure_that_does_not_fit_is_cut_and_stands_below() {
    let text = shown(vec![member("i-00000000000000000", "n1"), leaving(1)], on(80));
    assert!(widest(&text) <= 80, "{text}");
    assert!(text.contains("spot: draining, wait") && text.contains('…'), "{text}");
    let whole = format!("i-00000000000000001: {WAITS}");
    assert!(text.replace('\n', " ").contains(&whole), "{text}");
    let pipe = shown(vec![leaving(1)], Look::whole(false));
    assert_eq!(pipe.matches("waiting for the tasks").count(), 1, "only in the table: {pipe}");
}

#[test]
fn forty_columns_can_be_read() {
    let text = shown(vec![member("i-00000000000000000", "n1"), worker(1), leaving(2)], on(40));
    assert!(widest(&text) <= 40, "{text}");
    assert_eq!(headings(&text), ["NODE", "ROLE", "DOCKER"], "{text}");
    assert!(text.contains("i-00000000000000001    worker"), "whole ids: {text}");
    assert!(text.replace('\n', " ").contains(WAITS), "{text}");
}

#[test]
fn a_pipe_has_every_column_uncut_and_no_colour() {
    let text = shown((0..1000).map(leaving).collect(), Look::whole(false));
    let all = [
        "NODE",
        "ROLE",
        "ADDRESS",
        "ZONE",
        "GEN",
        "LEDGER",
        "DOCKER",
        "TASKS",
        "DEPARTURE",
        "SEEN",
    ];
    assert_eq!(headings(&text), all);
    assert_eq!(text.matches(WAITS).count(), 1000);
    assert!(!text.contains('\x1b') && !text.contains('…'));
}

#[test]
fn colours_are_added_to_words() {
    let look = Look { colour: true, ..on(80) };
    let text = shown(vec![member("i-0abc", "n1"), leaving(1)], look);
    assert!(text.contains("\x1b[32mready\x1b[0m"), "{text}");
    assert!(text.contains("\x1b[33mready, drain\x1b[0m"), "{text}");
    let mut plain = text.clone();
    for code in ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"] {
        plain = plain.replace(code, "");
    }
    assert_eq!(plain, shown(vec![member("i-0abc", "n1"), leaving(1)], on(80)));
    let gone = FleetMember { docker_state: Some("down".into()), ..worker(1) };
    assert!(shown(vec![gone], look).contains("\x1b[31mdown\x1b[0m"));
}

#[test]
fn of_a_thousand_nodes_those_that_need_attention_come_first() {
    let mut members: Vec<FleetMember> = (0..1000).map(worker).collect();
    members[700] = leaving(700);
    members[900].docker_state = Some("down".into());
    let text = shown(members.clone(), on(80));
    assert!(text.lines().count() < MOST + 20, "{text}");
    let nodes: Vec<&str> = text.lines().filter(|line| line.starts_with("i-0")).collect();
    for (node, n) in nodes.iter().zip([700, 900, 0]) {
        assert!(node.starts_with(&format!("i-{n:017x}")), "{text}");
    }
    assert!(text.contains("\n… and 960 more that are ready; --wide shows all\n"), "{text}");
    for member in &mut members {
        member.docker_state = Some("unknown".into());
    }
    let text = shown(members, on(80));
    assert!(text.contains("… and 960 more, of which 960 need attention; --wide"), "{text}");
}

/// Without the ledger, no node has a state in it.
#[test]
fn a_source_that_is_silent_makes_no_node_ill() {
    let without = |n| FleetMember { state: None, ..worker(n) };
    let mut fleet = fleet((0..50).map(without).collect());
    let more = |fleet: &FleetView| table(fleet, None, NOW, on(80)).more.unwrap();
    assert!(more(&fleet).contains("of which 10 need attention"), "they have no rows");
    fleet.source = ViewSource::Docker;
    assert!(more(&fleet).contains("10 more that are ready"), "no rows were read");
}

#[test]
fn a_view_without_any_node_says_why() {
    let mut fleet = fleet(vec![]);
    (fleet.source, fleet.quorum, fleet.outsiders) = (ViewSource::Nothing, None, None);
    fleet.problem = Some("the ledger and Docker did not answer within 5s".into());
    let text = text(&report(None, Some(fleet)), NOW, on(80));
    assert!(!text.contains("NODE"), "{text}");
    assert!(text.ends_with("did not answer within 5s\n"), "{text}");
}

proptest! {
    /// For any nodes, no line is wider than the terminal, and each node has a line that begins with its id.
    #[test]
    fn every_line_fits(
        departures in proptest::collection::vec(proptest::option::of("[a-z ,:äö]{0,90}"), 1..6),
        zone in "[a-z0-9-]{0,30}",
        docker in "[a-z]{1,12}",
        width in 30usize..160,
        colour in any::<bool>(),
    ) {
        let members: Vec<FleetMember> = departures.iter().enumerate().map(|(n, departure)| {
            FleetMember {
                departure: departure.clone(),
                zone: Some(zone.clone()),
                docker_state: Some(docker.clone()),
                ..worker(n)
            }
        }).collect();
        let fleet = fleet(members);
        let look = Look { width: Some(width), rows: MOST, colour };
        let Table { text, shown, .. } = table(&fleet, None, NOW, look);
        prop_assert_eq!(text.lines().count(), 1 + departures.len());
        prop_assert_eq!(shown.len(), departures.len());
        let look = Look { colour: false, ..look };
        let text = table(&fleet, None, NOW, look).text;
        prop_assert!(widest(&text) <= width, "{}", text);
        for (line, n) in text.lines().skip(1).zip(0..) {
            let id = format!("i-{n:017x}");
            let least = 11;
            prop_assert!(line.starts_with(&id[..least]), "{}", text);
        }
    }
}
