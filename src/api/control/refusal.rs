//! Refuses a request on the control socket.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde::{Deserialize, Serialize};

/// The body of a refusal.
#[derive(Serialize, Deserialize)]
pub(super) struct Refusal {
    pub(super) error: String,
}

pub(super) fn refuse(code: StatusCode, why: &str) -> Response {
    (code, Json(Refusal { error: why.to_owned() })).into_response()
}
