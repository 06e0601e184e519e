//! Shows instances, those of `RunInstances` and those of groups, and their volumes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::Cloud;
use super::standalone::{Power, ROOT_DEVICE, Standalone, unknown};
use super::wire::{self, Filters};
use crate::cloud::autoscaling::{Instance, LifecycleState};
use crate::cloud::errors::ApiError;
use crate::cloud::specs::Market;
use crate::cloud::wire::Params;
use crate::cloud::xml::Xml;
use crate::cloud::{State, clock};

/// The sizes of a page of `DescribeInstances`.
const PAGES: RangeInclusive<usize> = 5..=1000;
/// The only network: networks are not modelled.
pub(in crate::cloud) const VPC: &str = "vpc-00000000000000001";
const SUBNET: &str = "subnet-00000000000000001";

pub(super) fn instances(cloud: &Cloud, form: &Params) -> Result<Xml, ApiError> {
    let wanted = form.numbered("InstanceId");
    let filters = Filters::checked(form, is_modelled)?;
    let page = Page::of(form, &wanted)?;
    cloud.change(|state, now| {
        let all = all(state, now);
        if let Some(id) = wanted.iter().find(|id| !all.contains_key(*id)) {
            return Err(unknown(id));
        }
        let mut shown: Vec<&Standalone> = all
            .values()
            .filter(|it| wanted.is_empty() || wanted.contains(&it.instance.id))
            .filter(|it| filters.fit(|property| it.property(property)))
            .collect();
        let next = page.cut(&mut shown);
        let mut xml = Xml::default();
        wire::items(&mut xml, "reservationSet", shown, |xml, it| {
            xml.text("reservationId", "r-00000000000000001");
            xml.text("ownerId", crate::cloud::ACCOUNT);
            wire::items(xml, "instancesSet", [it], |xml, it| show(xml, cloud, it));
        });
        xml.maybe("nextToken", next.as_deref());
        Ok(xml)
    })
}

/// A page of instances in the order of their ids. A token is the last id of the page before it, so that an instance
/// that comes or goes between two pages moves no other one.
struct Page<'a> {
    size: usize,
    after: &'a str,
}

impl<'a> Page<'a> {
    fn of(form: &'a Params, wanted: &[String]) -> Result<Self, ApiError> {
        let size = form.parsed("MaxResults")?;
        if size.is_some() && !wanted.is_empty() {
            let message = "The parameter instancesSet cannot be used with the parameter maxResults";
            return Err(ApiError::new(400, "InvalidParameterCombination", message));
        }
        if let Some(size) = size.filter(|size| !PAGES.contains(size)) {
            let message = format!(
                "Value ( {size} ) for parameter maxResults is invalid. Expecting a value between \
                 {} and {}.",
                PAGES.start(),
                PAGES.end()
            );
            return Err(ApiError::new(400, "InvalidParameterValue", message));
        }
        let after = form.get("NextToken").unwrap_or_default();
        if !after.is_empty() && !after.starts_with("i-") {
            let message = "The specified NextToken is not valid";
            return Err(ApiError::new(400, "InvalidNextToken", message));
        }
        Ok(Self { size: size.unwrap_or(*PAGES.end()), after })
    }

    /// Cuts the instances down to this page; returns the token of the next one.
    fn cut(&self, instances: &mut Vec<&Standalone>) -> Option<String> {
        instances.retain(|it| *it.instance.id > *self.after);
        let has_more = instances.len() > self.size;
        instances.truncate(self.size);
        instances.last().filter(|_| has_more).map(|it| it.instance.id.clone())
    }
}

impl Standalone {
    /// Returns a property that is modelled, by the name of its filter.
    fn property(&self, name: &str) -> Option<String> {
        let instance = &self.instance;
        match name {
            "instance-id" => Some(instance.id.clone()),
            "image-id" => Some(instance.image_id.clone()),
            "instance-state-name" => Some(self.power.describe().1.to_owned()),
            "vpc-id" => self.address().map(|_| VPC.to_owned()),
            "private-ip-address" | "network-interface.addresses.private-ip-address" => {
                self.address().map(|address| address.to_string())
            }
            // No instance has an address of IPv6.
            _ => instance.tags.get(name.strip_prefix("tag:")?).cloned(),
        }
    }
}

/// Whether instances can be filtered by this property.
fn is_modelled(property: &str) -> bool {
    const MODELLED: [&str; 7] = [
        "instance-id",
        "image-id",
        "instance-state-name",
        "vpc-id",
        "private-ip-address",
        "network-interface.addresses.private-ip-address",
        "network-interface.ipv6-addresses.ipv6-address",
    ];
    MODELLED.contains(&property) || property.starts_with("tag:")
}

pub(super) fn volumes(cloud: &Cloud, form: &Params) -> Result<Xml, ApiError> {
    let (wanted, filters) = (form.numbered("VolumeId"), Filters::of(form));
    cloud.change(|state, now| {
        let all = all(state, now);
        let shown = all.values().filter(|it| {
            let volume = volume_of(&it.instance.id);
            it.power != Power::Terminated
                && (wanted.is_empty() || wanted.contains(&volume))
                && filters.want(|property| match property {
                    "attachment.instance-id" => Some(it.instance.id.clone()),
                    _ => None,
                })
        });
        let mut xml = Xml::default();
        wire::items(&mut xml, "volumeSet", shown, |xml, it| {
            let volume = volume_of(&it.instance.id);
            xml.text("volumeId", &volume);
            xml.text("status", "in-use");
            xml.text("availabilityZone", &it.instance.zone);
            wire::items(xml, "attachmentSet", [&it.instance.id], |xml, id| {
                xml.text("volumeId", &volume);
                xml.text("instanceId", id);
                xml.text("device", ROOT_DEVICE);
                xml.text("status", "attached");
                xml.text("deleteOnTermination", "true");
            });
            wire::tag_set(xml, state.ec2.tags.get(&volume).unwrap_or(&BTreeMap::new()));
        });
        Ok(xml)
    })
}

/// Returns the instances of `RunInstances` and, in the same form, those of groups.
fn all(state: &State, now: Duration) -> BTreeMap<String, Standalone> {
    let power = |instance: &Instance| match instance.lifecycle.state() {
        LifecycleState::WarmedStopped => Power::Stopped,
        _ => Power::Running,
    };
    let present = state.scaling.instances().map(|instance| (instance, power(instance)));
    let gone = state.scaling.terminated(now).map(|instance| (instance, Power::Terminated));
    let of_groups = present.chain(gone).map(|(instance, power)| Standalone {
        instance: instance.clone(),
        power,
        key_name: None,
        security_groups: Vec::new(),
    });
    let own = state.ec2.instances.values().map(|it| Standalone {
        instance: it.instance.clone(),
        power: it.power,
        key_name: it.key_name.clone(),
        security_groups: it.security_groups.clone(),
    });
    of_groups.chain(own).map(|it| (it.instance.id.clone(), it)).collect()
}

pub(super) fn show(xml: &mut Xml, cloud: &Cloud, standalone: &Standalone) {
    let instance = &standalone.instance;
    let launched = clock::iso_millis(cloud.inner.clock.date(instance.launched));
    xml.text("instanceId", &instance.id);
    xml.text("imageId", &instance.image_id);
    show_power(xml, "instanceState", standalone.power);
    xml.maybe("keyName", standalone.key_name.as_deref());
    xml.text("instanceType", &instance.instance_type);
    xml.text("launchTime", &launched);
    xml.open("placement");
    xml.text("availabilityZone", &instance.zone);
    xml.text("tenancy", "default");
    xml.close("placement");
    if let Some(address) = standalone.address() {
        // A client that looks for an instance's address checks whether the instance is in a VPC.
        show_network(xml, address);
    }
    wire::items(xml, "networkInterfaceSet", standalone.address(), |xml, address| {
        xml.text("networkInterfaceId", &instance.id.replacen("i-", "eni-", 1));
        xml.text("status", "in-use");
        show_network(xml, address);
        wire::items(xml, "privateIpAddressesSet", [address], |xml, address| {
            xml.display("privateIpAddress", address);
            xml.text("primary", "true");
        });
        xml.text("ipv6AddressesSet", "");
    });
    // Only an instance of a market has this element.
    xml.maybe("instanceLifecycle", (instance.market == Market::Spot).then_some("spot"));
    xml.text("architecture", "x86_64");
    xml.text("rootDeviceType", "ebs");
    xml.text("rootDeviceName", ROOT_DEVICE);
    xml.text("virtualizationType", "hvm");
    wire::items(xml, "groupSet", &standalone.security_groups, |xml, id| xml.text("groupId", id));
    wire::items(xml, "blockDeviceMapping", [&instance.id], |xml, id| {
        xml.text("deviceName", ROOT_DEVICE);
        xml.open("ebs");
        xml.text("volumeId", &volume_of(id));
        xml.text("status", "attached");
        xml.text("deleteOnTermination", "true");
        xml.close("ebs");
    });
    wire::tag_set(xml, &instance.tags);
}

fn show_network(xml: &mut Xml, address: Ipv4Addr) {
    xml.text("vpcId", VPC);
    xml.text("subnetId", SUBNET);
    xml.display("privateIpAddress", address);
}

pub(super) fn show_power(xml: &mut Xml, name: &str, power: Power) {
    let (code, state) = power.describe();
    xml.open(name);
    xml.display("code", code);
    xml.text("name", state);
    xml.close(name);
}

/// Returns the id of the root volume, an instance's only volume.
pub(super) fn volume_of(instance_id: &str) -> String {
    instance_id.replacen("i-", "vol-", 1)
}
