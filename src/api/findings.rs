//! Answers managers that ask for this node's findings: `GET /findings`. The checks are those of `skep doctor`.
//!
//! Guarantees:
//! - only hosts that Docker, or without its answer the ledger, names as managers get an answer: the findings show which
//!   permissions a node has, and the checks cost calls to AWS;
//! - the checks run only when a manager asks, and not again within [`KEPT_FOR`], however many requests come. Who the
//!   managers are is asked at most once in [`MANAGERS_KEPT_FOR`];
//! - every request is answered at once: with 202 while the checks run, so that no connection waits for them.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::extract::{ConnectInfo, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::{Router, middleware};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::guard;
use crate::node::Node;

/// Path of the findings on the health port.
pub const PATH: &str = "/findings";
/// How long findings are shown before the checks run again. A run has about 30 calls to AWS, some of them of APIs whose
/// limits the whole account shares.
pub const KEPT_FOR: Duration = Duration::from_secs(60);
/// How long the managers' addresses are kept: a new manager asks again.
const MANAGERS_KEPT_FOR: Duration = Duration::from_secs(10);
/// Docker answers within milliseconds, unless it hangs.
const DOCKER_PATIENCE: Duration = Duration::from_secs(2);
/// The ledger answers within milliseconds; a connection of the health port ends after 10 s.
const LEDGER_PATIENCE: Duration = Duration::from_secs(4);
/// Time limit for all checks together: each group has a shorter one of its own.
pub const RUN_PATIENCE: Duration = Duration::from_secs(60);

/// Runs the checks.
type Examine = dyn Fn() -> BoxFuture<'static, Value> + Send + Sync;

struct Desk {
    node: Box<dyn Fn() -> Option<Node> + Send + Sync>,
    examine: Arc<Examine>,
    latest: Arc<std::sync::Mutex<Latest>>,
    managers: Mutex<Option<(Instant, Vec<IpAddr>)>>,
}

/// The last run of the checks.
#[derive(Default)]
struct Latest {
    is_running: bool,
    /// Time of its end, and the findings; without findings where it did not end in time.
    ended: Option<(Instant, Option<Value>)>,
}

/// Returns the route. `node` returns `None` until the identity of this node is known; `examine` runs the checks, and
/// returns them as `skep doctor --json` prints them.
pub fn router(
    node: impl Fn() -> Option<Node> + Send + Sync + 'static,
    examine: impl Fn() -> BoxFuture<'static, Value> + Send + Sync + 'static,
) -> Router {
    let desk = Desk {
        node: Box::new(node),
        examine: Arc::new(examine),
        latest: Arc::default(),
        managers: Mutex::default(),
    };
    Router::new()
        .route(PATH, get(answer))
        .layer(middleware::from_fn(guard::admit))
        .with_state(Arc::new(desk))
}

async fn answer(
    State(desk): State<Arc<Desk>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
) -> Response {
    let Some(node) = (desk.node)() else {
        let why = "the identity of this node is not known yet";
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response();
    };
    let managers = desk.managers(&node).await;
    if managers.is_empty() {
        let why = "neither Docker nor the ledger names the managers";
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response();
    }
    if !managers.contains(&peer.ip().to_canonical()) {
        let why = "the findings are for managers of the swarm only";
        return (StatusCode::FORBIDDEN, format!("{why}\n")).into_response();
    }
    ([(header::CACHE_CONTROL, "no-store")], desk.look()).into_response()
}

impl Desk {
    /// Returns the managers' addresses; none if nobody names them.
    async fn managers(&self, node: &Node) -> Vec<IpAddr> {
        // Held during the requests, so that there is one at a time.
        let mut kept = self.managers.lock().await;
        if let Some((_, managers)) = kept.as_ref().filter(|it| it.0.elapsed() < MANAGERS_KEPT_FOR) {
            return managers.clone();
        }
        let managers = fetch_managers(node).await;
        *kept = Some((Instant::now(), managers.clone()));
        managers
    }

    /// Returns the findings, if they are new enough; else starts the checks, unless they run.
    fn look(&self) -> Response {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        match &latest.ended {
            Some((at, findings)) if at.elapsed() < KEPT_FOR => match findings {
                Some(findings) => {
                    let age_seconds = at.elapsed().as_secs();
                    let mut body = findings.clone();
                    body["age_seconds"] = json!(age_seconds);
                    Json(body).into_response()
                }
                None => {
                    let why = format!("the checks did not end within {RUN_PATIENCE:?}");
                    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
                }
            },
            _ => {
                if !latest.is_running {
                    latest.is_running = true;
                    self.run();
                }
                (StatusCode::ACCEPTED, Json(json!({ "running": true }))).into_response()
            }
        }
    }

    /// Starts the checks in the background: whoever has asked may be gone before their end.
    fn run(&self) {
        let (run, latest) = ((self.examine)(), Arc::clone(&self.latest));
        tokio::spawn(async move {
            let findings = timeout(RUN_PATIENCE, run).await.ok();
            let mut latest = latest.lock().unwrap_or_else(PoisonError::into_inner);
            *latest = Latest { is_running: false, ended: Some((Instant::now(), findings)) };
        });
    }
}

/// Asks Docker; without its answer, for example because it hangs, the ledger.
async fn fetch_managers(node: &Node) -> Vec<IpAddr> {
    let local = timeout(DOCKER_PATIENCE, node.swarm.fetch_local_node()).await;
    let managers = local.ok().and_then(Result::ok).map(|local| local.managers);
    if let Some(managers) = managers.filter(|managers| !managers.is_empty()) {
        return managers;
    }
    let rows = timeout(LEDGER_PATIENCE, node.ledger.fetch_managers()).await;
    let rows = rows.ok().and_then(Result::ok).unwrap_or_default();
    rows.into_iter().map(|row| row.address).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::api::health::Server;
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::Swarm;
    use crate::clients::docker::tests::fake_engine::{FakeEngine, Instead, RELEASES};
    use crate::common::state::StateHandle;
    use crate::config::Settings;

    /// Serves the route on a port of its own. Counts the runs of the checks.
    fn serve(node: Option<Node>) -> (String, Arc<AtomicUsize>) {
        let runs = Arc::new(AtomicUsize::new(0));
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}{PATH}", server.local_addr().unwrap());
        let counted = Arc::clone(&runs);
        let routes = router(
            move || node.clone(),
            move || {
                counted.fetch_add(1, Ordering::SeqCst);
                Box::pin(async {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    json!({ "worst": "ok", "findings": [] })
                })
            },
        );
        tokio::spawn(server.serve(StateHandle::default(), Settings::default().health, routes));
        (url, runs)
    }

    async fn ask(url: &str, host: Option<&str>) -> (StatusCode, String) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut request = client.get(url);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let answer = request.send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    /// `/info` of a manager whose swarm has this host as its only manager.
    const OWN: &str = r#"{ "Swarm": { "LocalNodeState": "active", "NodeID": "n1", "NodeAddr": "127.0.0.1",
        "ControlAvailable": true, "Cluster": { "ID": "c1" },
        "RemoteManagers": [{ "NodeID": "n1", "Addr": "127.0.0.1:2377" }] } }"#;
    /// The same where another host is the manager.
    const ANOTHER: &str = r#"{ "Swarm": { "LocalNodeState": "active", "NodeID": "n1", "NodeAddr": "127.0.0.1",
        "ControlAvailable": true, "Cluster": { "ID": "c1" },
        "RemoteManagers": [{ "NodeID": "n2", "Addr": "10.0.0.1:2377" }] } }"#;

    fn in_a_swarm(info: &'static str) -> FakeEngine {
        let engine = FakeEngine::start(RELEASES[0]);
        engine.lock().instead.insert("/info", Instead::Answer(info));
        engine
    }

    #[tokio::test]
    async fn the_checks_run_once_for_managers_however_many_requests_come() {
        let stub = Stub::start().await;
        let engine = in_a_swarm(OWN);
        let (url, runs) = serve(Some(Node::example(engine.swarm(), &stub).await));
        for _ in 0..5 {
            assert_eq!(ask(&url, None).await.0, StatusCode::ACCEPTED);
        }
        let findings = async {
            loop {
                let (code, body) = ask(&url, None).await;
                if code == StatusCode::OK {
                    return body;
                }
                assert_eq!(code, StatusCode::ACCEPTED);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let body = timeout(Duration::from_secs(30), findings).await.unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body, json!({ "worst": "ok", "findings": [], "age_seconds": 0 }));
        for _ in 0..5 {
            assert_eq!(ask(&url, None).await.0, StatusCode::OK);
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn nobody_but_a_manager_starts_the_checks() {
        let stub = Stub::start().await;
        let engine = in_a_swarm(ANOTHER);
        let (url, runs) = serve(Some(Node::example(engine.swarm(), &stub).await));
        let (code, why) = ask(&url, None).await;
        assert_eq!(code, StatusCode::FORBIDDEN);
        assert_eq!(why, "the findings are for managers of the swarm only\n");
        assert_eq!(ask(&url, Some("evil.example")).await.0, StatusCode::FORBIDDEN);
        let silent = Node::example(Swarm::new("unix:///nowhere"), &stub).await;
        let (unknown, _) = serve(Some(silent));
        assert_eq!(ask(&unknown, None).await.0, StatusCode::SERVICE_UNAVAILABLE);
        let (early, _) = serve(None);
        assert_eq!(ask(&early, None).await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(runs.load(Ordering::SeqCst), 0);
    }
}
