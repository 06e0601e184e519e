//! The content of a backup: what Docker's API tells of a swarm, without what only this swarm has. Pure.
//!
//! Guarantees: a spec stays JSON as Docker has sent it, so that a field survives that this skep does not know; no id of
//! this swarm's objects is in it, because another swarm has other ids: services name their networks, configs and secrets.
//! skep's own temporary edits of services are taken back. The data of secrets is never in it, because Docker does not
//! tell it. Nothing here implements `Debug`: environment variables may hold passwords.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use super::error::{BackupError, FORMAT};
use crate::clients::docker::{Named, Service};
use crate::manager::moves::spec::{FORMER_IMAGE, restored};

/// Characters of a digest.
const DIGEST_LENGTH: usize = 12;
/// Beginning of the labels of the swarm object that skep sets by itself.
const OWN_LABELS: &str = "skep.";
/// The fields of a network that `docker network create` sends, but for `EnableIPv4`: Docker 28.0 to 28.2 report `false`
/// for every network of a swarm, and refuse to create one with it (<https://github.com/moby/moby/pull/50147>).
const NETWORK_FIELDS: [&str; 11] = [
    "Name",
    "Driver",
    "Scope",
    "EnableIPv6",
    "IPAM",
    "Internal",
    "Attachable",
    "Ingress",
    "ConfigOnly",
    "ConfigFrom",
    "Options",
];
/// The driver option with the numbers that swarmkit has allocated for a network.
const ALLOCATED: &str = "com.docker.network.driver.overlay.vxlanid_list";

/// A swarm at one moment.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`FORMAT`] of the skep that wrote it.
    pub format: u64,
    /// Name of the cluster.
    pub cluster: String,
    /// Docker's id of the swarm.
    pub swarm_id: String,
    /// Generation of the swarm.
    pub generation: u64,
    /// Time when Docker was asked.
    #[serde(with = "time::serde::rfc3339")]
    pub taken_at: OffsetDateTime,
    /// What the swarm consists of.
    #[serde(flatten)]
    pub content: Content,
}

/// The objects of a swarm, each kind in the order of the names.
#[cfg_attr(test, derive(Debug))]
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// Specs of the services. Their networks are named; their configs and secrets have names alone.
    pub services: Vec<Value>,
    /// Networks, with the fields of a request to create them.
    pub networks: Vec<Value>,
    /// Specs of the configs, with their data.
    pub configs: Vec<Value>,
    /// Specs of the secrets: names, labels, drivers.
    pub secrets: Vec<Value>,
    /// Labels of the swarm object, except skep's own.
    pub labels: BTreeMap<String, String>,
}

/// The objects of a swarm, as Docker describes them.
pub struct Objects {
    /// All services.
    pub services: Vec<Service>,
    /// All networks of the swarm, without the predefined ones.
    pub networks: Vec<Value>,
    /// All configs with their data.
    pub configs: Vec<Named>,
    /// All secrets, without their data.
    pub secrets: Vec<Named>,
    /// All labels of the swarm object.
    pub labels: BTreeMap<String, String>,
    /// Names of the networks that services use, by their ids, predefined ones included.
    pub network_names: BTreeMap<String, String>,
}

impl Snapshot {
    /// Reads a backup. `key` names it in errors, which never show its content.
    ///
    /// # Errors
    /// [`BackupError::Newer`], and [`BackupError::Unreadable`].
    pub fn parse(key: &str, text: &str) -> Result<Self, BackupError> {
        let unreadable = |_| BackupError::Unreadable { key: key.to_owned() };
        let value: Value = serde_json::from_str(text).map_err(unreadable)?;
        match value["format"].as_u64() {
            Some(format) if format > FORMAT => {
                Err(BackupError::Newer { key: key.to_owned(), format })
            }
            _ => serde_json::from_value(value).map_err(unreadable),
        }
    }

    /// Returns the backup as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        json!(self).to_string()
    }
}

impl Content {
    /// Returns the content of a backup.
    #[must_use]
    pub fn of(objects: &Objects) -> Self {
        let names = &objects.network_names;
        let services =
            objects.services.iter().map(|service| service_spec(service.spec(), names)).collect();
        let networks = objects.networks.iter().map(network_spec).collect();
        let specs = |of: &[Named]| of.iter().map(|it| it.spec.clone()).collect();
        let labels = objects.labels.iter().filter(|(key, _)| !key.starts_with(OWN_LABELS));
        let mut content = Self {
            services,
            networks,
            configs: specs(&objects.configs),
            secrets: specs(&objects.secrets),
            labels: labels.map(|(key, value)| (key.clone(), value.clone())).collect(),
        };
        for list in [
            &mut content.services,
            &mut content.networks,
            &mut content.configs,
            &mut content.secrets,
        ] {
            list.sort_by(|a, b| name(a).cmp(name(b)));
        }
        content
    }

    /// Returns the beginning of the SHA-256 of the content, in hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut digest = hex::encode(Sha256::digest(json!(self).to_string()));
        digest.truncate(DIGEST_LENGTH);
        digest
    }
}

/// Returns the name of an object; empty where its spec has none.
#[must_use]
pub fn name(spec: &Value) -> &str {
    spec["Name"].as_str().unwrap_or_default()
}

/// Returns the spec of a service without what only its swarm has. `names` are those of networks by their ids.
#[must_use]
pub fn service_spec(spec: &Value, names: &BTreeMap<String, String>) -> Value {
    let mut spec = restored(spec);
    if let Some(labels) = spec["Labels"].as_object_mut() {
        labels.remove(FORMER_IMAGE);
    }
    // `Networks` of the service itself is the older place.
    for pointer in ["/TaskTemplate/Networks", "/Networks"] {
        for network in list_at(&mut spec, pointer) {
            let name = network["Target"].as_str().and_then(|id| names.get(id));
            if let Some(name) = name {
                network["Target"] = json!(name);
            }
        }
    }
    for (list, id) in [("Configs", "ConfigID"), ("Secrets", "SecretID")] {
        for one in list_at(&mut spec, &format!("/TaskTemplate/ContainerSpec/{list}")) {
            one.as_object_mut().map(|one| one.remove(id));
        }
    }
    spec
}

/// Returns the request that would create a network as Docker describes it.
#[must_use]
pub fn network_spec(network: &Value) -> Value {
    let mut spec = Map::new();
    for field in NETWORK_FIELDS.into_iter().chain(["Labels"]) {
        match &network[field] {
            Value::Null => {}
            // It names no network, but Docker would look for it.
            from if field == "ConfigFrom" && from["Network"].as_str().is_none_or(str::is_empty) => {
            }
            value => drop(spec.insert(field.to_owned(), value.clone())),
        }
    }
    if let Some(options) = spec.get_mut("Options").and_then(Value::as_object_mut) {
        options.remove(ALLOCATED);
    }
    Value::Object(spec)
}

fn list_at<'a>(spec: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> {
    spec.pointer_mut(pointer).and_then(Value::as_array_mut).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Snapshot {
        Snapshot {
            format: FORMAT,
            cluster: "prod".into(),
            swarm_id: "s1".into(),
            generation: 2,
            taken_at: OffsetDateTime::UNIX_EPOCH,
            content: Content {
                services: vec![json!({ "Name": "web", "TaskTemplate": { "Later": 7 } })],
                labels: BTreeMap::from([("team".into(), "a".into())]),
                ..Content::default()
            },
        }
    }

    #[test]
    fn a_backup_is_read_as_it_was_written_and_a_newer_one_is_refused() {
        let snapshot = example();
        let text = snapshot.to_text();
        assert!(Snapshot::parse("k", &text).unwrap() == snapshot);
        let newer = text.replace("\"format\":1", "\"format\":2");
        let error = Snapshot::parse("k", &newer).err().unwrap().to_string();
        assert!(error.contains("k was written by a newer skep (format 2"), "{error}");
        for damaged in [&text[..40], "[]", "{}", ""] {
            let error = Snapshot::parse("k", damaged).err().unwrap();
            assert!(matches!(error, BackupError::Unreadable { .. }), "{error}");
        }
    }

    #[test]
    fn the_digest_is_of_the_content_alone() {
        let (one, mut other) = (example(), example());
        other.taken_at = OffsetDateTime::now_utc();
        other.generation = 3;
        assert_eq!(one.content.digest(), other.content.digest());
        assert_eq!(one.content.digest().len(), DIGEST_LENGTH);
        other.content.services[0]["TaskTemplate"]["Later"] = json!(8);
        assert_ne!(one.content.digest(), other.content.digest());
    }

    #[test]
    fn a_service_names_what_it_uses_and_loses_what_skep_has_added() {
        let spec = json!({
            "Name": "web",
            "Labels": { "a": "b", "skep.rollback-image": "app:0", "skep.drain": "start-first" },
            "TaskTemplate": {
                "Networks": [{ "Target": "id1", "Aliases": ["x"] }, { "Target": "unknown" }],
                "ContainerSpec": {
                    "Env": ["A=b"],
                    "Configs": [{ "ConfigID": "c1", "ConfigName": "conf", "File": { "Name": "/c" } }],
                    "Secrets": [{ "SecretID": "s1", "SecretName": "key" }],
                },
            },
            "Networks": [{ "Target": "id1" }],
        });
        let names = BTreeMap::from([("id1".to_owned(), "back".to_owned())]);
        let spec = service_spec(&spec, &names);
        let expected = json!({
            "Name": "web",
            "Labels": { "a": "b", "skep.drain": "start-first" },
            "TaskTemplate": {
                "Networks": [{ "Target": "back", "Aliases": ["x"] }, { "Target": "unknown" }],
                "ContainerSpec": {
                    "Env": ["A=b"],
                    "Configs": [{ "ConfigName": "conf", "File": { "Name": "/c" } }],
                    "Secrets": [{ "SecretName": "key" }],
                },
            },
            "Networks": [{ "Target": "back" }],
        });
        assert_eq!(spec, expected);
        assert_eq!(service_spec(&spec, &BTreeMap::new()), expected, "once is enough");
    }

    #[test]
    fn a_service_that_skep_moves_is_stored_as_its_operator_wrote_it() {
        use crate::manager::moves::spec::{Edit, Kind, edited};
        let spec = json!({
            "Name": "web", "Labels": {}, "UpdateConfig": { "Parallelism": 1 },
            "TaskTemplate": { "Placement": { "Constraints": ["node.role==worker"] } },
        });
        let nodes = ["n1".to_owned()].into();
        let edit =
            Edit { kind: Kind::Leave { at_once: 2 }, nodes: &nodes, until: 1, balanced: None };
        let edited = edited(&spec, Some("app:0"), &edit);
        assert_ne!(edited, spec);
        assert_eq!(service_spec(&edited, &BTreeMap::new()), spec);
    }

    #[test]
    fn a_network_keeps_what_its_operator_chose() {
        let network = json!({
            "Name": "back", "Id": "id1", "Created": "2026-11-21T10:00:00Z", "Scope": "swarm",
            "Driver": "overlay", "Attachable": true, "Ingress": false, "EnableIPv4": false,
            "IPAM": { "Driver": "default", "Config": [{ "Subnet": "10.0.1.0/24" }] },
            "ConfigFrom": { "Network": "" }, "Containers": null, "Labels": { "a": "b" },
            "Options": { ALLOCATED: "4097", "encrypted": "" }, "Peers": [],
        });
        let expected = json!({
            "Name": "back", "Scope": "swarm", "Driver": "overlay", "Attachable": true,
            "Ingress": false, "Labels": { "a": "b" }, "Options": { "encrypted": "" },
            "IPAM": { "Driver": "default", "Config": [{ "Subnet": "10.0.1.0/24" }] },
        });
        assert_eq!(network_spec(&network), expected);
        assert_eq!(network_spec(&expected), expected, "once is enough");
    }
}
