//! Tells which nodes can run the tasks of a service, by its spec. Pure.

use serde_json::Value;

use crate::clients::docker::{NodeView, Service};
use crate::common::fact::Fact;
use crate::common::instance::Role;
use crate::common::labels::{INSTANCE, OWN_NAMESPACE, OWNED};

/// Beginning of the keys of node labels in constraints.
const LABELS: &str = "node.labels.";
/// Label of a service, or of its containers, whose tasks keep their nodes from being scaled in.
const PROTECT: &str = "skep.protect";

/// Returns the number of its tasks that a node can have, and what limits it.
pub(super) fn most_on_a_node(spec: &Value) -> Option<(&'static str, usize)> {
    let mut ports = spec["EndpointSpec"]["Ports"].as_array().into_iter().flatten();
    // swarmkit compares published ports alone (`HostPortFilter`): Docker chooses others that are free.
    let is_fixed = |port: &Value| port["PublishedPort"].as_u64().is_some_and(|it| it > 0);
    if ports.any(|port| port["PublishMode"] == "host" && is_fixed(port)) {
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
    let of_skep = like.labels.get(OWNED).map(String::as_str).unwrap_or_default();
    // No other node has the same, as far as skep does not set it.
    let is_own = |key: &str| match key.strip_prefix(LABELS) {
        Some(INSTANCE) => true,
        Some(label) => {
            !label.starts_with(OWN_NAMESPACE) && !of_skep.split(',').any(|it| it == label)
        }
        None => ["node.id", "node.hostname"].contains(&key),
    };
    constraints(spec).all(|constraint| match parse(constraint) {
        Some((key, _, wanted)) if is_own(key) => !wanted,
        _ => may_fit(constraint, like),
    })
}

/// Whether a task of a service keeps its node from being scaled in.
pub(super) fn keeps_its_node(service: &Service) -> bool {
    let spec = service.spec();
    let is_set = |labels: &Value| labels[PROTECT] == "true";
    service.is_job()
        || is_set(&spec["Labels"])
        || is_set(&spec["TaskTemplate"]["ContainerSpec"]["Labels"])
}

/// Whether a node with a task of a service is not idle: global services have one on every node.
pub(super) fn occupies(service: &Service) -> bool {
    keeps_its_node(service) || !service.is_global()
}

/// Returns the value of a label that the constraints of a service demand.
pub(super) fn label_of<'a>(spec: &'a Value, label: &str) -> Option<&'a str> {
    constraints(spec).find_map(|constraint| {
        let (key, value, wanted) = parse(constraint)?;
        (wanted && key.strip_prefix(LABELS) == Some(label)).then_some(value)
    })
}

/// Returns the constraints of a service.
pub(super) fn constraints(spec: &Value) -> impl Iterator<Item = &str> {
    let all = spec["TaskTemplate"]["Placement"]["Constraints"].as_array();
    all.into_iter().flatten().filter_map(Value::as_str)
}

/// Whether a node meets a constraint, as far as the node list shows: one that it does not show may be met.
pub(super) fn may_fit(constraint: &str, node: &NodeView) -> bool {
    let Some((key, value, wanted)) = parse(constraint) else { return true };
    let role = match node.role {
        Role::Manager => "manager",
        Role::Worker => "worker",
    };
    let is_it = match key {
        "node.id" => node.id == value,
        "node.hostname" => node.hostname.eq_ignore_ascii_case(value),
        "node.role" => role.eq_ignore_ascii_case(value),
        "node.platform.os" | "node.platform.arch" => match &node.platform {
            Some((os, _)) if key.ends_with("os") => os.eq_ignore_ascii_case(value),
            Some((_, architecture)) => architecture.eq_ignore_ascii_case(value),
            None => return true,
        },
        _ => match key.strip_prefix(LABELS) {
            Some(label) => node.labels.get(label).is_some_and(|it| it.eq_ignore_ascii_case(value)),
            None => return true,
        },
    };
    is_it == wanted
}

/// Returns the first constraint of a service that the node list cannot answer. `knows_platform`: whether the nodes have
/// reported their platforms.
pub(super) fn unknown_constraint(spec: &Value, knows_platform: bool) -> Option<&str> {
    constraints(spec).find(|constraint| {
        let key = parse(constraint).map_or("", |(key, ..)| key);
        match key {
            "node.id" | "node.hostname" | "node.role" => false,
            "node.platform.os" | "node.platform.arch" => !knows_platform,
            key => !key.starts_with(LABELS),
        }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(spec: Value) -> Service {
        let service = json!({
            "ID": "s1", "Version": { "Index": 1 }, "UpdatedAt": "2026-11-21T10:00:00Z", "Spec": spec,
        });
        serde_json::from_value(service).unwrap()
    }

    #[test]
    fn jobs_and_what_is_labelled_so_keep_their_nodes() {
        let keeps = |spec: Value| keeps_its_node(&service(spec));
        assert!(keeps(json!({ "Mode": { "ReplicatedJob": {} } })));
        assert!(keeps(json!({ "Mode": { "GlobalJob": {} } })));
        let replicated = json!({ "Replicated": {} });
        assert!(!keeps(json!({ "Mode": replicated })));
        for (value, expected) in [("true", true), ("false", false), ("yes", false)] {
            let labels = json!({ PROTECT: value });
            assert_eq!(keeps(json!({ "Mode": replicated, "Labels": labels })), expected, "{value}");
            let container = json!({ "ContainerSpec": { "Labels": labels } });
            assert_eq!(keeps(json!({ "Mode": replicated, "TaskTemplate": container })), expected);
            assert_eq!(
                occupies(&service(json!({ "Mode": { "Global": {} }, "Labels": labels }))),
                expected
            );
        }
        assert!(occupies(&service(json!({ "Mode": replicated }))));
    }

    #[test]
    fn a_new_node_has_the_labels_that_skep_sets_and_no_others() {
        let mut node = NodeView::example("n1", Role::Worker);
        for (key, value) in [
            ("skep.zone", "a"),
            (INSTANCE, "i-1"),
            ("disk", "ssd"),
            ("rack", "7"),
            (OWNED, "disk,x"),
        ] {
            node.labels.insert(key.into(), value.into());
        }
        node.platform = Some(("linux".into(), "x86_64".into()));
        let fits = |constraint: &str| {
            let spec = json!({ "TaskTemplate": { "Placement": { "Constraints": [constraint] } } });
            (fits(&spec, &node), fits_new_node(&spec, &node))
        };
        for (constraint, now, new) in [
            ("node.labels.skep.zone==A", true, true),
            ("node.labels.skep.instance==i-1", true, false),
            ("node.labels.disk==ssd", true, true),
            ("node.labels.rack==7", true, false),
            ("node.labels.rack!=7", false, true),
            ("node.id==n1", true, false),
            ("node.id != n1", false, true),
            ("node.role==worker", true, true),
            ("node.platform.arch==x86_64", true, true),
            ("node.platform.arch==aarch64", false, false),
            ("node.platform.os!=linux", false, false),
        ] {
            assert_eq!(fits(constraint), (now, new), "{constraint}");
        }
    }

    #[test]
    fn only_a_published_port_of_the_host_is_limited_to_one_task_for_each_node() {
        let spec = |mode: &str, port: u16| {
            let port = json!({ "PublishMode": mode, "TargetPort": 80, "PublishedPort": port });
            json!({ "EndpointSpec": { "Ports": [port] } })
        };
        assert!(most_on_a_node(&spec("host", 80)).is_some());
        assert!(most_on_a_node(&spec("host", 0)).is_none(), "Docker takes a free one");
        assert!(most_on_a_node(&spec("ingress", 80)).is_none());
    }
}
