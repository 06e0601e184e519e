//! Finds a node's cluster and role in the settings or the instance metadata.
//!
//! The first source with a value wins, in this order:
//!
//! | | cluster | role |
//! |---|---|---|
//! | setting | `cluster` | `role` |
//! | tag | `skep:cluster` | `skep:role` |
//! | tag of Docker for AWS | `swarm-stack-id` | `swarm-node-type` |
//! | CloudFormation | name of the stack | `manager` or `worker` in the resource's logical id |
//! | Auto Scaling | | `manager` or `worker` in the group's name |
//!
//! A wrong value is a mistake; skep does not continue with the next source.

use super::mistake::{Mistake, Mistakes, Origin};
use super::parse;
use super::raw::Raw;
use super::settings::Settings;
use crate::common::instance::{GROUP_TAG, Instance, LOGICAL_ID_TAG, Role, STACK_TAG, Tags};

const CLUSTER_TAG: Origin = Origin::Metadata("tag skep:cluster");
const ROLE_TAG: Origin = Origin::Metadata("tag skep:role");
const STACK_ID_TAG: Origin = Origin::Metadata("tag swarm-stack-id");
const NODE_TYPE_TAG: Origin = Origin::Metadata("tag swarm-node-type");
const STACK_NAME: Origin = Origin::Metadata("CloudFormation stack name");
const LOGICAL_ID: Origin = Origin::Metadata("CloudFormation logical id");
const GROUP_NAME: Origin = Origin::Metadata("Auto Scaling group name");

/// Cluster and role of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Letters, digits and `._-`, at most 100.
    pub cluster: String,
    /// Role that the node must have in the swarm.
    pub role: Role,
}

impl Identity {
    /// Reads the identity from the settings, then from the metadata.
    ///
    /// # Errors
    ///
    /// The cluster or the role is missing or wrong; both are reported at once.
    pub fn resolve(settings: &Settings, instance: &Instance) -> Result<Self, Mistakes> {
        let cluster = match &settings.cluster {
            Some(cluster) => Ok(cluster.clone()),
            None => cluster_of(instance).map(|(cluster, _)| cluster),
        };
        let role = match settings.role {
            Some(role) => Ok(role),
            None => role_of(instance).map(|(role, _)| role),
        };
        match (cluster, role) {
            (Ok(cluster), Ok(role)) => Ok(Self { cluster, role }),
            (cluster, role) => Err(Mistakes(cluster.err().into_iter().chain(role.err()).collect())),
        }
    }
}

/// Returns the cluster that the metadata names, and its source.
///
/// # Errors
///
/// The metadata names no cluster, or its name is not valid in the ledger.
pub fn cluster_of(instance: &Instance) -> Result<(String, Origin), Mistake> {
    cluster_from(&instance.tags, instance.stack.as_ref().map(|stack| stack.stack.as_str()))
}

fn cluster_from(tags: &Tags, stack: Option<&str>) -> Result<(String, Origin), Mistake> {
    let tag = |name| tags.get(name).map(String::as_str);
    let candidates = [
        (tag("skep:cluster"), CLUSTER_TAG),
        (tag("swarm-stack-id").map(stack_name), STACK_ID_TAG),
        (stack, STACK_NAME),
    ];
    for (name, origin) in candidates {
        let Some(name) = name else { continue };
        return match parse::cluster(&Raw::Text(name.into())) {
            Ok(cluster) => Ok((cluster, origin)),
            Err(problem) => Err(Mistake::at(origin, "cluster", problem)),
        };
    }
    Err(Mistake::missing(
        "cluster",
        format!(
            "no source names the cluster; checked the setting `cluster`, the tags skep:cluster and \
             swarm-stack-id and the CloudFormation stack{}; set the tag skep:cluster on the Auto \
             Scaling group, or cluster = \"…\" in skep.toml",
            tags_hidden(tags)
        ),
    ))
}

/// Returns the cluster and the role that another instance's skep would find in its metadata, by the tags that EC2 lists;
/// `None` where they name none, or a wrong one.
#[must_use]
pub fn of_tags(tags: &Tags) -> (Option<String>, Option<Role>) {
    let tag = |name| tags.get(name).map(String::as_str);
    let cluster = cluster_from(tags, tag(STACK_TAG));
    let role = role_from(tags, tag(LOGICAL_ID_TAG), tag(GROUP_TAG));
    (cluster.ok().map(|(cluster, _)| cluster), role.ok().map(|(role, _)| role))
}

/// Returns the role that the metadata names, and its source.
///
/// # Errors
///
/// The metadata names no role, or an unknown one.
pub fn role_of(instance: &Instance) -> Result<(Role, Origin), Mistake> {
    let logical_id = instance.stack.as_ref().map(|stack| stack.logical_id.as_str());
    role_from(&instance.tags, logical_id, instance.group.as_deref())
}

fn role_from(
    tags: &Tags,
    logical_id: Option<&str>,
    group: Option<&str>,
) -> Result<(Role, Origin), Mistake> {
    for (tag, origin) in [("skep:role", ROLE_TAG), ("swarm-node-type", NODE_TYPE_TAG)] {
        let Some(role) = tags.get(tag) else { continue };
        return match parse::role(&Raw::Text(role.clone())) {
            Ok(role) => Ok((role, origin)),
            Err(problem) => Err(Mistake::at(origin, "role", problem)),
        };
    }
    for (name, origin) in [(logical_id, LOGICAL_ID), (group, GROUP_NAME)] {
        if let Some(role) = name.and_then(role_in) {
            return Ok((role, origin));
        }
    }
    let said = |name: Option<&str>| name.map_or(String::new(), |name| format!(" ({name})"));
    Err(Mistake::missing(
        "role",
        format!(
            "no source names the role (manager or worker); checked the setting `role`, the \
             tags skep:role and swarm-node-type, the CloudFormation logical id{} and the Auto \
             Scaling group name{}{}; set the tag skep:role on the Auto Scaling group, or role = \
             \"manager\" or \"worker\" in skep.toml",
            said(logical_id),
            said(group),
            tags_hidden(tags)
        ),
    ))
}

/// Returns the stack's name. Docker for AWS tags its instances with the stack's ARN; the name is its second part.
fn stack_name(id: &str) -> &str {
    if id.starts_with("arn:") { id.split('/').nth(1).unwrap_or(id) } else { id }
}

/// Returns the role that a name contains: `ManagerAsg`, `prod-workers`, `NodeAsg`; `None` if it contains both.
fn role_in(name: &str) -> Option<Role> {
    let lower = name.to_ascii_lowercase();
    match (lower.contains("manager"), lower.contains("worker")) {
        (true, true) => None,
        (true, false) => Some(Role::Manager),
        (false, true) => Some(Role::Worker),
        (false, false) => words(name).any(is_node).then_some(Role::Worker),
    }
}

fn is_node(word: &str) -> bool {
    word.eq_ignore_ascii_case("node") || word.eq_ignore_ascii_case("nodes")
}

/// Splits a name into words: `my-NodeAsg` → `my`, `Node`, `Asg`. "node" is too short to search for inside words.
fn words(name: &str) -> impl Iterator<Item = &str> {
    name.split(|c: char| !c.is_ascii_alphabetic()).flat_map(|part| {
        let ends =
            part.char_indices().zip(part.chars().skip(1)).filter_map(|((at, this), next)| {
                (this.is_lowercase() && next.is_uppercase()).then_some(at + 1)
            });
        let mut from = 0;
        ends.chain([part.len()])
            .map(|end| &part[std::mem::replace(&mut from, end)..end])
            .collect::<Vec<_>>()
    })
}

fn tags_hidden(tags: &Tags) -> &'static str {
    if tags.is_empty() {
        " (the metadata has no tags: is InstanceMetadataTags enabled in the launch template?)"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::instance::StackResource;

    fn instance(tags: &[(&str, &str)]) -> Instance {
        let tags = tags.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Instance { tags, ..Instance::example() }
    }

    fn stack(stack: &str, logical_id: &str) -> Option<StackResource> {
        Some(StackResource { stack: stack.into(), logical_id: logical_id.into() })
    }

    const STACK_ARN: &str = "arn:aws:cloudformation:eu-central-1:123456789012:stack/legacy/7b3e-11";

    #[test]
    fn the_first_source_that_speaks_wins() {
        let mut settings = Settings {
            cluster: Some("set".into()),
            role: Some(Role::Manager),
            ..Settings::default()
        };
        let mut instance = instance(&[
            ("skep:cluster", "tagged"),
            ("skep:role", "worker"),
            ("swarm-stack-id", STACK_ARN),
            ("swarm-node-type", "manager"),
        ]);
        instance.stack = stack("from-stack", "WorkerGroup");
        instance.group = Some("prod-managers".into());

        let set = Identity { cluster: "set".into(), role: Role::Manager };
        assert_eq!(Identity::resolve(&settings, &instance), Ok(set));
        (settings.cluster, settings.role) = (None, None);
        let tagged = Identity { cluster: "tagged".into(), role: Role::Worker };
        assert_eq!(Identity::resolve(&settings, &instance), Ok(tagged));
        assert_eq!(cluster_of(&instance), Ok(("tagged".into(), CLUSTER_TAG)));
        assert_eq!(role_of(&instance), Ok((Role::Worker, ROLE_TAG)));

        instance.tags.retain(|tag, _| !tag.starts_with("skep:"));
        assert_eq!(cluster_of(&instance), Ok(("legacy".into(), STACK_ID_TAG)));
        assert_eq!(role_of(&instance), Ok((Role::Manager, NODE_TYPE_TAG)));

        instance.tags.clear();
        assert_eq!(cluster_of(&instance), Ok(("from-stack".into(), STACK_NAME)));
        assert_eq!(role_of(&instance), Ok((Role::Worker, LOGICAL_ID)));

        instance.stack = None;
        assert_eq!(role_of(&instance), Ok((Role::Manager, GROUP_NAME)));
    }

    #[test]
    fn a_role_is_read_from_a_name_only_when_it_is_clear() {
        for name in ["ManagerAsg", "prod-managers", "MANAGERS", "ManagerNodes"] {
            assert_eq!(role_in(name), Some(Role::Manager), "{name}");
        }
        for name in
            ["WorkerGroup", "swarmworkers", "NodeAsg", "prod-node-1", "SpotNodes", "Worker9"]
        {
            assert_eq!(role_in(name), Some(Role::Worker), "{name}");
        }
        for name in ["", "Asg", "anodes", "Nodejs", "manager-and-worker", "ManageAsg"] {
            assert_eq!(role_in(name), None, "{name}");
        }
    }

    #[test]
    fn words_end_where_a_capital_begins() {
        assert_eq!(words("my-NodeAsg1Group").collect::<Vec<_>>(), ["my", "Node", "Asg", "Group"]);
    }

    #[test]
    fn a_logical_id_that_says_both_leaves_it_to_the_group() {
        let mut instance = instance(&[]);
        instance.stack = stack("s", "ManagerWorker");
        instance.group = Some("s-workers".into());
        assert_eq!(role_of(&instance), Ok((Role::Worker, GROUP_NAME)));
    }

    #[test]
    fn wrong_values_name_their_source_and_hide_nothing_behind_them() {
        let mut instance = instance(&[
            ("skep:cluster", "prod#managers"),
            ("skep:role", "leader"),
            ("swarm-node-type", "worker"),
        ]);
        instance.stack = stack("fine", "WorkerGroup");
        let mistakes = Identity::resolve(&Settings::default(), &instance).unwrap_err();
        assert_eq!(
            mistakes.to_string(),
            "tag skep:cluster: cluster: \"prod#managers\": a cluster name has 1 to 100 letters, \
             digits and ._-; tag skep:role: role: \"leader\" is not one of manager, worker"
        );
    }

    #[test]
    fn silence_says_what_was_looked_at_and_what_to_do() {
        let mut instance = instance(&[]);
        instance.group = Some("prod-Asg".into());
        let mistakes = Identity::resolve(&Settings::default(), &instance).unwrap_err().0;
        let [cluster, role] = mistakes.as_slice() else { panic!("{mistakes:?}") };
        for word in ["cluster: no source", "skep:cluster", "swarm-stack-id", "InstanceMetadataTags"]
        {
            assert!(cluster.to_string().contains(word), "{cluster} should say {word}");
        }
        for word in ["role: no source", "skep:role", "(prod-Asg)", "\"manager\" or \"worker\""] {
            assert!(role.to_string().contains(word), "{role} should say {word}");
        }
        instance.tags.insert("Name".into(), "x".into());
        assert!(!role_of(&instance).unwrap_err().to_string().contains("InstanceMetadataTags"));
    }
}
