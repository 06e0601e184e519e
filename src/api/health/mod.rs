//! The health port, for a load balancer: `GET /` answers 200 while this node can take traffic, and
//! 503 otherwise, with one line of JSON that contains the reason.
//!
//! Guarantee: the answer depends only on this node's own state. A lost quorum or an AWS outage does not
//! change it, even after a restart of skep: a load balancer that replaces nodes must never kill managers
//! because of a problem that replacing them does not cure.
//!
//! `GET /metrics` is for Prometheus, unless the settings disable it. `GET /ui` is a page, if the
//! settings enable it; see [`crate::api::ui`]. Everything else is 404.

use std::io;
use std::net::{SocketAddr, TcpListener};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use serde::Serialize;

use crate::common::state::StateHandle;
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
    listener: tokio::net::TcpListener,
}

/// The body of the answer to `GET /`.
#[derive(Serialize)]
struct Health {
    /// `healthy` or `unhealthy`, the same as the status code.
    status: &'static str,
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
            let listener = TcpListener::bind(listen)?;
            listener.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(listener)
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

    /// Answers requests until it is dropped: spawn it.
    pub async fn serve(self, state: StateHandle, with_metrics: bool, page: Option<Router>) {
        let not_found = async || StatusCode::NOT_FOUND;
        let mut app = Router::new().route("/", get(health));
        if with_metrics {
            app = app.route("/metrics", get(show_metrics));
        }
        let app = app.with_state(state).merge(page.unwrap_or_default());
        let app = app.fallback(not_found).method_not_allowed_fallback(not_found);
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        if let Err(error) = axum::serve(self.listener, app).await {
            tracing::error!("the health port has failed: {error}");
        }
    }
}

async fn health(State(state): State<StateHandle>) -> impl IntoResponse {
    let state = state.now();
    let (code, status) = if state.is_healthy() {
        (StatusCode::OK, "healthy")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "unhealthy")
    };
    let (doing, quorum) = (state.describe(), state.quorum_lost());
    let body = Health { status, phase: state.phase.as_str(), doing, quorum };
    (code, [(header::CACHE_CONTROL, "no-store")], Json(body))
}

async fn show_metrics(State(state): State<StateHandle>, headers: HeaderMap) -> impl IntoResponse {
    let (content_type, page) = metrics::page(&state.now(), &headers);
    ([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-store")], page)
}

#[cfg(test)]
mod tests {
    use reqwest::Method;
    use time::OffsetDateTime;

    use super::*;
    use crate::common::fact::Fact;
    use crate::common::instance::{Departure, Reason};
    use crate::common::state::Phase;

    fn start() -> (StateHandle, String) {
        start_with(true)
    }

    fn start_with(with_metrics: bool) -> (StateHandle, String) {
        let state = StateHandle::default();
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let base = format!("http://{}", server.local_addr().unwrap());
        tokio::spawn(server.serve(state.clone(), with_metrics, None));
        (state, base)
    }

    async fn ask(method: Method, uri: &str) -> (u16, String) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let response = client.request(method, uri).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    #[tokio::test]
    async fn it_is_healthy_while_ready_and_not_departing() {
        let (state, base) = start();
        let (code, body) = ask(Method::GET, &base).await;
        assert_eq!(code, 503);
        assert_eq!(
            body,
            r#"{"status":"unhealthy","phase":"starting","doing":"reading the instance metadata"}"#
        );
        state.enter(Phase::Ready, "worker of generation 1");
        let (code, body) = ask(Method::GET, &base).await;
        assert_eq!(code, 200);
        assert_eq!(
            body,
            r#"{"status":"healthy","phase":"ready","doing":"worker of generation 1"}"#
        );
        let now = OffsetDateTime::now_utc();
        state.set_quorum_lost(Some(now));
        let (code, body) = ask(Method::GET, &base).await;
        assert_eq!(code, 200, "replacing this manager would cure nothing");
        let seen: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(seen["quorum"].as_str(), state.now().quorum_lost().as_deref());
        state.set_quorum_lost(None);
        state.update(|state| {
            state.departure =
                Some(Departure { reason: Reason::Spot, noticed_at: now, deadline: now });
        });
        assert_eq!(ask(Method::GET, &base).await.0, 503, "departing, although still Ready");
        state.update(|state| (state.departure, state.is_given_up) = (None, true));
        assert_eq!(ask(Method::GET, &base).await.0, 503, "permanently broken, to be replaced");
    }

    #[tokio::test]
    async fn a_member_whose_skep_was_restarted_during_an_outage_stays_healthy() {
        let (state, base) = start();
        let waiting = "waiting for a manager to be connected";
        state.enter(Phase::Booting, waiting);
        assert_eq!(ask(Method::GET, &base).await.0, 503, "a node that has never served");
        for (known, expected) in [(Fact::Yes, 200), (Fact::No, 503), (Fact::Yes, 200)] {
            state.update(|state| state.is_still_member = known);
            assert_eq!(ask(Method::GET, &base).await.0, expected, "{known:?}");
        }
        let body = ask(Method::GET, &base).await.1;
        assert!(body.contains("cannot tell more yet") && body.contains(waiting), "{body}");
        assert!(!state.now().is_serving(), "the janitor does not run during boot");
        state.enter(Phase::Failed, "not in the swarm within boot.deadline");
        assert_eq!(ask(Method::GET, &base).await.0, 200, "the next start continues");
        let now = OffsetDateTime::now_utc();
        state.update(|state| {
            state.departure =
                Some(Departure { reason: Reason::Spot, noticed_at: now, deadline: now });
        });
        assert_eq!(ask(Method::GET, &base).await.0, 503, "departing");
        for phase in [Phase::Warmed, Phase::Leaving, Phase::Left] {
            state.update(|state| state.departure = None);
            state.enter(phase, "elsewhere");
            assert_eq!(ask(Method::GET, &base).await.0, 503, "{phase:?}");
        }
    }

    #[tokio::test]
    async fn head_is_answered_and_nothing_else_is_there() {
        let (state, base) = start();
        state.enter(Phase::Ready, "serving");
        assert_eq!(ask(Method::HEAD, &base).await, (200, String::new()));
        assert_eq!(ask(Method::POST, &base).await.0, 404);
        assert_eq!(ask(Method::GET, &format!("{base}/x")).await.0, 404);
        let (code, page) = ask(Method::GET, &format!("{base}/metrics")).await;
        assert_eq!(code, 200);
        assert!(page.contains("skep_phase{phase=\"ready\"} 1\n"), "{page}");
        let (_, without) = start_with(false);
        assert_eq!(ask(Method::GET, &format!("{without}/metrics")).await.0, 404);
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = taken.local_addr().unwrap();
        let error = Server::bind(listen).unwrap_err();
        assert!(error.to_string().contains(&listen.to_string()), "{error}");
    }
}
