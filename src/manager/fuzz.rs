//! Feeds rows of any bytes to every duty of a manager.

use std::time::Duration;

use super::{
    Age, dead_nodes, decide, demotion_requests, labels, orphan_hooks, pull_credentials,
    removed_members, stand_in, status_view,
};
use crate::clients::ledger::LeaseOf;
use crate::clients::ledger::fuzz::NOW;
use crate::clients::ledger::fuzz::decoded::{Decoded, WORDS, corpus, decoded};
use crate::fuzz::{Target, choices, run};

#[test]
fn no_row_stops_a_manager() {
    let target = Target { name: "rows-of-managers", corpus: corpus(), words: &WORDS };
    run(&target, |input| {
        let (rows, choices) = (decoded(input), &mut choices(input));
        let nodes = rows.nodes(choices);
        let (is_answered, is_paused) = (choices.bool(), choices.bool());
        let departures = departures(&rows, choices);
        let Decoded { charter, members, departures: asked, demotion_requests, .. } = rows;
        let leases: Vec<bool> =
            rows.leases.rows.iter().map(|it| it.is_over(LeaseOf::Demotion, NOW)).collect();
        let fresh: Vec<bool> =
            rows.registry_auths.rows.iter().map(pull_credentials::tests::check_row).collect();
        status_view::tests::check_rows(members.rows.clone(), &asked.rows, Some(nodes.clone()));
        let (missing, stood_in, set) = (
            removed_members::tests::check_rows(&members.rows, &nodes),
            stand_in::tests::check_rows(&asked),
            labels::tests::check_rows(&members.rows, is_paused),
        );
        let demoted = demotion_requests::tests::check_rows(&demotion_requests.rows, &nodes);
        let removed = dead_nodes::tests::check_rows(
            members.rows.clone(),
            charter,
            nodes.clone(),
            is_answered,
        );
        let released = orphan_hooks::tests::check_rows(members, asked, nodes);
        (departures, leases, fresh, (missing, stood_in, set), demoted, removed, released)
    });
}

/// Decides on every departure. Returns the acts.
fn departures(rows: &Decoded, choices: &mut fastrand::Rng) -> String {
    let nodes = rows.nodes(choices);
    let act = |row| {
        let age = Age::of(row, choices.bool(), Duration::from_secs(7 * 24 * 3600), NOW);
        assert!(age.is_past_deadline || !age.is_overdue);
        let node = nodes.iter().find(|node| node.id == row.node_id);
        let act = decide(row, node, choices.usize(..3), choices.bool(), age);
        let is_in_raft = node.is_some_and(|node| node.raft.is_some());
        assert!(act != super::Action::Remove || !is_in_raft, "raft counts it");
        assert!(act != super::Action::Forget || row.state.is_over());
        format!("{act:?} ")
    };
    rows.departures.rows.iter().map(act).collect()
}
