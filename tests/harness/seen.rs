//! What an operator sees: `skep status` of an instance.

use anyhow::{Context, ensure};
use serde_json::Value;
use skep_sim::fleet::Instance;

/// `skep status --json`.
///
/// # Errors
/// When it fails.
pub async fn status(instance: &Instance) -> anyhow::Result<Value> {
    let output = instance.skep(["status", "--json"]).await?;
    ensure!(output.status.success(), "{output:?}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// `skep status`.
///
/// # Errors
/// When it fails.
pub async fn status_text(instance: &Instance) -> anyhow::Result<String> {
    let output = instance.skep(["status"]).await?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// One member of a status' fleet.
///
/// # Errors
/// When it is not in it.
pub fn member(fleet: &Value, instance_id: &str) -> anyhow::Result<Value> {
    let members = fleet["members"].as_array().context("members")?;
    let member = members.iter().find(|member| member["instance_id"] == instance_id);
    member.cloned().with_context(|| format!("{instance_id} in {fleet:#}"))
}
