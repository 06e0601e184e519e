//! Generates wrong ledger rows for property tests. Each row starts as a correct one; then some attributes are removed,
//! or get another type, or are empty, huge, or out of bounds. The rows that decoding accepts are the input of the code
//! that decides on rows.

pub mod decoded;

use std::fmt::Debug;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde::Serialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;

use crate::clients::docker::{Availability, LocalNode, LocalState, NodeView};
use crate::clients::ledger::{
    Attempt, Charter, CharterPhase, DemotionRequest, DepartureRow, DepartureState, Lease, Member,
    MemberRows, MemberState, Record, RegistryAuth, Row, Rows, ServicesWorse, Traces, Traffic,
    TurnFor, decode, encode,
};
use crate::common::instance::{Departure, HIGHEST_GENERATION, Instance, Membership, Reason, Role};
use crate::common::labels::INSTANCE;

/// The time at which the tests evaluate the rows.
pub const NOW: OffsetDateTime = time::macros::datetime!(2026-11-28 12:00 UTC);
/// Number of instances (`i-0`, …) and of nodes (`node-0`, …).
const NAMES: u8 = 4;

/// A change to an attribute.
#[derive(Clone, Debug)]
enum Spoil {
    Gone,
    /// The attribute gets one of these values, by its present type.
    Like {
        number: String,
        text: String,
    },
    Value(AttributeValue),
}

fn number() -> impl Strategy<Value = String> {
    let words = ["", "1.5", "1e3", "NaN", "one", "-0", "99999999999999999999999999999999999999"];
    let edges: [i128; 14] = [
        -377_705_116_801,
        // The years -9999, 1970, 2999 and 9999.
        -377_705_116_800,
        -1,
        0,
        32_503_679_999,
        32_503_680_000,
        253_402_300_799,
        253_402_300_800,
        i64::MIN.into(),
        i64::MAX.into(),
        u64::MAX.into(),
        HIGHEST_GENERATION.into(),
        (HIGHEST_GENERATION + 1).into(),
        1 << 100,
    ];
    let about_now = -400_000i64..400_000;
    prop_oneof![
        1 => select(words.to_vec()).prop_map(str::to_owned),
        6 => select(edges.to_vec()).prop_map(|number| number.to_string()),
        1 => any::<u64>().prop_map(|number| number.to_string()),
        1 => (0u64..4).prop_map(|number| number.to_string()),
        1 => about_now.prop_map(|off| (NOW.unix_timestamp() + off).to_string()),
    ]
}

/// Any text that an operator or a node may have written into a row.
pub fn text() -> impl Strategy<Value = String> {
    let edges = [
        "",
        " ",
        "\0",
        "\u{1b}[2J",
        "..",
        "../services/web",
        "n1/update?version=1",
        "i-",
        "i-../../etc",
        "i-01234567890123456789",
        "not a swarm manager",
        "ü💥",
        "manager",
        "worker",
        "open",
        "closed",
        "left",
        "removed",
        "swarm",
        "other",
        "10.0.0.1",
        "::1",
        "999.0.0.1",
    ];
    prop_oneof![
        6 => select(edges.to_vec()).prop_map(str::to_owned),
        2 => (0..NAMES).prop_map(|n| format!("i-{n}")),
        2 => (0..NAMES).prop_map(|n| format!("node-{n}")),
        1 => select(vec![255usize, 256, 100_000]).prop_map(|length| "x".repeat(length)),
        1 => ".{0,20}",
    ]
}

fn value() -> impl Strategy<Value = AttributeValue> {
    let list = prop::collection::vec(text().prop_map(AttributeValue::S), 0..20);
    let map = prop::collection::hash_map(text(), text().prop_map(AttributeValue::S), 0..20);
    prop_oneof![
        8 => text().prop_map(AttributeValue::S),
        8 => number().prop_map(AttributeValue::N),
        2 => any::<bool>().prop_map(AttributeValue::Bool),
        1 => Just(AttributeValue::Null(true)),
        1 => list.prop_map(AttributeValue::L),
        1 => map.prop_map(AttributeValue::M),
        1 => prop::collection::vec(text(), 0..4).prop_map(AttributeValue::Ss),
        1 => Just(AttributeValue::B(aws_sdk_dynamodb::primitives::Blob::new([0, 255]))),
    ]
}

/// Returns the row after the changes, at most three.
fn spoil(row: Row, spoils: &[(Index, Spoil)]) -> Row {
    let mut names: Vec<String> = row.keys().filter(|name| *name != "item").cloned().collect();
    names.sort();
    let mut row = row;
    for (at, spoil) in spoils {
        let name = names[at.index(names.len())].clone();
        match spoil {
            Spoil::Gone => drop(row.remove(&name)),
            Spoil::Value(value) => drop(row.insert(name, value.clone())),
            Spoil::Like { number, text } => match row.get_mut(&name) {
                Some(AttributeValue::N(was)) => was.clone_from(number),
                Some(AttributeValue::S(was)) => was.clone_from(text),
                _ => {}
            },
        }
    }
    row
}

fn spoils() -> impl Strategy<Value = Vec<(Index, Spoil)>> {
    let like = (number(), text()).prop_map(|(number, text)| Spoil::Like { number, text });
    let spoil = prop_oneof![1 => Just(Spoil::Gone), 6 => like, 2 => value().prop_map(Spoil::Value)];
    prop::collection::vec((any::<Index>(), spoil), 0..4)
}

/// Spoiled rows under the key of the correct row.
pub fn rows<T: Debug + Serialize + Record + 'static>(
    right: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Row> {
    let row = move |(right, spoils): (T, Vec<_>)| {
        let item = right.item().unwrap_or_else(|| "item".to_owned());
        let mut row = encode(&item, &right).expect("a correct row can be encoded");
        row.insert("item".to_owned(), AttributeValue::S(item.clone()));
        spoil(row, &spoils)
    };
    (right, spoils()).prop_map(row).boxed()
}

/// The spoiled rows that are readable.
fn read<T>(right: impl Strategy<Value = T> + 'static) -> BoxedStrategy<T>
where
    T: Debug + Serialize + DeserializeOwned + Record + 'static,
{
    rows(right).prop_filter_map("cannot be read", |row| decode(row).ok()).boxed()
}

fn role() -> impl Strategy<Value = Role> {
    select(&Role::ALL)
}

fn right_charter() -> impl Strategy<Value = Charter> {
    let phases = [CharterPhase::Founding, CharterPhase::Open, CharterPhase::Closed];
    (select(phases.to_vec()), 0..NAMES, any::<bool>()).prop_map(|(phase, founder, is_recovery)| {
        let claim =
            Charter::claim(None, &Traces::default(), &format!("i-{founder}"), NOW, Duration::ZERO);
        Charter {
            phase,
            swarm_id: Some("swarm".to_owned()),
            founded_at: Some(NOW),
            former: vec!["former".to_owned()],
            recovers: is_recovery.then(|| "swarm".to_owned()),
            ..claim
        }
    })
}

fn right_member() -> impl Strategy<Value = Member> {
    let states = [MemberState::Ready, MemberState::Leaving, MemberState::Removed];
    (0..NAMES, role(), role(), select(states.to_vec())).prop_map(|(n, role, serves_as, state)| {
        let instance =
            Instance { id: format!("i-{n}"), group: Some("group".into()), ..Instance::example() };
        let (node_id, swarm_id) = (format!("node-{n}"), "swarm".to_owned());
        let membership = Membership { node_id, swarm_id, generation: 1, role: serves_as };
        let mut row = Member::new(&instance, &membership, role, state, NOW);
        row.serves_as = Some(serves_as);
        row.labels.insert("disk".to_owned(), "ssd".to_owned());
        row
    })
}

fn right_departure() -> impl Strategy<Value = DepartureRow> {
    use DepartureState::{Drained, Draining, Failed, Left, Removed, Requested};
    let states = [Requested, Draining, Drained, Left, Removed, Failed];
    (0..NAMES, role(), select(states.to_vec()), any::<bool>()).prop_map(
        |(n, role, state, stand_in)| {
            let departure = Departure { reason: Reason::Lifecycle, noticed_at: NOW, deadline: NOW };
            let (instance, node) = (format!("i-{n}"), format!("node-{n}"));
            let mut row = DepartureRow::request(&instance, &node, role, &departure, "boot");
            (row.state, row.stand_in) = (state, stand_in);
            row.group = Some("group".to_owned());
            row.waiting_for = Some("the tasks to stop".to_owned());
            (row.hold_until, row.turn_by) = (Some(NOW), Some(NOW));
            (row.traffic, row.turn_after) = (Some(Traffic::Balanced), Some("i-1".to_owned()));
            row.turn_for = TurnFor::OwnTasks;
            row
        },
    )
}

fn right_attempt() -> impl Strategy<Value = Attempt> {
    (0..NAMES, role())
        .prop_map(|(n, role)| Attempt::new(&format!("i-{n}"), role, [10, 0, 0, n].into(), NOW))
}

fn right_demotion_request() -> impl Strategy<Value = DemotionRequest> {
    (0..NAMES, any::<bool>()).prop_map(|(n, is_out)| {
        let mut row =
            DemotionRequest::new(&format!("i-{n}"), &format!("node-{n}"), "it has moved", NOW);
        row.is_out = is_out;
        row
    })
}

fn right_registry_auth() -> impl Strategy<Value = RegistryAuth> {
    Just(RegistryAuth {
        service_id: "service".to_owned(),
        registry: "registry".to_owned(),
        since: NOW,
        expires_at: NOW,
    })
}

fn right_services() -> impl Strategy<Value = ServicesWorse> {
    (-400i64..400).prop_map(|seconds| {
        let row = serde_json::json!({
            "after": "i-1 (service web)",
            "at": NOW.unix_timestamp() + seconds,
            "expires_at": NOW.unix_timestamp(),
        });
        serde_json::from_value(row).expect("a correct row can be decoded")
    })
}

fn right_lease() -> impl Strategy<Value = Lease> {
    (0..NAMES, -400i64..400).prop_map(|(n, seconds)| {
        let row = serde_json::json!({
            "node_id": format!("node-{n}"),
            "taken_by": format!("i-{n}"),
            "expires_at": NOW.unix_timestamp() + seconds,
        });
        serde_json::from_value(row).expect("a correct lease can be decoded")
    })
}

/// A spoiled row of each kind that has its own type, with the name of the kind.
pub fn any_row() -> BoxedStrategy<(&'static str, Row)> {
    prop_oneof![
        rows(right_charter()).prop_map(|row| ("charter", row)),
        rows(right_member()).prop_map(|row| ("member", row)),
        rows(right_departure()).prop_map(|row| ("departure", row)),
        rows(right_attempt()).prop_map(|row| ("attempt", row)),
        rows(right_demotion_request()).prop_map(|row| ("demotion-request", row)),
        rows(right_lease()).prop_map(|row| ("lease", row)),
        rows(right_registry_auth()).prop_map(|row| ("registry-auth", row)),
        rows(right_services()).prop_map(|row| ("services", row)),
    ]
    .boxed()
}

pub fn charter() -> BoxedStrategy<Charter> {
    read(right_charter())
}

pub fn member() -> BoxedStrategy<Member> {
    read(right_member())
}

/// Up to four rows, and perhaps an unreadable one under the key `odd`.
fn survey<T: Debug + 'static>(row: BoxedStrategy<T>, odd: &'static str) -> BoxedStrategy<Rows<T>> {
    (prop::collection::vec(row, 0..5), any::<bool>())
        .prop_map(move |(rows, is_readable)| {
            let unreadable = (!is_readable).then(|| odd.to_owned());
            Rows { rows, unreadable: unreadable.into_iter().collect(), ..Rows::default() }
        })
        .boxed()
}

pub fn members() -> BoxedStrategy<MemberRows> {
    survey(member(), "member#manager#i-9")
}

pub fn departure() -> BoxedStrategy<DepartureRow> {
    read(right_departure())
}

pub fn departures() -> BoxedStrategy<Rows<DepartureRow>> {
    survey(departure(), "departure#i-0")
}

pub fn rejoins() -> BoxedStrategy<Vec<DemotionRequest>> {
    prop::collection::vec(read(right_demotion_request()), 0..4).boxed()
}

pub fn lease() -> BoxedStrategy<Lease> {
    read(right_lease())
}

pub fn registry_auth() -> BoxedStrategy<RegistryAuth> {
    read(right_registry_auth())
}

/// Docker's answer about a host that may be `node-0`.
pub fn local() -> BoxedStrategy<LocalNode> {
    use LocalState::{Active, Error, Inactive, Locked, Pending};
    let swarm = prop::option::of(select(vec!["swarm", "former", "other"]));
    let states = select(vec![Inactive, Pending, Active, Error, Locked]);
    (states, any::<bool>(), swarm, any::<(bool, bool)>())
        .prop_map(|(state, is_named, swarm, (is_manager, has_managers))| LocalNode {
            state,
            node_id: is_named.then(|| "node-0".to_owned()),
            swarm_id: swarm.map(str::to_owned),
            is_manager,
            has_managers,
            managers: vec![],
            error: String::new(),
            address: None,
            live_restore: false,
        })
        .boxed()
}

/// The node list.
pub fn nodes() -> BoxedStrategy<Vec<NodeView>> {
    let availability = select(vec![Availability::Active, Availability::Pause, Availability::Drain]);
    let flags = any::<(bool, bool)>();
    let node = (role(), select(vec!["ready", "down", "unknown"]), availability, flags);
    prop::collection::vec(node, 0..usize::from(NAMES))
        .prop_map(|nodes| {
            let views = (0u8..).zip(nodes).map(|(n, (role, state, availability, flags))| {
                let (is_leader, is_identified) = flags;
                let mut view = NodeView::example(&format!("node-{n}"), role);
                (view.state, view.availability) = (state.to_owned(), availability);
                view.address = Some(format!("10.0.0.{n}"));
                if is_identified {
                    view.labels.insert(INSTANCE.to_owned(), format!("i-{n}"));
                }
                if let Some(raft) = &mut view.raft {
                    raft.is_leader = is_leader;
                }
                view
            });
            views.collect()
        })
        .boxed()
}
