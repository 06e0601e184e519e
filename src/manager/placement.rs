//! Tells which nodes can run the tasks of a service, by its spec. Pure.

use serde_json::Value;

use crate::clients::docker::NodeView;
use crate::common::fact::Fact;
use crate::common::instance::Role;
use crate::common::labels::INSTANCE;

/// Beginning of the keys of node labels in constraints.
const LABELS: &str = "node.labels.";

/// Returns the number of its tasks that a node can have, and what limits it.
pub(super) fn most_on_a_node(spec: &Value) -> Option<(&'static str, usize)> {
    let mut ports = spec["EndpointSpec"]["Ports"].as_array().into_iter().flatten();
    if ports.any(|port| port["PublishMode"] == "host") {
        return Some(("ports in host mode", 1));
    }
    let most = spec["TaskTemplate"]["Placement"]["MaxReplicas"].as_u64().filter(|it| *it > 0)?;
    Some(("max-replicas-per-node", usize::try_from(most).ok()?))
}

/// Whether a node meets the constraints of a service, as far as the node list shows.
pub(super) fn fits(spec: &Value, node: &NodeView) -> bool {
    constraints(spec).all(|it| may_fit(it, node))
}

/// Whether a new node of the same group as `like` would meet the constraints of a service, as far as the node list shows.
pub(super) fn fits_new_node(spec: &Value, like: &NodeView) -> bool {
    // No other node has the same.
    let is_own = |key: &str| {
        ["node.id", "node.hostname"].contains(&key) || key.strip_prefix(LABELS) == Some(INSTANCE)
    };
    constraints(spec).all(|constraint| match parse(constraint) {
        Some((key, _, wanted)) if is_own(key) => !wanted,
        _ => may_fit(constraint, like),
    })
}

/// Returns the value of a label that the constraints of a service demand.
pub(super) fn label_of<'a>(spec: &'a Value, label: &str) -> Option<&'a str> {
    constraints(spec).find_map(|constraint| {
        let (key, value, wanted) = parse(constraint)?;
        (wanted && key.strip_prefix(LABELS) == Some(label)).then_some(value)
    })
}

fn constraints(spec: &Value) -> impl Iterator<Item = &str> {
    let all = spec["TaskTemplate"]["Placement"]["Constraints"].as_array();
    all.into_iter().flatten().filter_map(Value::as_str)
}

/// Whether a node meets a constraint, as far as the node list shows: one that it does not show may be met.
fn may_fit(constraint: &str, node: &NodeView) -> bool {
    let Some((key, value, wanted)) = parse(constraint) else { return true };
    let role = match node.role {
        Role::Manager => "manager",
        Role::Worker => "worker",
    };
    let is_it = match key {
        "node.id" => node.id == value,
        "node.hostname" => node.hostname.eq_ignore_ascii_case(value),
        "node.role" => role.eq_ignore_ascii_case(value),
        _ => match key.strip_prefix(LABELS) {
            Some(label) => node.labels.get(label).is_some_and(|it| it.eq_ignore_ascii_case(value)),
            None => return true,
        },
    };
    is_it == wanted
}

/// Returns the first constraint of a service that the node list cannot answer.
pub(super) fn unknown_constraint(spec: &Value) -> Option<&str> {
    const KNOWN: [&str; 3] = ["node.id", "node.hostname", "node.role"];
    constraints(spec).find(|constraint| {
        let key = parse(constraint).map_or("", |(key, ..)| key);
        !KNOWN.contains(&key) && !key.starts_with(LABELS)
    })
}

/// Whether the platforms of a service's image, if it names some, include that of a node; `CannotTell` where the node has
/// not reported one. swarmkit compares them so (`PlatformFilter`).
pub(super) fn fits_platform(spec: &Value, node: &NodeView) -> Fact {
    let Some(platforms) = spec["TaskTemplate"]["Placement"]["Platforms"].as_array() else {
        return Fact::Yes;
    };
    if platforms.is_empty() {
        return Fact::Yes;
    }
    let Some((os, architecture)) = &node.platform else { return Fact::CannotTell };
    let same = |a: &str, b: &str| a.is_empty() || a == b;
    let word =
        |platform: &'_ Value, key: &str| platform[key].as_str().unwrap_or_default().to_owned();
    let fits = |platform: &Value| {
        same(&word(platform, "OS"), os)
            && same(go_name(&word(platform, "Architecture")), go_name(architecture))
    };
    Fact::from(platforms.iter().any(fits))
}

/// Images name an architecture as Go does, engines as the kernel does.
fn go_name(architecture: &str) -> &str {
    match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Returns key and value of a constraint, and whether they must be equal.
pub(super) fn parse(constraint: &str) -> Option<(&str, &str, bool)> {
    let parts = |operator| constraint.split_once(operator);
    let (key, value, wanted) = match (parts("!="), parts("==")) {
        (Some((key, value)), _) => (key, value, false),
        (None, Some((key, value))) => (key, value, true),
        (None, None) => return None,
    };
    Some((key.trim(), value.trim(), wanted))
}
