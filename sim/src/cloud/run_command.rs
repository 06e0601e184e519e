//! Run Command: scripts that SSM runs on instances.
//!
//! Every instance that is on receives commands: the agent and its permissions are not modelled.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::errors::ApiError;
use super::ids::Ids;
use super::requests::Service;
use super::{ACCOUNT, Cloud};
use crate::machines::Executed;

/// The document that runs shell scripts.
const DOCUMENT: &str = "AWS-RunShellScript";
/// The number of characters of an output that GetCommandInvocation shows.
const SHOWN: usize = 24_000;

/// The commands so far.
pub(super) struct Commands {
    invocations: BTreeMap<String, Invocation>,
    ids: Ids,
}

struct Invocation {
    instance: String,
    /// `None` while it runs.
    executed: Option<Executed>,
}

impl Commands {
    pub fn new(seed: u64) -> Self {
        Self { invocations: BTreeMap::new(), ids: Ids::new(seed) }
    }
}

/// Whether an action of SSM is one of Run Command.
pub(super) fn is_of(action: &str) -> bool {
    matches!(action, "SendCommand" | "GetCommandInvocation")
}

/// Answers one call.
pub(super) fn handle(cloud: &Cloud, action: &str, input: &Value) -> Result<Value, ApiError> {
    match action {
        "SendCommand" => send(cloud, input),
        "GetCommandInvocation" => invocation(cloud, input),
        _ => Err(ApiError::unknown_action(Service::Ssm, action)),
    }
}

fn send(cloud: &Cloud, input: &Value) -> Result<Value, ApiError> {
    if input["DocumentName"] != DOCUMENT {
        return Err(ApiError::new(400, "InvalidDocument", ""));
    }
    let texts = |list: &Value| -> Vec<String> {
        let texts = list.as_array().into_iter().flatten().filter_map(Value::as_str);
        texts.map(str::to_owned).collect()
    };
    let instances = texts(&input["InstanceIds"]);
    let [instance] = instances.as_slice() else {
        return Err(ApiError::validation("only commands for one instance are modelled here"));
    };
    let script = texts(&input["Parameters"]["commands"]).join("\n");
    let is_listed = cloud.change(|state, _| state.scaling.instance(instance).is_some());
    let machines = cloud.inner.machines.borrow().clone().filter(|_| is_listed);
    let executing = machines.and_then(|machines| machines.execute(instance, script));
    let executing = executing.ok_or_else(|| {
        let message =
            format!("Instances [[{instance}]] not in a valid state for account {ACCOUNT}");
        ApiError::new(400, "InvalidInstanceId", message)
    })?;
    let id = cloud.change(|state, _| {
        let id = state.commands.ids.uuid();
        let invocation = Invocation { instance: instance.clone(), executed: None };
        state.commands.invocations.insert(id.clone(), invocation);
        id
    });
    let (inner, of) = (Arc::downgrade(&cloud.inner), id.clone());
    tokio::spawn(async move {
        let executed = executing.await;
        let lost = || Executed { code: -1, out: "the instance has ended".to_owned() };
        let executed = executed.unwrap_or_else(|_| lost());
        let Some(inner) = inner.upgrade() else { return };
        Cloud { inner }.change(|state, _| {
            if let Some(invocation) = state.commands.invocations.get_mut(&of) {
                invocation.executed = Some(executed);
            }
        });
    });
    Ok(json!({ "Command": { "CommandId": id, "InstanceIds": [instance], "Status": "Pending" } }))
}

fn invocation(cloud: &Cloud, input: &Value) -> Result<Value, ApiError> {
    let text = |name: &str| input[name].as_str().unwrap_or_default().to_owned();
    let (command, instance) = (text("CommandId"), text("InstanceId"));
    cloud.change(|state, _| {
        let found = state.commands.invocations.get(&command);
        let found = found.filter(|found| found.instance == instance);
        let found = found.ok_or_else(|| ApiError::new(400, "InvocationDoesNotExist", ""))?;
        let (status, code, out) = match &found.executed {
            None => ("InProgress", -1, String::new()),
            Some(of) => {
                let status = if of.code == 0 { "Success" } else { "Failed" };
                (status, of.code, of.out.chars().take(SHOWN).collect())
            }
        };
        Ok(json!({
            "CommandId": command,
            "InstanceId": instance,
            "DocumentName": DOCUMENT,
            "Status": status,
            "StatusDetails": status,
            "ResponseCode": code,
            "StandardOutputContent": out,
            "StandardErrorContent": "",
        }))
    })
}
