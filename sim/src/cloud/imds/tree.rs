//! The metadata of one instance as a tree of paths.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde_json::json;

use crate::cloud::autoscaling::{Credentials, Instance};
use crate::cloud::clock::{self, Clock};
use crate::cloud::specs::CloudOptions;

/// The lifetime of role credentials.
const CREDENTIALS_LIFE: time::Duration = time::Duration::hours(6);

/// Leaves by path, without the leading version.
pub(super) struct Tree(BTreeMap<String, String>);

impl Tree {
    pub fn of(instance: &Instance, options: &CloudOptions, clock: &Clock) -> Self {
        let mut tree = Self(BTreeMap::new());
        tree.identity(instance, options, clock);
        tree.network(instance, options);
        tree.events(instance);
        if let Some(credentials) = &instance.credentials {
            tree.credentials(credentials, clock);
        }
        if let Some(user_data) = &instance.user_data {
            tree.0.insert("user-data".to_owned(), user_data.clone());
        }
        if instance.metadata_tags {
            for (key, value) in &instance.tags {
                tree.meta(&format!("tags/instance/{key}"), value);
            }
        }
        tree
    }

    /// Adds the key of `RunInstances`; the list of keys has its own format.
    pub fn public_key(&mut self, name: &str, key: &str) {
        self.meta("public-keys/0/openssh-key", key);
        self.meta("public-keys", &format!("0={name}"));
    }

    /// Returns a leaf's value, or the names below a path.
    pub fn get(&self, path: &str) -> Option<String> {
        let path = path.trim_matches('/');
        let (version, path) = path.split_once('/').unwrap_or((path, ""));
        if version.is_empty() {
            return Some("latest".to_owned());
        }
        if version != "latest" && !is_date(version) {
            return None;
        }
        if let Some(leaf) = self.0.get(path) {
            return Some(leaf.clone());
        }
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let names: BTreeSet<String> = self
            .0
            .keys()
            .filter_map(|leaf| leaf.strip_prefix(&prefix))
            .map(|rest| match rest.split_once('/') {
                Some((name, _)) => format!("{name}/"),
                None => rest.to_owned(),
            })
            .collect();
        // The list of keys is a leaf, and also has leaves below it.
        let names = names.iter().filter(|name| !names.contains(&format!("{name}/")));
        let names: Vec<&str> = names.map(String::as_str).collect();
        (!names.is_empty()).then(|| names.join("\n"))
    }

    fn meta(&mut self, path: &str, value: &str) {
        self.0.insert(format!("meta-data/{path}"), value.to_owned());
    }

    fn identity(&mut self, instance: &Instance, options: &CloudOptions, clock: &Clock) {
        let launched = clock::iso_seconds(clock.date(instance.launched));
        for (path, value) in [
            ("ami-id", instance.image_id.as_str()),
            ("ami-launch-index", "0"),
            ("instance-action", "none"),
            ("instance-id", &instance.id),
            ("instance-life-cycle", instance.market.as_str()),
            ("instance-type", &instance.instance_type),
            ("placement/availability-zone", &instance.zone),
            ("placement/region", &options.region),
            ("profile", "default-hvm"),
            ("security-groups", "skep"),
            ("services/domain", "amazonaws.com"),
            ("services/partition", "aws"),
        ] {
            self.meta(path, value);
        }
        let document = json!({
            "accountId": crate::cloud::ACCOUNT,
            "architecture": "x86_64",
            "availabilityZone": instance.zone,
            "imageId": instance.image_id,
            "instanceId": instance.id,
            "instanceType": instance.instance_type,
            "pendingTime": launched,
            "privateIp": instance.address,
            "region": options.region,
            "version": "2017-09-30",
        });
        let path = "dynamic/instance-identity/document".to_owned();
        self.0.insert(path, format!("{document:#}"));
    }

    fn network(&mut self, instance: &Instance, options: &CloudOptions) {
        let address = instance.address.to_string();
        let domain = match options.region.as_str() {
            "us-east-1" => "ec2.internal".to_owned(),
            region => format!("{region}.compute.internal"),
        };
        let hostname = format!("ip-{}.{domain}", address.replace('.', "-"));
        let mac = mac_address(instance.address);
        let (network, prefix) = options.subnet;
        let block = format!("{network}/{prefix}");
        for (path, value) in [
            ("hostname", &hostname),
            ("local-hostname", &hostname),
            ("local-ipv4", &address),
            ("mac", &mac),
        ] {
            self.meta(path, value);
        }
        for (name, value) in [
            ("device-number", "0"),
            ("local-hostname", &hostname),
            ("local-ipv4s", &address),
            ("mac", &mac),
            ("subnet-ipv4-cidr-block", &block),
            ("vpc-ipv4-cidr-block", &block),
            ("vpc-ipv4-cidr-blocks", &block),
        ] {
            self.meta(&format!("network/interfaces/macs/{mac}/{name}"), value);
        }
    }

    fn events(&mut self, instance: &Instance) {
        if let Some(target) = instance.lifecycle.target() {
            self.meta("autoscaling/target-lifecycle-state", target);
        }
        if let Some(notice) = &instance.spot {
            let time = clock::iso_seconds(notice.time);
            let action = json!({ "action": notice.action, "time": time });
            self.meta("spot/instance-action", &action.to_string());
            if notice.action == "terminate" {
                self.meta("spot/termination-time", &time);
            }
        }
        if let Some(time) = instance.rebalance {
            let notice = json!({ "noticeTime": clock::iso_seconds(time) });
            self.meta("events/recommendations/rebalance", &notice.to_string());
        }
        let scheduled: Vec<_> = instance
            .maintenance
            .iter()
            .map(|event| {
                let window = event.maintenance.window_seconds;
                let not_after = window.map_or_else(String::new, |seconds| {
                    let window = std::time::Duration::from_secs(seconds);
                    clock::maintenance_date(event.not_before + window)
                });
                json!({
                    "NotBefore": clock::maintenance_date(event.not_before),
                    "Code": event.maintenance.code,
                    "Description": event.maintenance.description,
                    "EventId": event.id,
                    "NotAfter": not_after,
                    "State": "active",
                })
            })
            .collect();
        self.meta("events/maintenance/history", "[]");
        self.meta("events/maintenance/scheduled", &json!(scheduled).to_string());
    }

    fn credentials(&mut self, credentials: &Credentials, clock: &Clock) {
        let now = clock.now();
        let body = json!({
            "Code": "Success",
            "LastUpdated": clock::iso_seconds(now),
            "Type": "AWS-HMAC",
            "AccessKeyId": credentials.access_key_id,
            "SecretAccessKey": credentials.secret_access_key,
            "Token": credentials.session_token,
            "Expiration": clock::iso_seconds(now + CREDENTIALS_LIFE),
        });
        let path = format!("iam/security-credentials/{}", credentials.role_name);
        self.meta(&path, &body.to_string());
    }
}

/// Returns the hardware address of the instance with this address. Machines can give it to their network interface.
pub fn mac_address(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// Whether this is a dated version of the metadata, as cloud-init requests.
fn is_date(version: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<_> = version.split('-').collect();
    parts.len() == 3 && parts.iter().all(|part| digits(part) && !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_leaves_or_lists() {
        let mut tree = Tree(BTreeMap::new());
        tree.meta("instance-id", "i-1");
        tree.meta("placement/region", "r");
        tree.meta("tags/instance/aws:autoscaling:groupName", "g");
        let get = |path| tree.get(path);
        assert_eq!(get("/latest/meta-data/instance-id").as_deref(), Some("i-1"));
        assert_eq!(get("/latest/meta-data/").as_deref(), Some("instance-id\nplacement/\ntags/"));
        assert_eq!(get("/2021-03-23/meta-data/placement").as_deref(), Some("region"));
        assert_eq!(
            get("/latest/meta-data/tags/instance/").as_deref(),
            Some("aws:autoscaling:groupName")
        );
        assert_eq!(get("/latest/meta-data/spot/instance-action"), None);
        assert_eq!(get("/1.x/meta-data/instance-id"), None);
        assert_eq!(mac_address([10, 78, 0, 5].into()), "02:00:0a:4e:00:05");
    }
}
