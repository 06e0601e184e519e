//! Rows as the bytes of a fuzz target's input: one row in each line, in DynamoDB's JSON.

use std::collections::{BTreeMap, HashMap};

use proptest::strategy::{Strategy, ValueTree as _};
use proptest::test_runner::TestRunner;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::*;
use crate::clients::docker::RaftView;

/// Number of lines that are read: more rows of other names are no other case.
const MOST_ROWS: usize = 40;
/// Words of rows.
pub const WORDS: [&str; 24] = [
    r#""S""#,
    r#""N""#,
    r#""BOOL""#,
    r#""NULL""#,
    r#""L""#,
    r#""M""#,
    r#""SS""#,
    r#""B""#,
    "manager",
    "worker",
    "open",
    "closed",
    "founding",
    "ready",
    "leaving",
    "removed",
    "requested",
    "draining",
    "left",
    "failed",
    "schema",
    "expires_at",
    "swarm",
    "1795860000",
];

/// The rows of an input, as the ledger sorts them.
#[derive(Default)]
pub struct Decoded {
    pub charter: Option<Charter>,
    pub members: MemberRows,
    pub departures: Rows<DepartureRow>,
    pub attempts: Rows<Attempt>,
    pub demotion_requests: Rows<DemotionRequest>,
    pub leases: Rows<Lease>,
    pub registry_auths: Rows<RegistryAuth>,
}

/// Returns correct inputs: a few rows of every kind.
pub fn corpus() -> Vec<Vec<u8>> {
    let mut runner = TestRunner::deterministic();
    let runner = &mut runner;
    let input = |_| {
        let rows = [
            line(runner, "charter", right_charter()),
            line(runner, "", right_member()),
            line(runner, "", right_member()),
            line(runner, "", right_departure()),
            line(runner, "", right_departure()),
            line(runner, "", right_attempt()),
            line(runner, "", right_demotion_request()),
            line(runner, "lease#demotion", right_lease()),
            line(runner, "", right_registry_auth()),
        ];
        rows.join("\n").into_bytes()
    };
    (0..12).map(input).collect()
}

/// Returns a row in DynamoDB's JSON, its attributes sorted: an input must be the same in every run.
fn line<T: Serialize + Record>(
    runner: &mut TestRunner,
    item: &str,
    right: impl Strategy<Value = T>,
) -> String {
    let right = right.new_tree(runner).expect("nothing is filtered").current();
    let item = right.item().unwrap_or_else(|| item.to_owned());
    let mut row = encode(&item, &right).expect("a correct row can be encoded");
    row.insert("cluster".to_owned(), AttributeValue::S("prod".to_owned()));
    row.insert("item".to_owned(), AttributeValue::S(item));
    let row = serde_json::to_value(serde_dynamo::Item::from(row)).expect("it is JSON");
    let sorted: BTreeMap<_, _> = row.as_object().expect("attributes").iter().collect();
    serde_json::to_string(&sorted).expect("it is JSON")
}

/// Reads an input. A line that is no row is skipped: DynamoDB sends none.
pub fn decoded(input: &[u8]) -> Decoded {
    let mut all = Decoded::default();
    for line in input.split(|byte| *byte == b'\n').take(MOST_ROWS) {
        let Ok(row) = serde_json::from_slice::<serde_dynamo::Item>(line) else { continue };
        let row: Row = HashMap::from(row);
        let Some(AttributeValue::S(item)) = row.get("item") else { continue };
        let item = item.clone();
        match item.split('#').next().unwrap_or_default() {
            "charter" => all.charter = decode(row).ok(),
            "member" => sort_into(&mut all.members, item, row),
            "departure" => sort_into(&mut all.departures, item, row),
            "attempt" => sort_into(&mut all.attempts, item, row),
            "demotion-request" => sort_into(&mut all.demotion_requests, item, row),
            "lease" => sort_into(&mut all.leases, item, row),
            _ => sort_into(&mut all.registry_auths, item, row),
        }
    }
    all
}

fn sort_into<T: DeserializeOwned + Record>(rows: &mut Rows<T>, item: String, row: Row) {
    match decode(row) {
        Ok(row) => rows.rows.push(row),
        Err(error) => {
            let text = crate::common::errors::chain(&error);
            assert!(!text.contains(char::is_control), "a log line: {text:?}");
            rows.unreadable.insert(item);
        }
    }
}

impl Decoded {
    /// Returns a node list with every node that the members name, and `node-0`.
    pub fn nodes(&self, choices: &mut fastrand::Rng) -> Vec<NodeView> {
        let mut ids: Vec<&str> = self.members.rows.iter().map(|it| &*it.node_id).collect();
        ids.push("node-0");
        ids.sort_unstable();
        ids.dedup();
        let node = |id: &str| {
            let mut view = NodeView::example(id, Role::ALL[choices.usize(..2)]);
            view.state = ["ready", "down", "unknown"][choices.usize(..3)].to_owned();
            view.address = Some(format!("10.0.0.{}", choices.u8(..4)));
            view.joined_at = choices.bool().then_some(NOW);
            view.raft = choices
                .bool()
                .then(|| RaftView { is_leader: choices.bool(), is_reachable: choices.bool() });
            if choices.bool() {
                let instance = format!("i-{}", choices.u8(..NAMES));
                view.labels.insert(INSTANCE.to_owned(), instance);
            }
            view
        };
        ids.into_iter().map(node).collect()
    }
}

/// Returns an answer of Docker about a host that may be `node-0`.
pub fn local_node(choices: &mut fastrand::Rng) -> LocalNode {
    use LocalState::{Active, Error, Inactive, Locked, Pending};
    let swarm = [None, Some("swarm"), Some("former"), Some("other")][choices.usize(..4)];
    LocalNode {
        state: [Active, Error, Inactive, Locked, Pending][choices.usize(..5)],
        node_id: choices.bool().then(|| "node-0".to_owned()),
        swarm_id: swarm.map(str::to_owned),
        is_manager: choices.bool(),
        has_managers: choices.bool(),
        managers: vec![],
        error: ["", "The swarm does not have a leader"][choices.usize(..2)].to_owned(),
        address: None,
        live_restore: choices.bool(),
    }
}

#[test]
fn every_row_of_a_correct_input_is_readable() {
    for input in corpus() {
        let all = decoded(&input);
        let rows = all.members.rows.len() + all.departures.rows.len();
        assert_eq!((all.charter.is_some(), rows, all.attempts.rows.len()), (true, 4, 1));
        assert_eq!((all.leases.rows.len(), all.registry_auths.rows.len()), (1, 1));
        assert_eq!(all.demotion_requests.rows.len(), 1);
    }
    assert_eq!(corpus(), corpus());
}
