//! What AWS charges for a call and how many rows a read returns, and keys that stay unprocessed.
//!
//! The database computes the charge, by the sizes of whole items; a caller that did not ask for it does not get it.

use axum::body::Bytes;
use fastrand::Rng;
use serde_json::{Map, Value};

use crate::cloud::faults::Fate;

const CAPACITY: &str = "ConsumedCapacity";
const RETURN_CAPACITY: &str = "ReturnConsumedCapacity";
const READS: [&str; 5] = ["GetItem", "BatchGetItem", "Query", "Scan", "TransactGetItems"];
const WRITES: [&str; 5] =
    ["PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem", "TransactWriteItems"];

/// Read units and write units, as AWS charges them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Units {
    pub read: f64,
    pub write: f64,
}

/// What a call has used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::cloud) struct Used {
    pub units: Units,
    /// Number of rows in the answer to a read.
    pub rows: usize,
}

/// Whether an operation is a read.
pub(in crate::cloud) fn is_read(action: &str) -> bool {
    READS.contains(&action)
}

/// A read or a write of rows, as the database gets it.
pub(in crate::cloud) struct Metered {
    is_read: bool,
    input: Value,
    /// The content of `UnprocessedKeys`: keys that the database does not get.
    unprocessed: Map<String, Value>,
    shows_capacity: bool,
}

impl Metered {
    /// Returns `None` for a call that neither reads nor writes rows.
    pub fn new(action: &str, input: &Value, fate: Fate) -> Option<Self> {
        let is_read = is_read(action);
        let mut input = (is_read || WRITES.contains(&action)).then(|| input.clone())?;
        let members = input.as_object_mut()?;
        let shows_capacity = members.get(RETURN_CAPACITY).is_some_and(|of| of != "NONE");
        if !shows_capacity {
            members.insert(RETURN_CAPACITY.to_owned(), "TOTAL".into());
        }
        let unprocessed = match (fate, action) {
            (Fate::InPart(seed), "BatchGetItem") => withhold(&mut input, seed),
            _ => Map::new(),
        };
        Some(Self { is_read, input, unprocessed, shows_capacity })
    }

    pub fn body(&self) -> Bytes {
        self.input.to_string().into()
    }

    /// Returns the caller's answer, and what the call has used, from the database's answer.
    pub fn answer(self, answer: &[u8]) -> Option<(String, Used)> {
        let mut answer: Value = serde_json::from_slice(answer).ok()?;
        let units = units(&answer[CAPACITY]);
        let used = if self.is_read {
            Used { units: Units { read: units, write: 0.0 }, rows: rows(&answer) }
        } else {
            Used { units: Units { read: 0.0, write: units }, rows: 0 }
        };
        let members = answer.as_object_mut()?;
        if !self.shows_capacity {
            members.remove(CAPACITY);
        }
        if !self.unprocessed.is_empty() {
            members.insert("UnprocessedKeys".to_owned(), self.unprocessed.into());
        }
        Some((answer.to_string(), used))
    }
}

/// Returns the sum over the tables; only a call to several tables answers with a list.
fn units(capacity: &Value) -> f64 {
    let of_one = |capacity: &Value| capacity["CapacityUnits"].as_f64().unwrap_or_default();
    capacity.as_array().map_or_else(|| of_one(capacity), |all| all.iter().map(of_one).sum())
}

fn rows(answer: &Value) -> usize {
    let lists = answer["Responses"].as_object().into_iter().flatten().map(|(_, rows)| rows);
    let listed = lists.chain([&answer["Items"]]).filter_map(Value::as_array).map(Vec::len);
    listed.sum::<usize>() + usize::from(answer["Item"].is_object())
}

/// Removes some of the requested keys, and returns them in the form of `UnprocessedKeys`. As on AWS, at least one is
/// processed: <https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html>
fn withhold(input: &mut Value, seed: u64) -> Map<String, Value> {
    let mut random = Rng::with_seed(seed);
    let mut unprocessed = Map::new();
    let Some(tables) = input["RequestItems"].as_object_mut() else {
        return unprocessed;
    };
    let count = |table: &Value| table["Keys"].as_array().map_or(0, Vec::len);
    let total: usize = tables.values().map(count).sum();
    if total < 2 {
        return unprocessed;
    }
    let mut is_withheld = vec![true; random.usize(1..total)];
    is_withheld.resize(total, false);
    random.shuffle(&mut is_withheld);
    let mut is_withheld = is_withheld.into_iter();
    for (name, table) in tables.iter_mut() {
        let keys = table["Keys"].as_array_mut().map(std::mem::take).unwrap_or_default();
        let (withheld, kept): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|_| is_withheld.next().unwrap_or_default());
        table["Keys"] = kept.into();
        if !withheld.is_empty() {
            let mut rest = table.clone();
            rest["Keys"] = withheld.into();
            unprocessed.insert(name.clone(), rest);
        }
    }
    tables.retain(|_, table| count(table) > 0);
    unprocessed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(item: usize) -> Value {
        json!({ "cluster": { "S": "a" }, "item": { "S": item.to_string() } })
    }

    fn batch(keys: usize) -> Value {
        let keys: Vec<_> = (0..keys).map(key).collect();
        json!({ "RequestItems": {
            "one": { "Keys": keys, "ConsistentRead": true }, "two": { "Keys": [key(0)] },
        } })
    }

    fn keys(tables: &Value) -> Vec<String> {
        let tables = tables.as_object().unwrap().iter();
        let keys = tables.flat_map(|(name, table)| {
            let keys = table["Keys"].as_array().unwrap();
            keys.iter().map(move |key| format!("{name}/{}", key["item"]["S"]))
        });
        keys.collect()
    }

    #[test]
    fn some_keys_stay_unprocessed_and_none_is_lost() {
        for seed in 0..100 {
            let request = batch(9);
            let read = Metered::new("BatchGetItem", &request, Fate::InPart(seed)).unwrap();
            let processed = keys(&read.input["RequestItems"]);
            let (answer, _) = read.answer(br#"{"Responses":{},"UnprocessedKeys":{}}"#).unwrap();
            let answer: Value = serde_json::from_str(&answer).unwrap();
            let rest = &answer["UnprocessedKeys"];
            assert!(!processed.is_empty() && !keys(rest).is_empty(), "{seed}");
            let settings = &rest["one"]["ConsistentRead"];
            assert!(rest.get("one").is_none() || settings == true, "{settings}");
            let mut all = [processed, keys(rest)].concat();
            all.sort();
            assert_eq!(all, keys(&request["RequestItems"]));
        }
        let one = json!({ "RequestItems": { "one": { "Keys": [key(0)] } } });
        let read = Metered::new("BatchGetItem", &one, Fate::InPart(1)).unwrap();
        assert_eq!(read.input["RequestItems"], one["RequestItems"]);
        assert!(Metered::new("CreateTable", &one, Fate::InPart(1)).is_none());
    }

    #[test]
    fn the_seed_chooses_what_stays_unprocessed() {
        let rest = |seed| withhold(&mut batch(20), seed);
        assert_eq!(rest(1), rest(1));
        assert_ne!(rest(1), rest(2));
    }

    #[test]
    fn only_a_caller_that_asks_gets_the_capacity() {
        let database = br#"{"ConsumedCapacity":{"TableName":"t","CapacityUnits":2.5}}"#;
        for (mode, shows) in [(json!(null), false), (json!("NONE"), false), (json!("TOTAL"), true)]
        {
            let mut input = json!({ "TableName": "t", RETURN_CAPACITY: mode });
            if mode.is_null() {
                input.as_object_mut().unwrap().remove(RETURN_CAPACITY);
            }
            let read = Metered::new("GetItem", &input, Fate::Served).unwrap();
            let (answer, used) = read.answer(database).unwrap();
            assert_eq!((answer.contains(CAPACITY), used.units.read), (shows, 2.5), "{mode}");
        }
    }

    #[test]
    fn a_write_is_charged_in_its_own_units_and_rows_are_counted() {
        let used = |action, answer: Value| {
            let call = Metered::new(action, &json!({ "TableName": "t" }), Fate::Served).unwrap();
            call.answer(answer.to_string().as_bytes()).unwrap().1
        };
        let capacity = json!({ "CapacityUnits": 2.0 });
        let put = used("PutItem", json!({ CAPACITY: capacity }));
        assert_eq!(put, Used { units: Units { read: 0.0, write: 2.0 }, rows: 0 });
        let query = used("Query", json!({ CAPACITY: capacity, "Items": [{}, {}], "Count": 2 }));
        assert_eq!(query, Used { units: Units { read: 2.0, write: 0.0 }, rows: 2 });
        assert_eq!(used("GetItem", json!({ "Item": {} })).rows, 1);
        assert_eq!(used("GetItem", json!({})).rows, 0);
        assert_eq!(used("BatchGetItem", json!({ "Responses": { "t": [{}, {}, {}] } })).rows, 3);
    }
}
