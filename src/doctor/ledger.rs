//! Checks the ledger's table, its keys, and the charter in it.

use super::{Finding, skipped_without_node};
use crate::clients::ledger::{Charter, CharterPhase};
use crate::node::Node;

const TABLE: &str = "table";

pub async fn examine(node: Option<&Node>) -> Vec<Finding> {
    let Some(node) = node else { return skipped_without_node(&[TABLE]) };
    vec![match node.ledger.fetch_charter().await {
        Ok(charter) => {
            Finding::ok(TABLE, format!("{}: {}", node.ledger.describe(), words(charter.as_ref())))
        }
        Err(error) => Finding::of_error(TABLE, &error),
    }]
}

fn words(charter: Option<&Charter>) -> String {
    let Some(charter) = charter else { return "no swarm has been founded yet".into() };
    let generation = charter.generation;
    match charter.phase {
        CharterPhase::Open => format!("the swarm of generation {generation} is open"),
        CharterPhase::Founding => {
            format!("{} is founding the swarm of generation {generation}", charter.founder)
        }
        CharterPhase::Closed => format!("the swarm of generation {generation} is closed"),
    }
}
