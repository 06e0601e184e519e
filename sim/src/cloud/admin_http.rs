//! Serves the admin functions as plain JSON under `/_sim/`, for a command line in another terminal. Requests need no
//! signature: every client that reaches the gateway can use them.

use std::time::Duration;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Method, Response, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::access::Deny;
use super::errors::ApiError;
use super::faults::FaultRule;
use super::specs::Maintenance;
use super::wire::Params;
use super::{Cloud, RefreshSpec};
use crate::machines::Disturbance;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfInstance {
    instance_id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decrementing {
    instance_id: String,
    #[serde(default)]
    decrement: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spot {
    instance_id: String,
    #[serde(default = "terminate")]
    action: String,
    #[serde(default = "two_minutes")]
    seconds: u64,
}

fn terminate() -> String {
    "terminate".to_owned()
}

/// Seconds from AWS's spot notice to the interruption.
fn two_minutes() -> u64 {
    120
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfMaintenance {
    instance_id: String,
    #[serde(default)]
    maintenance: Maintenance,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Desired {
    group: String,
    desired: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfGroup {
    group: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refresh {
    group: String,
    min_healthy: u32,
    max_healthy: u32,
    /// Replaces the root volumes instead of the instances.
    root_volumes: bool,
}

impl Refresh {
    fn start(self, cloud: &Cloud) -> Result<(), ApiError> {
        let spec = match self.root_volumes {
            true => cloud.root_volumes_of(&self.group)?,
            false => RefreshSpec::default(),
        };
        let (min_healthy, max_healthy) = (self.min_healthy, self.max_healthy);
        let spec = RefreshSpec { min_healthy, max_healthy, ..spec };
        cloud.start_refresh(&self.group, spec).map(drop)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Health {
    instance_id: String,
    healthy: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tag {
    instance_id: String,
    key: String,
    /// `None` removes it.
    value: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Disturb {
    instance_id: String,
    disturbance: Disturbance,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockOffset {
    seconds: i64,
}

/// Answers one request; `path` is the part after `/_sim/`. May block for some milliseconds.
pub(super) fn handle(cloud: &Cloud, parts: &Parts, path: &str, body: &[u8]) -> Response<Body> {
    let query = Params::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let answer = match parts.method {
        Method::GET => look(cloud, path, &query),
        Method::POST => act(cloud, path, body),
        Method::DELETE => end(cloud, path, body),
        _ => Err(unknown(path)),
    };
    let (status, body) = match answer {
        Ok(body) => (200, body),
        Err(error) => (error.status, json!({ "code": error.code, "message": error.message })),
    };
    Response::builder()
        .status(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_string()))
        // All parts above are valid, so building cannot fail.
        .unwrap_or_default()
}

fn look(cloud: &Cloud, path: &str, query: &Params) -> Result<Value, ApiError> {
    let since = query.parsed("since")?.unwrap_or(0);
    match path {
        "instances" => Ok(json!(cloud.instances())),
        "groups" => Ok(json!(cloud.groups())),
        "events" => Ok(json!(cloud.events_since(since))),
        "requests" => Ok(json!(cloud.requests().get(since..).unwrap_or_default())),
        "faults" => Ok(json!(cloud.faults().rules())),
        "targets" => Ok(json!(cloud.targets())),
        "flows" => Ok(json!(cloud.flows())),
        _ => match path.strip_prefix("stacks/") {
            Some(name) => cloud.stack(name).map(|stack| json!(stack)).ok_or_else(|| unknown(path)),
            None => Err(unknown(path)),
        },
    }
}

fn act(cloud: &Cloud, path: &str, body: &[u8]) -> Result<Value, ApiError> {
    match path {
        "spot" => {
            let spot: Spot = read(body)?;
            let due_in = Duration::from_secs(spot.seconds);
            cloud.spot_notice(&spot.instance_id, &spot.action, due_in)
        }
        "rebalance" => cloud.rebalance(&read::<OfInstance>(body)?.instance_id),
        "maintenance" => {
            let of: OfMaintenance = read(body)?;
            cloud.schedule_maintenance(&of.instance_id, of.maintenance)
        }
        "terminate" => {
            let of: Decrementing = read(body)?;
            cloud.terminate(&of.instance_id, of.decrement)
        }
        "crash" => cloud.crash(&read::<OfInstance>(body)?.instance_id),
        "standby" => {
            let of: Decrementing = read(body)?;
            cloud.standby(&of.instance_id, of.decrement)
        }
        "health" => {
            let of: Health = read(body)?;
            cloud.set_health(&of.instance_id, of.healthy)
        }
        "desired" => {
            let of: Desired = read(body)?;
            cloud.set_desired(&of.group, of.desired)
        }
        "refresh" => read::<Refresh>(body)?.start(cloud),
        "tags" => {
            let tag: Tag = read(body)?;
            match &tag.value {
                Some(value) => cloud.set_tag(&tag.instance_id, &tag.key, value),
                None => cloud.remove_tag(&tag.instance_id, &tag.key),
            }
        }
        "faults" => {
            cloud.faults().set_rule(read::<FaultRule>(body)?);
            Ok(())
        }
        "denials" => {
            cloud.deny(read::<Deny>(body)?);
            Ok(())
        }
        "disturb" => {
            let of: Disturb = read(body)?;
            cloud.disturb(&of.instance_id, of.disturbance)
        }
        "clock" => {
            let offset: ClockOffset = read(body)?;
            cloud.set_clock_offset(time::Duration::seconds(offset.seconds));
            Ok(())
        }
        _ => Err(unknown(path)),
    }
    .map(|()| json!({}))
}

fn end(cloud: &Cloud, path: &str, body: &[u8]) -> Result<Value, ApiError> {
    match path {
        "spot" => cloud.clear_spot_notice(&read::<OfInstance>(body)?.instance_id)?,
        "rebalance" => cloud.clear_rebalance(&read::<OfInstance>(body)?.instance_id)?,
        "maintenance" => cloud.clear_maintenance(&read::<OfInstance>(body)?.instance_id)?,
        "standby" => cloud.exit_standby(&read::<OfInstance>(body)?.instance_id)?,
        "refresh" => cloud.cancel_refresh(&read::<OfGroup>(body)?.group)?,
        "faults" => cloud.faults().clear(),
        "denials" => cloud.allow_all(),
        "requests" => cloud.clear_requests(),
        _ => return Err(unknown(path)),
    }
    Ok(json!({}))
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::new(400, "BadRequest", error.to_string()))
}

fn unknown(path: &str) -> ApiError {
    ApiError::new(404, "NotFound", format!("there is no {path} here"))
}
