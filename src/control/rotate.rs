//! `POST /rotate-tokens`: new join tokens, a new unlock key.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::server::refuse;
use crate::swarm::Rotation;

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotated {
    /// The charter's.
    pub generation: u64,
    /// Names of parameters or items that hold what is new.
    pub stored_in: Vec<String>,
}

/// Does it, or says why not.
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
