//! Decides what a restore creates, in which order, and what it leaves out and why. Pure.
//!
//! Guarantees: nothing that exists is changed or deleted, and the plan for a swarm that has all of a backup is empty. A
//! job is never started. A service whose tasks may have had data on their nodes starts no task. A service without one of
//! its secrets is not created: a later plan has it, once the secret exists.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::clients::docker::NodeView;
use crate::manager::backup::{Content, name};
use crate::manager::placement::{constraints, fits, may_fit};

/// Networks that every swarm has; services can use them by these names.
const PREDEFINED: [&str; 4] = ["bridge", "host", "none", "nat"];
/// Types of mounts without data that a task leaves on its node.
const WITHOUT_DATA: [&str; 2] = ["tmpfs", "image"];
/// Constraint of a global service with data, which has no number of replicas: no node has this label, until an operator
/// sets it or removes the constraint.
pub const APPROVAL: &str = "node.labels.skep.restored==approved";

/// What a swarm has, by name, in the form of a backup.
pub struct Present {
    /// What a backup of this moment would hold.
    pub content: Content,
    /// The nodes.
    pub nodes: Vec<NodeView>,
}

/// One thing to create.
#[derive(Clone, PartialEq)]
pub enum Step {
    /// Labels of the swarm object that it lacks.
    Labels(BTreeMap<String, String>),
    /// A network, as Docker is asked to create it.
    Network(Value),
    /// A config with its data.
    Config(Value),
    /// A service that names its configs and secrets.
    Service(Value),
}

impl Step {
    /// Returns the kind in one word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Labels(_) => "labels",
            Self::Network(_) => "network",
            Self::Config(_) => "config",
            Self::Service(_) => "service",
        }
    }

    /// Returns the name of what is created; of labels, their keys.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Labels(labels) => labels.keys().cloned().collect::<Vec<_>>().join(", "),
            Self::Network(spec) | Self::Config(spec) | Self::Service(spec) => name(spec).to_owned(),
        }
    }

    /// Returns kind and name, such as `service web`.
    #[must_use]
    pub fn object(&self) -> String {
        format!("{} {}", self.kind(), self.name())
    }
}

/// A sentence about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// `network`, `config` or `service`.
    pub kind: &'static str,
    /// Name of the object.
    pub name: String,
    /// What a reader must know of it.
    pub text: String,
}

impl Note {
    /// Returns kind and name, such as `service web`.
    #[must_use]
    pub fn object(&self) -> String {
        format!("{} {}", self.kind, self.name)
    }
}

/// A service that is not created before these secrets exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Name of the service.
    pub service: String,
    /// Names of the secrets.
    pub secrets: Vec<String>,
}

impl Waiting {
    /// Returns kind and name, such as `service web`.
    #[must_use]
    pub fn object(&self) -> String {
        format!("service {}", self.service)
    }
}

/// What a restore does.
#[derive(Clone, Default, PartialEq)]
pub struct Plan {
    /// What is created, in this order.
    pub steps: Vec<Step>,
    /// Services that wait for secrets.
    pub waiting: Vec<Waiting>,
    /// Secrets of the backup that do not exist: nobody but the operator has their data.
    pub missing_secrets: Vec<String>,
    /// What is not created, and why.
    pub left_out: Vec<Note>,
    /// What exists already and is left alone, and whether it differs from the backup.
    pub existing: Vec<Note>,
    /// What is created in another way, or may not run.
    pub remarks: Vec<Note>,
}

impl Plan {
    /// Whether something is not restored, so that an operator must act.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        !self.waiting.is_empty() || !self.left_out.is_empty()
    }
}

/// Makes the plan.
#[must_use]
pub fn plan(backup: &Content, present: &Present) -> Plan {
    let mut plan = Plan::default();
    let there = Names::of(&present.content);
    let labels: BTreeMap<_, _> = backup
        .labels
        .iter()
        .filter(|(key, _)| !present.content.labels.contains_key(*key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if !labels.is_empty() {
        plan.steps.push(Step::Labels(labels));
    }
    let secrets = backup.secrets.iter().map(name).filter(|it| !there.secrets.contains(it));
    plan.missing_secrets = secrets.map(str::to_owned).collect();
    let mut networks = there.networks.clone();
    for network in &backup.networks {
        if plan.network(network, present) {
            networks.insert(name(network));
        }
    }
    // One without a subnet gets the next that is free, which must not be that of another.
    plan.steps.sort_by_key(|step| matches!(step, Step::Network(spec) if subnets(spec).is_empty()));
    let mut configs = there.configs.clone();
    for config in &backup.configs {
        plan.config(config, &present.content.configs);
        configs.insert(name(config));
    }
    let available = Names { networks, configs, secrets: there.secrets };
    for service in &backup.services {
        plan.service(service, present, &available);
    }
    plan
}

/// Names of what services use.
struct Names<'a> {
    networks: BTreeSet<&'a str>,
    configs: BTreeSet<&'a str>,
    secrets: BTreeSet<&'a str>,
}

impl<'a> Names<'a> {
    fn of(content: &'a Content) -> Self {
        let names = |specs: &'a [Value]| specs.iter().map(name).collect();
        Self {
            networks: names(&content.networks),
            configs: names(&content.configs),
            secrets: names(&content.secrets),
        }
    }
}

impl Plan {
    /// Returns whether there will be such a network.
    fn network(&mut self, network: &Value, present: &Present) -> bool {
        // A swarm has one, and no service names it.
        if network["Ingress"] == true {
            return false;
        }
        if let Some(same) = find(&present.content.networks, network) {
            self.exists("network", network, is_same_network(same, network));
            return true;
        }
        // Docker describes the networks of other drivers without their options and subnets.
        if network["Driver"] != "overlay" && network["ConfigFrom"].is_null() {
            let why = format!(
                "Docker tells no options of the driver {}: create it by hand",
                network["Driver"].as_str().unwrap_or("that it has")
            );
            self.leave_out("network", network, why);
            return false;
        }
        let taken = present.content.networks.iter().find(|other| overlap(network, other));
        let mut network = network.clone();
        if let Some(other) = taken {
            let text = format!("its subnet is in use by {}, so it gets another one", name(other));
            self.remark("network", &network, text);
            if let Some(ipam) = network["IPAM"].as_object_mut() {
                ipam.remove("Config");
            }
        }
        if let Some(from) = network["ConfigFrom"]["Network"].as_str() {
            let text = format!("every node needs its config-only network {from}");
            self.remark("network", &network, text);
        }
        self.steps.push(Step::Network(network));
        true
    }

    fn config(&mut self, config: &Value, present: &[Value]) {
        match find(present, config) {
            Some(same) => self.exists("config", config, same == config),
            None => self.steps.push(Step::Config(config.clone())),
        }
    }

    fn service(&mut self, spec: &Value, present: &Present, available: &Names<'_>) {
        if let Some(same) = find(&present.content.services, spec) {
            return self.exists("service", spec, same == spec || *same == without_tasks(spec));
        }
        if ["ReplicatedJob", "GlobalJob"].iter().any(|mode| !spec["Mode"][mode].is_null()) {
            return self.leave_out(
                "service",
                spec,
                "it is a job, and jobs are never started".into(),
            );
        }
        let container = &spec["TaskTemplate"]["ContainerSpec"];
        // It names a config by the id that the lost swarm had.
        if container["Privileges"]["CredentialSpec"]["Config"]
            .as_str()
            .is_some_and(|it| !it.is_empty())
        {
            let why = "it has a credential spec in a config: create it by hand";
            return self.leave_out("service", spec, why.into());
        }
        for network in targets(spec) {
            if !available.networks.contains(network) && !PREDEFINED.contains(&network) {
                let why = format!("its network {network} is neither in the backup nor here");
                return self.leave_out("service", spec, why);
            }
        }
        for config in names_in(&container["Configs"], "ConfigName") {
            if !available.configs.contains(config) {
                let why = format!("its config {config} is neither in the backup nor here");
                return self.leave_out("service", spec, why);
            }
        }
        let missing: BTreeSet<&str> = names_in(&container["Secrets"], "SecretName")
            .filter(|secret| !available.secrets.contains(secret))
            .collect();
        if !missing.is_empty() {
            let secrets = missing.into_iter().map(str::to_owned).collect();
            self.waiting.push(Waiting { service: name(spec).to_owned(), secrets });
            return;
        }
        if has_data(spec) {
            let how = match &spec["Mode"]["Replicated"] {
                Value::Null => format!("without a task, by the constraint {APPROVAL}"),
                // Docker's default is 1.
                of => format!("with 0 replicas; it had {}", of["Replicas"].as_u64().unwrap_or(1)),
            };
            let text = format!("it has volumes or bind mounts, so it comes back {how}");
            self.remark("service", spec, text);
        }
        let unmet: Vec<&str> = constraints(spec)
            .filter(|constraint| !present.nodes.iter().any(|node| may_fit(constraint, node)))
            .collect();
        if !unmet.is_empty() {
            let text = format!("no node meets its constraint {}", unmet.join(", "));
            self.remark("service", spec, text);
        } else if !present.nodes.iter().any(|node| fits(spec, node)) {
            self.remark("service", spec, "no node meets all of its constraints".into());
        }
        self.steps.push(Step::Service(without_tasks(spec)));
    }

    fn exists(&mut self, kind: &'static str, spec: &Value, is_same: bool) {
        let text = if is_same { "exists" } else { "exists, and differs from the backup" };
        self.existing.push(Note { kind, name: name(spec).to_owned(), text: text.to_owned() });
    }

    fn remark(&mut self, kind: &'static str, spec: &Value, text: String) {
        self.remarks.push(Note { kind, name: name(spec).to_owned(), text });
    }

    fn leave_out(&mut self, kind: &'static str, spec: &Value, text: String) {
        self.left_out.push(Note { kind, name: name(spec).to_owned(), text });
    }
}

fn find<'a>(specs: &'a [Value], like: &Value) -> Option<&'a Value> {
    specs.iter().find(|spec| name(spec) == name(like))
}

/// Whether two networks are the same for the services on them. The subnet may be another one.
fn is_same_network(one: &Value, other: &Value) -> bool {
    ["Driver", "Options", "Internal", "Attachable", "Labels"]
        .iter()
        .all(|field| one[field] == other[field])
}

/// Returns the networks that a service uses, by name.
fn targets(spec: &Value) -> impl Iterator<Item = &str> {
    let lists = [&spec["TaskTemplate"]["Networks"], &spec["Networks"]];
    lists.into_iter().flat_map(|list| names_in(list, "Target"))
}

fn names_in<'a>(list: &'a Value, field: &'static str) -> impl Iterator<Item = &'a str> {
    list.as_array().into_iter().flatten().filter_map(move |one| one[field].as_str())
}

/// Whether tasks of the service may have left data on their nodes, which are gone.
fn has_data(spec: &Value) -> bool {
    let mounts = spec["TaskTemplate"]["ContainerSpec"]["Mounts"].as_array();
    let is_data =
        |mount: &Value| mount["Type"].as_str().is_none_or(|it| !WITHOUT_DATA.contains(&it));
    mounts.into_iter().flatten().any(is_data)
}

/// Returns the spec, so changed that it starts no task if it has data.
fn without_tasks(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if !has_data(&spec) {
        return spec;
    }
    if let Some(replicated) = spec.pointer_mut("/Mode/Replicated").and_then(Value::as_object_mut) {
        replicated.insert("Replicas".into(), json!(0));
        return spec;
    }
    let placement = &mut spec["TaskTemplate"]["Placement"];
    if !placement.is_object() {
        *placement = json!({});
    }
    match placement["Constraints"].as_array_mut() {
        Some(all) if all.iter().any(|it| it == APPROVAL) => {}
        Some(all) => all.push(json!(APPROVAL)),
        None => placement["Constraints"] = json!([APPROVAL]),
    }
    spec
}

/// Whether two networks have an address in common.
fn overlap(one: &Value, other: &Value) -> bool {
    let others = subnets(other);
    subnets(one).iter().any(|a| others.iter().any(|b| a.contains(b) || b.contains(a)))
}

fn subnets(network: &Value) -> Vec<IpNet> {
    names_in(&network["IPAM"]["Config"], "Subnet").filter_map(|it| it.parse().ok()).collect()
}
