//! The operator's view: `skep status` of an instance, and the answer to a load balancer.

use anyhow::{Context, ensure};
use serde_json::Value;
use skep_sim::fleet::Instance;

use crate::departures::shell;

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

/// One member of a status's fleet.
///
/// # Errors
/// When it is not listed.
pub fn member(fleet: &Value, instance_id: &str) -> anyhow::Result<Value> {
    let members = fleet["members"].as_array().context("members")?;
    let member = members.iter().find(|member| member["instance_id"] == instance_id);
    member.cloned().with_context(|| format!("{instance_id} in {fleet:#}"))
}

/// `GET /` on the health port: the code, and status and phase from the body.
///
/// # Errors
/// When nothing answers, or the answer is not a health status.
pub async fn health(instance: &Instance) -> anyhow::Result<(u16, String, String)> {
    let answer = from_health_port(instance, "/").await?;
    let code = answer.split(' ').nth(1).context("a status line")?.parse()?;
    let (_, body) = answer.split_once("\r\n\r\n").context("a body")?;
    let body: Value = serde_json::from_str(body).with_context(|| answer.clone())?;
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    Ok((code, text("status"), text("phase")))
}

/// The whole answer to a `GET` on the health port, from the node itself.
///
/// # Errors
/// When nothing answers.
pub async fn from_health_port(instance: &Instance, path: &str) -> anyhow::Result<String> {
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/44554\n\
         printf 'GET {path} HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3\n\
         cat <&3"
    );
    shell(instance, &script).await
}
