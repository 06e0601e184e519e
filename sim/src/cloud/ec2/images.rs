//! Images: the base image, which is registered at the start, and those that `CreateImage` makes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::standalone::{Power, ROOT_DEVICE};
use super::wire::Filters;
use super::wire::{self};
use super::{Cloud, Ec2};
use crate::cloud::errors::ApiError;
use crate::cloud::tasks::Order;
use crate::cloud::wire::Params;
use crate::cloud::xml::Xml;
use crate::cloud::{ACCOUNT, clock};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageState {
    Pending,
    Available,
    /// The reason of the failure.
    Failed(String),
}

impl ImageState {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Available => "available",
            Self::Failed(_) => "failed",
        }
    }
}

#[derive(Debug)]
pub(super) struct Image {
    name: String,
    owner: String,
    description: String,
    created: Duration,
    state: ImageState,
    pub tags: BTreeMap<String, String>,
}

impl Image {
    fn property(&self, id: &str, property: &str) -> Option<String> {
        let value = match property {
            "image-id" => id,
            "name" => &self.name,
            "owner-id" => &self.owner,
            "state" => self.state.as_str(),
            "architecture" => "x86_64",
            "root-device-type" => "ebs",
            "virtualization-type" => "hvm",
            _ => return None,
        };
        Some(value.to_owned())
    }
}

impl Ec2 {
    pub fn register(&mut self, id: &str, name: &str, owner: &str, now: Duration) {
        let image = Image {
            name: name.to_owned(),
            owner: owner.to_owned(),
            description: String::new(),
            created: now,
            state: ImageState::Available,
            tags: BTreeMap::new(),
        };
        self.images.insert(id.to_owned(), image);
    }

    pub fn own_images(&self) -> Vec<(String, String, ImageState)> {
        let own = self.images.iter().filter(|(_, image)| image.owner == ACCOUNT);
        own.map(|(id, image)| (id.clone(), image.name.clone(), image.state.clone())).collect()
    }

    pub fn image_is_made(&mut self, id: &str, made: Result<(), String>) {
        if let Some(image) = self.images.get_mut(id) {
            image.state = made.map_or_else(ImageState::Failed, |()| ImageState::Available);
        }
    }

    pub fn launchable(&self, id: &str) -> Result<(), ApiError> {
        match self.images.get(id) {
            Some(image) if image.state == ImageState::Available => Ok(()),
            Some(image) => Err(ApiError::new(
                400,
                "InvalidAMIID.Unavailable",
                format!("The image id '[{id}]' is {}", image.state.as_str()),
            )),
            None => Err(unknown(id)),
        }
    }
}

pub(super) fn create(cloud: &Cloud, form: &Params) -> Result<Xml, ApiError> {
    let (instance_id, name) = (form.required("InstanceId")?, form.required("Name")?);
    cloud.change(|state, now| {
        let ec2 = &mut state.ec2;
        let standalone = ec2.instances.get(instance_id);
        if standalone.is_none_or(|it| it.power != Power::Stopped) {
            let message =
                format!("Instance {instance_id} is not stopped: only that is modelled here");
            return Err(ApiError::new(400, "IncorrectInstanceState", message));
        }
        let id = ec2.ids.instance().replacen("i-", "ami-", 1);
        let image = Image {
            name: name.to_owned(),
            owner: ACCOUNT.to_owned(),
            description: form.get("Description").unwrap_or_default().to_owned(),
            created: now,
            state: ImageState::Pending,
            tags: wire::tags_for(form, "image"),
        };
        ec2.images.insert(id.clone(), image);
        cloud.order(Order::CreateImage { instance: instance_id.to_owned(), image: id.clone() });
        let mut xml = Xml::default();
        xml.text("imageId", &id);
        Ok(xml)
    })
}

pub(super) fn describe(cloud: &Cloud, form: &Params) -> Result<Xml, ApiError> {
    let (wanted, owners) = (form.numbered("ImageId"), form.numbered("Owner"));
    let filters = Filters::of(form);
    cloud.change(|state, _| {
        let images = &state.ec2.images;
        if let Some(id) = wanted.iter().find(|id| !images.contains_key(*id)) {
            return Err(unknown(id));
        }
        let owned = |image: &Image| {
            let of =
                |owner: &String| *owner == image.owner || owner == "self" && image.owner == ACCOUNT;
            owners.is_empty() || owners.iter().any(of)
        };
        let shown = images.iter().filter(|(id, image)| {
            (wanted.is_empty() || wanted.contains(id))
                && owned(image)
                && filters.want(|property| image.property(id, property))
        });
        let mut xml = Xml::default();
        wire::items(&mut xml, "imagesSet", shown, |xml, (id, image)| {
            xml.text("imageId", id);
            xml.text("imageState", image.state.as_str());
            if let ImageState::Failed(why) = &image.state {
                xml.open("stateReason");
                xml.text("code", "Client.Failed");
                xml.text("message", why);
                xml.close("stateReason");
            }
            xml.text("imageOwnerId", &image.owner);
            xml.text("name", &image.name);
            xml.text("description", &image.description);
            let created = cloud.inner.clock.date(image.created);
            xml.text("creationDate", &clock::iso_millis(created));
            xml.text("isPublic", "false");
            xml.text("architecture", "x86_64");
            xml.text("imageType", "machine");
            xml.text("rootDeviceType", "ebs");
            xml.text("rootDeviceName", ROOT_DEVICE);
            xml.text("virtualizationType", "hvm");
            wire::items(xml, "blockDeviceMapping", [id], |xml, id| {
                xml.text("deviceName", ROOT_DEVICE);
                xml.open("ebs");
                xml.text("snapshotId", &id.replacen("ami-", "snap-", 1));
                xml.text("encrypted", "true");
                xml.close("ebs");
            });
            wire::tag_set(xml, &image.tags);
        });
        Ok(xml)
    })
}

/// Answers `ModifyImageAttribute`; only the description is modelled.
pub(super) fn describe_as(cloud: &Cloud, form: &Params) -> Result<Xml, ApiError> {
    let (id, description) = (form.required("ImageId")?, form.required("Description.Value")?);
    cloud.change(|state, _| {
        let image = state.ec2.images.get_mut(id).ok_or_else(|| unknown(id))?;
        image.description = description.to_owned();
        Ok(wire::done())
    })
}

pub(super) fn deregister(cloud: &Cloud, form: &Params) -> Result<Xml, ApiError> {
    let id = form.required("ImageId")?;
    let removed = cloud.change(|state, _| state.ec2.images.remove(id));
    removed.map(|_| wire::done()).ok_or_else(|| unknown(id))
}

fn unknown(id: &str) -> ApiError {
    let message = format!("The image id '[{id}]' does not exist");
    ApiError::new(400, "InvalidAMIID.NotFound", message)
}
