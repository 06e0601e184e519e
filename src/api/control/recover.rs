//! `GET` and `POST /recover`: recovers a lost quorum on a survivor.

use std::sync::Arc;

use axum::Extension;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use futures_util::future::BoxFuture;

use super::refusal::refuse;
use crate::common::report::RecoveryPlan;

/// Returns the plan, and with `true` starts it; the error is the reason why no plan could be made.
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
