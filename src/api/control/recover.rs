//! `GET` and `POST /recover`: a quorum that is lost with survivors.

use std::sync::Arc;

use axum::Extension;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use futures_util::future::BoxFuture;

use super::refusal::refuse;
use crate::common::report::RecoveryPlan;

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
