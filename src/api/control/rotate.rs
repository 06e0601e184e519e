//! `POST /rotate-tokens`: rotates join tokens and the unlock key.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use futures_util::future::BoxFuture;

use super::refusal::refuse;
use crate::clients::docker::Rotation;
use crate::common::report::Rotated;

/// Rotates, or returns the reason of a failure.
pub(super) type Rotate =
    Arc<dyn Fn(Rotation) -> BoxFuture<'static, Result<Rotated, String>> + Send + Sync>;

pub(super) async fn take_rotation(Extension(rotate): Extension<Rotate>, body: Bytes) -> Response {
    match serde_json::from_slice(&body) {
        Ok(what) => match rotate(what).await {
            Ok(rotated) => Json(rotated).into_response(),
            Err(why) => refuse(StatusCode::SERVICE_UNAVAILABLE, &why),
        },
        Err(error) => refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}
