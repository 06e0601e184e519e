//! What an operator must know of the services that ask to be moved, for `skep doctor`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::spec::Wish;
use super::{may_have_other_credentials, spec, takes_tasks};
use crate::clients::docker::{NodeView, Service};
use crate::config::Settings;
use crate::manager::placement;

/// Returns what an operator must know of each service that asks to be moved, or that was: its name, whether something is
/// wrong, and the sentence.
#[must_use]
pub fn remarks(
    services: &[Service],
    nodes: &[NodeView],
    settings: &Settings,
) -> Vec<(String, Result<String, String>)> {
    let nodes: Vec<&NodeView> = nodes.iter().filter(takes_tasks).collect();
    let remark = |service: &Service| {
        let spec = service.spec();
        let asks = asks(spec);
        let is_silent = asks.as_ref().is_ok_and(Option::is_none);
        let remark = asks.and_then(|asks| match asks {
            None => Ok("it was moved".to_owned()),
            Some(_) if may_have_other_credentials(service, settings) => {
                Err(spec::OTHER_CREDENTIALS.to_owned())
            }
            Some((wish, fine)) => obstacle(spec, wish, &nodes).map_or(Ok(fine), Err),
        });
        let is_edited = |spec: &Value| !spec["Labels"][spec::RECORD].is_null();
        if !service.previous_spec().is_some_and(is_edited) {
            return (!is_silent).then_some(remark);
        }
        let image = spec["Labels"][spec::FORMER_IMAGE].as_str();
        let image =
            image.map_or_else(String::new, |image| format!("; the image before was {image}"));
        let rollback = format!(
            "`docker service rollback` leads to skep's own edit, which is taken back{image}"
        );
        Some(remark.map(|fine| format!("{fine}; {rollback}")))
    };
    services
        .iter()
        .filter_map(|service| Some((service.name().to_owned(), remark(service)?)))
        .collect()
}

/// Returns for what a service asks, if it asks for something, in words, too.
fn asks(spec: &Value) -> Result<Option<(Wish, String)>, String> {
    const DRAIN: &str = "its tasks are moved before their nodes are drained";
    const BALANCE: &str = "some of its tasks are moved to nodes that join";
    let fine = match (spec::wish(spec)?, spec::wants_balance(spec)?) {
        (None, false) => return Ok(None),
        (Some(wish), false) => (wish, DRAIN.to_owned()),
        (None, true) => (Wish::StartFirst, BALANCE.to_owned()),
        (Some(wish), true) => (wish, format!("{DRAIN}, and {BALANCE}")),
    };
    Ok(Some(fine))
}

/// Returns why its tasks cannot be moved, whichever node they are on.
fn obstacle(spec: &Value, wish: Wish, nodes: &[&NodeView]) -> Option<String> {
    if let Some(why) = spec::obstacle(spec, wish, &[], &BTreeSet::new(), nodes) {
        return Some(why);
    }
    let (what, most) = placement::most_on_a_node(spec)?;
    let replicas = spec["Mode"]["Replicated"]["Replicas"].as_u64().unwrap_or(1);
    let others = nodes.iter().filter(|node| placement::fits(spec, node)).count().saturating_sub(1);
    let free = u64::try_from(others.saturating_mul(most)).unwrap_or(u64::MAX);
    (free < replicas).then(|| format!("{what} leave no other node for its tasks"))
}
