//! Key pairs, made by the real `ssh-keygen`, and security groups, which are only names here.

use std::fs;
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::Cloud;
use super::wire;
use crate::cloud::errors::ApiError;
use crate::cloud::wire::Params;
use crate::cloud::xml::Xml;

pub(super) struct KeyPair {
    /// In the format of `authorized_keys`.
    pub public: String,
}

pub(super) struct SecurityGroup {
    name: String,
    description: String,
}

pub(super) fn create(cloud: &Cloud, form: &Params) -> Result<Xml, ApiError> {
    let name = form.required("KeyName")?;
    let internal = |error: anyhow::Error| {
        tracing::error!("cannot make a key pair: {error:#}");
        ApiError::new(500, "InternalError", "An internal error has occurred")
    };
    let (private, public) = key_pair().map_err(internal)?;
    cloud.change(|state, _| {
        if state.ec2.keys.contains_key(name) {
            let message = format!("The keypair '{name}' already exists.");
            return Err(ApiError::new(400, "InvalidKeyPair.Duplicate", message));
        }
        state.ec2.keys.insert(name.to_owned(), KeyPair { public });
        let mut xml = Xml::default();
        xml.text("keyName", name);
        xml.text("keyMaterial", &private);
        Ok(xml)
    })
}

/// Creates a key pair; returns the private key in PEM, and the public key.
fn key_pair() -> anyhow::Result<(String, String)> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("key");
    let output = Command::new("ssh-keygen")
        .args(["-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-C", "local-cloud", "-f"])
        .arg(&file)
        .output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let public = fs::read_to_string(file.with_extension("pub"))?;
    Ok((fs::read_to_string(&file)?, public.trim().to_owned()))
}

pub(super) fn describe(cloud: &Cloud, form: &Params) -> Result<Xml, ApiError> {
    let wanted = form.numbered("KeyName");
    cloud.change(|state, _| {
        let keys = &state.ec2.keys;
        if let Some(name) = wanted.iter().find(|name| !keys.contains_key(*name)) {
            let message = format!("The key pair '{name}' does not exist");
            return Err(ApiError::new(400, "InvalidKeyPair.NotFound", message));
        }
        let shown = keys.keys().filter(|name| wanted.is_empty() || wanted.contains(name));
        let mut xml = Xml::default();
        wire::items(&mut xml, "keySet", shown, |xml, name| xml.text("keyName", name));
        Ok(xml)
    })
}

/// Deletes a key pair. As on EC2, deleting it again is no error.
pub(super) fn delete(cloud: &Cloud, form: &Params) -> Result<Xml, ApiError> {
    let name = form.required("KeyName")?;
    cloud.change(|state, _| state.ec2.keys.remove(name));
    Ok(wire::done())
}

pub(super) fn create_group(cloud: &Cloud, form: &Params) -> Result<Xml, ApiError> {
    let name = form.required("GroupName")?.to_owned();
    let description = form.required("GroupDescription")?.to_owned();
    cloud.change(|state, _| {
        let id = state.ec2.ids.instance().replacen("i-", "sg-", 1);
        state.ec2.groups.insert(id.clone(), SecurityGroup { name, description });
        let mut xml = Xml::default();
        xml.text("return", "true");
        xml.text("groupId", &id);
        Ok(xml)
    })
}

pub(super) fn describe_groups(cloud: &Cloud, form: &Params) -> Result<Xml, ApiError> {
    let wanted = form.numbered("GroupId");
    cloud.change(|state, _| {
        let groups = &state.ec2.groups;
        if let Some(id) = wanted.iter().find(|id| !groups.contains_key(*id)) {
            return Err(unknown_group(id));
        }
        let shown = groups.iter().filter(|(id, _)| wanted.is_empty() || wanted.contains(id));
        let mut xml = Xml::default();
        wire::items(&mut xml, "securityGroupInfo", shown, |xml, (id, group)| {
            xml.text("ownerId", crate::cloud::ACCOUNT);
            xml.text("groupId", id);
            xml.text("groupName", &group.name);
            xml.text("groupDescription", &group.description);
        });
        Ok(xml)
    })
}

pub(super) fn authorize(cloud: &Cloud, form: &Params) -> Result<Xml, ApiError> {
    let id = form.required("GroupId")?;
    let known = cloud.change(|state, _| state.ec2.groups.contains_key(id));
    known.then(wire::done).ok_or_else(|| unknown_group(id))
}

pub(super) fn delete_group(cloud: &Cloud, form: &Params) -> Result<Xml, ApiError> {
    let id = form.required("GroupId")?;
    let removed = cloud.change(|state, _| state.ec2.groups.remove(id));
    removed.map(|_| wire::done()).ok_or_else(|| unknown_group(id))
}

fn unknown_group(id: &str) -> ApiError {
    let message = format!("The security group '{id}' does not exist");
    ApiError::new(400, "InvalidGroup.NotFound", message)
}

/// Decodes the UserData of `RunInstances`.
pub(super) fn from_base64(text: &str) -> Result<String, ApiError> {
    let invalid =
        || ApiError::new(400, "InvalidParameterValue", "Invalid BASE64 encoding of user data.");
    let bytes = BASE64_STANDARD.decode(text).map_err(|_| invalid())?;
    // This cloud's metadata is text.
    String::from_utf8(bytes).map_err(|_| invalid())
}
