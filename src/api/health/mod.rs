//! The health port, for a load balancer: `GET /` answers 200 while this node can take traffic, and 503 otherwise, with
//! one line of JSON.
//!
//! Guarantees:
//! - the answer depends only on this node's own state. A lost quorum or an AWS outage does not change it, even after a
//!   restart of skep: a load balancer that replaces nodes must never kill managers because of a problem that replacing
//!   them does not cure;
//! - everybody gets the status. The reason, the metrics and the page are for requests without an [`Objection`];
//! - the number of connections and their time are limited ([`connections`]).
//!
//! `GET /metrics` is for Prometheus, unless the settings disable it. `GET /ui` is a page, if the settings enable it; see
//! [`crate::api::ui`]. `POST /departures/<instance-id>` is for other nodes; see [`crate::api::departures`]. `GET /findings`
//! is for managers; see [`crate::api::findings`]. Everything else is 404.

mod connections;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Extension, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use serde::Serialize;
use tokio::net::{TcpListener, TcpSocket};

use crate::api::guard::{self, Objection};
use crate::common::printable::on_one_line;
use crate::common::state::StateHandle;
use crate::config;
use crate::telemetry::metrics;

/// The port is in use, or skep may not open it.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {listen} for health checks; does another program use it? (health.listen)"
)]
pub struct HealthError {
    listen: SocketAddr,
    source: io::Error,
}

/// The bound port; it answers no request before [`Server::serve`] runs.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
}

/// The body of the answer to `GET /`.
#[derive(Serialize)]
struct Health {
    /// `healthy` or `unhealthy`, the same as the status code.
    status: &'static str,
    #[serde(flatten)]
    details: Option<Details>,
}

#[derive(Serialize)]
struct Details {
    phase: &'static str,
    doing: String,
    /// Present only while the quorum is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    quorum: Option<String>,
}

impl Server {
    /// Opens the port. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the address is in use, not on this host, or not allowed.
    pub fn bind(listen: SocketAddr) -> Result<Self, HealthError> {
        let bind = || {
            let socket = if listen.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.set_reuseaddr(true)?;
            socket.bind(listen)?;
            socket.listen(connections::BACKLOG)
        };
        let listener = bind().map_err(|source| HealthError { listen, source })?;
        Ok(Self { listener })
    }

    /// Returns the address that it listens on, with the port that the system chose if the setting was port 0.
    ///
    /// # Errors
    /// When the socket is closed.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers requests, also those for `more`, until it is dropped: spawn it.
    pub async fn serve(
        self,
        state: StateHandle,
        settings: config::Health,
        more: Router,
    ) -> Infallible {
        let app = routes(state.clone(), settings.metrics).merge(more);
        let not_found = async || StatusCode::NOT_FOUND;
        let app = app.fallback(not_found).method_not_allowed_fallback(not_found);
        let hosts = Arc::new(settings.hosts);
        let judge = move |ConnectInfo(peer): ConnectInfo<SocketAddr>, mut request: Request| {
            let objection = Objection::to(peer, &request, &hosts);
            request.extensions_mut().insert(objection);
            std::future::ready(request)
        };
        let app = app.layer(middleware::map_request(judge));
        connections::serve(|| self.listener.accept(), &app, &state).await
    }
}

fn routes(state: StateHandle, with_metrics: bool) -> Router {
    let mut app = Router::new().route("/", get(health));
    if with_metrics {
        app = app.route("/metrics", get(show_metrics).layer(middleware::from_fn(guard::admit)));
    }
    app.with_state(state)
}

async fn health(
    State(state): State<StateHandle>,
    Extension(objection): Extension<Objection>,
) -> impl IntoResponse {
    let handle = state;
    let state = handle.now();
    let (code, status) = if state.is_healthy() {
        (StatusCode::OK, "healthy")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "unhealthy")
    };
    if code != StatusCode::OK && state.departure.is_some() && !state.is_refusal_seen {
        handle.update(|state| state.is_refusal_seen = state.departure.is_some());
    }
    let details = || {
        let (doing, quorum) = (on_one_line(&state.describe()).into_owned(), state.quorum_lost());
        Details { phase: state.phase.as_str(), doing, quorum }
    };
    let body = Health { status, details: objection.0.is_none().then(details) };
    (code, [(header::CACHE_CONTROL, "no-store")], Json(body))
}

async fn show_metrics(State(state): State<StateHandle>, headers: HeaderMap) -> impl IntoResponse {
    let (content_type, page) = metrics::page(&state.now(), &headers);
    ([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-store")], page)
}
