//! Stores, stops, starts and terminates the instances of `RunInstances`.

use super::describe::{show, show_power, volume_of};
use super::standalone::{Power, Standalone, unknown};
use super::{Cloud, keys, wire};
use crate::cloud::State;
use crate::cloud::autoscaling::{Instance, Lifecycle};
use crate::cloud::errors::ApiError;
use crate::cloud::specs::Market;
use crate::cloud::tasks::Order;
use crate::cloud::wire::Params;
use crate::cloud::xml::Xml;
use crate::machines::Launch;

impl super::Ec2 {
    pub fn machine_is_off(&mut self, id: &str) {
        if let Some(standalone) = self.instances.get_mut(id)
            && standalone.power != Power::Terminated
        {
            standalone.power = Power::Stopped;
        }
    }

    /// Takes over an instance that its group has given up; it runs on.
    pub fn adopt(&mut self, instance: Instance) {
        let standalone = Standalone {
            power: Power::Running,
            key_name: None,
            security_groups: Vec::new(),
            instance,
        };
        self.instances.insert(standalone.instance.id.clone(), standalone);
    }

    /// Gives an instance to a group.
    pub fn give_up(&mut self, id: &str) -> Option<Instance> {
        self.instances.remove(id).map(|standalone| standalone.instance)
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
            protected: false,
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
            state.scaling.balance(|elb| elb.forget(id));
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
