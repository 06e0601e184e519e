//! Instances: stores those of `RunInstances`, and shows Auto Scaling's, too.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::wire::Filters;
use super::wire::{self};
use super::{Cloud, keys};
use crate::cloud::autoscaling::{Instance, Lifecycle, LifecycleState};
use crate::cloud::errors::ApiError;
use crate::cloud::specs::Market;
use crate::cloud::tasks::Order;
use crate::cloud::wire::Params;
use crate::cloud::xml::Xml;
use crate::cloud::{State, clock};
use crate::machines::Launch;

/// The root device of Debian's images.
pub(super) const ROOT_DEVICE: &str = "/dev/xvda";

/// An instance's state, and the number that EC2 gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    Running,
    Stopping,
    Stopped,
    Terminated,
}

impl Power {
    fn describe(self) -> (u8, &'static str) {
        match self {
            Self::Running => (16, "running"),
            Self::Terminated => (48, "terminated"),
            Self::Stopping => (64, "stopping"),
            Self::Stopped => (80, "stopped"),
        }
    }
}

/// An instance that belongs to no group.
pub(super) struct Standalone {
    pub instance: Instance,
    pub power: Power,
    pub key_name: Option<String>,
    security_groups: Vec<String>,
}

impl Standalone {
    pub fn has_metadata(&self, address: Ipv4Addr) -> bool {
        self.instance.address == address && self.power != Power::Terminated
    }
}

impl super::Ec2 {
    pub fn machine_is_off(&mut self, id: &str) {
        if let Some(standalone) = self.instances.get_mut(id)
            && standalone.power != Power::Terminated
        {
            standalone.power = Power::Stopped;
        }
    }

    fn find(&mut self, id: &str) -> Result<&mut Standalone, ApiError> {
        self.instances.get_mut(id).ok_or_else(|| unknown(id))
    }
}

pub(super) fn run(cloud: &Cloud, form: &Params) -> Result<Xml, ApiError> {
    let image_id = form.required("ImageId")?;
    cloud.change(|state, now| {
        state.ec2.launchable(image_id)?;
        let zone = form.get("Placement.AvailabilityZone").unwrap_or(&cloud.inner.options.zones[0]);
        let address = state.scaling.take_address().ok_or_else(|| {
            ApiError::new(
                400,
                "InsufficientFreeAddressesInSubnet",
                "The subnet has no free address",
            )
        })?;
        let user_data = form.get("UserData").map(keys::from_base64).transpose()?;
        let id = state.ec2.ids.instance();
        // In this cloud, an instance profile has the name of its role.
        let role_name = form.get("IamInstanceProfile.Name");
        let credentials = role_name.map(|role| state.scaling.credentials(role, &id));
        let instance = Instance {
            id: id.clone(),
            group: String::new(),
            sequence: 0,
            zone: zone.to_owned(),
            address,
            launched: now,
            instance_type: form.get("InstanceType").unwrap_or("t3.small").to_owned(),
            image_id: image_id.to_owned(),
            market: Market::OnDemand,
            user_data,
            credentials,
            tags: wire::tags_for(form, "instance"),
            metadata_tags: form.get("MetadataOptions.InstanceMetadataTags") == Some("enabled"),
            lifecycle: Lifecycle::new(now),
            healthy: true,
            spot: None,
            rebalance: None,
            maintenance: Vec::new(),
            activity: 0,
        };
        cloud.order(Order::Launch(Launch {
            instance_id: id.clone(),
            private_address: address,
            zone: zone.to_owned(),
            group: String::new(),
            image_id: image_id.to_owned(),
            tags: instance.tags.clone(),
        }));
        let standalone = Standalone {
            instance,
            power: Power::Running,
            key_name: form.get("KeyName").map(str::to_owned),
            security_groups: form.numbered("SecurityGroupId"),
        };
        state.ec2.tags.insert(volume_of(&id), wire::tags_for(form, "volume"));
        let mut xml = Xml::default();
        xml.text("reservationId", "r-00000000000000001");
        xml.text("ownerId", crate::cloud::ACCOUNT);
        wire::items(&mut xml, "instancesSet", [&standalone], |xml, it| show(xml, cloud, it));
        state.ec2.instances.insert(id, standalone);
        Ok(xml)
    })
}

pub(super) fn describe(cloud: &Cloud, form: &Params) -> Result<Xml, ApiError> {
    let (wanted, filters) = (form.numbered("InstanceId"), Filters::of(form));
    cloud.change(|state, _| {
        let all = all(state);
        if let Some(id) = wanted.iter().find(|id| !all.contains_key(*id)) {
            return Err(unknown(id));
        }
        let shown = all.values().filter(|it| {
            let instance = &it.instance;
            (wanted.is_empty() || wanted.contains(&instance.id))
                && filters.want(|property| match property {
                    "instance-id" => Some(instance.id.clone()),
                    "image-id" => Some(instance.image_id.clone()),
                    "private-ip-address" => Some(instance.address.to_string()),
                    "instance-state-name" => Some(it.power.describe().1.to_owned()),
                    _ => {
                        let tag = property.strip_prefix("tag:")?;
                        Some(instance.tags.get(tag).cloned().unwrap_or_default())
                    }
                })
        });
        let mut xml = Xml::default();
        wire::items(&mut xml, "reservationSet", shown, |xml, it| {
            xml.text("reservationId", "r-00000000000000001");
            xml.text("ownerId", crate::cloud::ACCOUNT);
            wire::items(xml, "instancesSet", [it], |xml, it| show(xml, cloud, it));
        });
        Ok(xml)
    })
}

pub(super) fn stop(cloud: &Cloud, form: &Params) -> Result<Xml, ApiError> {
    switch(cloud, form, |state, id| {
        let standalone = state.ec2.find(id)?;
        if standalone.power == Power::Running {
            standalone.power = Power::Stopping;
            cloud.order(Order::Stop(id.to_owned()));
        }
        Ok(standalone.power)
    })
}

pub(super) fn start(cloud: &Cloud, form: &Params) -> Result<Xml, ApiError> {
    switch(cloud, form, |state, id| {
        let standalone = state.ec2.find(id)?;
        if standalone.power == Power::Stopped {
            standalone.power = Power::Running;
            cloud.order(Order::Start(id.to_owned()));
        }
        Ok(standalone.power)
    })
}

pub(super) fn terminate(cloud: &Cloud, form: &Params) -> Result<Xml, ApiError> {
    let now = cloud.inner.clock.elapsed();
    switch(cloud, form, |state, id| {
        if state.scaling.instance(id).is_some() {
            state.scaling.vanish(id, now);
            return Ok(Power::Terminated);
        }
        let standalone = state.ec2.find(id)?;
        if standalone.power != Power::Terminated {
            standalone.power = Power::Terminated;
            state.scaling.give_back_address(standalone.instance.address);
            state.metadata.forget(id);
            cloud.order(Order::Terminate(id.to_owned()));
        }
        Ok(Power::Terminated)
    })
}

/// Changes every instance of `InstanceId` with `change`, and answers with the states that it returns.
fn switch(
    cloud: &Cloud,
    form: &Params,
    change: impl Fn(&mut State, &str) -> Result<Power, ApiError>,
) -> Result<Xml, ApiError> {
    cloud.change(|state, _| {
        let ids = form.numbered("InstanceId");
        let powers: Result<Vec<Power>, ApiError> = ids.iter().map(|id| change(state, id)).collect();
        let mut xml = Xml::default();
        wire::items(&mut xml, "instancesSet", ids.iter().zip(powers?), |xml, (id, power)| {
            xml.text("instanceId", id);
            show_power(xml, "currentState", power);
            show_power(xml, "previousState", Power::Running);
        });
        Ok(xml)
    })
}

pub(super) fn describe_volumes(cloud: &Cloud, form: &Params) -> Result<Xml, ApiError> {
    let (wanted, filters) = (form.numbered("VolumeId"), Filters::of(form));
    cloud.change(|state, _| {
        let all = all(state);
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
fn all(state: &State) -> BTreeMap<String, Standalone> {
    let of_groups = state.scaling.instances().map(|instance| Standalone {
        instance: instance.clone(),
        power: if instance.lifecycle.state() == LifecycleState::WarmedStopped {
            Power::Stopped
        } else {
            Power::Running
        },
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

fn show(xml: &mut Xml, cloud: &Cloud, standalone: &Standalone) {
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
    if standalone.power != Power::Terminated {
        // A client that looks for an instance's address checks whether the instance is in a VPC.
        xml.text("vpcId", "vpc-00000000000000001");
        xml.text("subnetId", "subnet-00000000000000001");
        xml.display("privateIpAddress", instance.address);
    }
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

fn show_power(xml: &mut Xml, name: &str, power: Power) {
    let (code, state) = power.describe();
    xml.open(name);
    xml.display("code", code);
    xml.text("name", state);
    xml.close(name);
}

/// Returns the id of the root volume, an instance's only volume.
fn volume_of(instance_id: &str) -> String {
    instance_id.replacen("i-", "vol-", 1)
}

fn unknown(id: &str) -> ApiError {
    let message = format!("The instance ID '{id}' does not exist");
    ApiError::new(400, "InvalidInstanceID.NotFound", message)
}
