//! EC2, as far as Packer and the `aws` command line need it to make an image and to list instances.
//!
//! This module stores the instances of `RunInstances` and those that are detached from their groups; it also shows those of
//! Auto Scaling groups, which Auto Scaling stores. Both are machines of the same fleet, and both have metadata. Networks are not modelled: every instance is in
//! the same subnet, and security groups are only names.

mod describe;
mod images;
mod instances;
mod keys;
mod standalone;
mod wire;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::autoscaling::Instance;
use super::errors::ApiError;
use super::ids::Ids;
use super::requests::Service;
use super::wire::Params;
use super::xml::Xml;
use super::{Cloud, tasks};

pub(super) use describe::VPC;
use images::Image;
pub use images::ImageState;
use keys::{KeyPair, SecurityGroup};
use standalone::{Power, Standalone};

/// EC2's state besides Auto Scaling's instances.
pub(super) struct Ec2 {
    instances: BTreeMap<String, Standalone>,
    images: BTreeMap<String, Image>,
    keys: BTreeMap<String, KeyPair>,
    groups: BTreeMap<String, SecurityGroup>,
    /// Tags of resources that do not store their own: volumes, snapshots, security groups.
    tags: BTreeMap<String, BTreeMap<String, String>>,
    ids: Ids,
}

impl Ec2 {
    pub fn new(seed: u64) -> Self {
        Self {
            instances: BTreeMap::new(),
            images: BTreeMap::new(),
            keys: BTreeMap::new(),
            groups: BTreeMap::new(),
            tags: BTreeMap::new(),
            ids: Ids::new(seed),
        }
    }

    pub fn instance(&self, id: &str) -> Option<&Instance> {
        self.instances.get(id).map(|standalone| &standalone.instance)
    }

    /// Returns the address of an instance of `RunInstances` that is running.
    pub fn running_at(&self, id: &str) -> Option<Ipv4Addr> {
        let standalone = self.instances.get(id)?;
        (standalone.power == Power::Running).then_some(standalone.instance.address)
    }

    pub fn instance_at(&self, address: Ipv4Addr) -> Option<&Instance> {
        self.instances
            .values()
            .find(|standalone| standalone.has_metadata(address))
            .map(|standalone| &standalone.instance)
    }

    /// Returns the name and the text of the public key for an instance's first user.
    pub fn public_key(&self, instance_id: &str) -> Option<(&str, &str)> {
        let name = self.instances.get(instance_id)?.key_name.as_ref()?;
        let (name, key) = self.keys.get_key_value(name)?;
        Some((name, &key.public))
    }
}

impl Cloud {
    /// Registers an image, as its owner would; it can be launched from now on.
    pub fn register_image(&self, id: &str, name: &str, owner: &str) {
        self.change(|state, now| state.ec2.register(id, name, owner, now));
    }

    /// Returns the id, name and state of the images that were made here.
    pub fn images(&self) -> Vec<(String, String, ImageState)> {
        self.change(|state, _| state.ec2.own_images())
    }

    /// Records the result of an order to make an image.
    pub fn image_is_made(&self, image_id: &str, made: Result<(), String>) {
        self.change(|state, _| state.ec2.image_is_made(image_id, made));
    }

    /// Records that EC2 has stopped the machine.
    pub fn machine_has_stopped(&self, instance_id: &str) {
        self.change(|state, _| state.ec2.machine_is_off(instance_id));
    }

    /// Records that the machine has ended by itself. EC2 detects it: a group replaces its instance; any other instance
    /// is stopped.
    pub fn machine_has_ended(&self, instance_id: &str) {
        self.change(|state, _| state.ec2.machine_is_off(instance_id));
        // Fails for an instance that Auto Scaling does not list, or no longer lists.
        self.crash(instance_id).ok();
    }

    fn order(&self, order: tasks::Order) {
        // Refused only when the runtime is shutting down.
        let _ = self.inner.orders.send(order);
    }
}

/// Answers a call; returns the content of the answer.
pub(super) fn handle(cloud: &Cloud, action: &str, form: &Params) -> Result<Xml, ApiError> {
    match action {
        "RunInstances" => instances::run(cloud, form),
        "DescribeInstances" => describe::instances(cloud, form),
        "StopInstances" => instances::stop(cloud, form),
        "StartInstances" => instances::start(cloud, form),
        "TerminateInstances" => instances::terminate(cloud, form),
        "DescribeVolumes" => describe::volumes(cloud, form),
        "CreateTags" => create_tags(cloud, form),
        "CreateImage" => images::create(cloud, form),
        "DescribeImages" => images::describe(cloud, form),
        "ModifyImageAttribute" => images::describe_as(cloud, form),
        "DeregisterImage" => images::deregister(cloud, form),
        // A snapshot exists only as a part of its image, which the caller deregisters before.
        "DeleteSnapshot" => Ok(wire::done()),
        "CreateKeyPair" => keys::create(cloud, form),
        "DescribeKeyPairs" => keys::describe(cloud, form),
        "DeleteKeyPair" => keys::delete(cloud, form),
        "CreateSecurityGroup" => keys::create_group(cloud, form),
        "DescribeSecurityGroups" => keys::describe_groups(cloud, form),
        "AuthorizeSecurityGroupIngress" => keys::authorize(cloud, form),
        "DeleteSecurityGroup" => keys::delete_group(cloud, form),
        "DescribeRegions" => Ok(regions(cloud)),
        _ => Err(ApiError::unknown_action(Service::Ec2, action)),
    }
}

fn regions(cloud: &Cloud) -> Xml {
    let region = &cloud.inner.options.region;
    let mut xml = Xml::default();
    wire::items(&mut xml, "regionInfo", [region], |xml, region| {
        xml.text("regionName", region);
        xml.text("regionEndpoint", &format!("ec2.{region}.amazonaws.com"));
        xml.text("optInStatus", "opt-in-not-required");
    });
    xml
}

fn create_tags(cloud: &Cloud, form: &Params) -> Result<Xml, ApiError> {
    let tags = wire::tags(form, "Tag");
    cloud.change(|state, _| {
        for id in form.numbered("ResourceId") {
            let of_group = state.scaling.instance_mut(&id).ok().map(|instance| &mut instance.tags);
            let own =
                state.ec2.instances.get_mut(&id).map(|standalone| &mut standalone.instance.tags);
            let image = state.ec2.images.get_mut(&id).map(|image| &mut image.tags);
            match of_group.or(own).or(image) {
                Some(present) => present.extend(tags.clone()),
                None => state.ec2.tags.entry(id).or_default().extend(tags.clone()),
            }
        }
    });
    Ok(wire::done())
}

#[cfg(test)]
mod tests;
