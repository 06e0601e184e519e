//! `GET` and `POST /recover`: a quorum that is lost with survivors.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Extension;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::server::refuse;

/// What a survivor sees, what it would do, and what that would cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPlan {
    pub cluster: String,
    /// This node.
    pub instance_id: String,
    /// `None` where there is no charter, or it names none.
    pub swarm_id: Option<String>,
    /// The charter's; the quorum would be re-created under the next one.
    pub generation: u64,
    /// The other managers that the ledger knows.
    pub managers: Vec<OtherManager>,
    /// Why nothing may be re-created here and now, and what to do instead.
    pub refusal: Option<String>,
    /// What would be done, a sentence each; none where it is refused.
    pub steps: Vec<String>,
    /// What is or may be lost.
    pub costs: Vec<String>,
}

/// Another manager, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherManager {
    pub instance_id: String,
    pub address: IpAddr,
    /// Its lifecycle state in Auto Scaling, `gone`, or `in no group` where it never was in one; `None` where
    /// no answer came.
    pub auto_scaling: Option<String>,
    /// Does it accept connections on the swarm's port?
    pub listens: bool,
    /// How long ago it wrote its row.
    pub seen_seconds_ago: u64,
    /// It may take part in a quorum that cannot be seen from here.
    pub may_be_alive: bool,
}

/// Shows the plan, or with `true` begins with it; an error is that it could not be looked.
pub(super) type Recover =
    Arc<dyn Fn(bool) -> BoxFuture<'static, Result<RecoveryPlan, String>> + Send + Sync>;

pub(super) async fn show_plan(Extension(recover): Extension<Recover>) -> Response {
    answer(recover(false).await, StatusCode::OK)
}

pub(super) async fn take_recovery(Extension(recover): Extension<Recover>) -> Response {
    answer(recover(true).await, StatusCode::ACCEPTED)
}

fn answer(plan: Result<RecoveryPlan, String>, code: StatusCode) -> Response {
    match plan {
        Ok(plan) => (code, Json(plan)).into_response(),
        Err(why) => refuse(StatusCode::SERVICE_UNAVAILABLE, &why),
    }
}
