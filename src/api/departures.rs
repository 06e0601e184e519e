//! Takes hints on the health port: `POST /departures/<instance-id>` says that this instance has just written a request to
//! leave to the ledger. A manager then reads that row at once; see [`DepartureHints`](crate::node::DepartureHints).
//!
//! Guarantee: a hint changes nothing. Whatever is sent causes at most two polls for departures a second while none is
//! under way.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Router, middleware};

use super::guard;
use crate::node::{DEPARTURES_PATH, Node};

/// Returns the route; `node` returns `None` until the identity of this node is known.
pub fn router(node: impl Fn() -> Option<Node> + Send + Sync + 'static) -> Router {
    let hint = async |State(node): State<Arc<dyn Fn() -> Option<Node> + Send + Sync>>,
                      Path(instance): Path<String>| {
        match node() {
            Some(node) => {
                node.departure_hints.give(&instance);
                StatusCode::ACCEPTED
            }
            None => StatusCode::SERVICE_UNAVAILABLE,
        }
    };
    Router::new()
        .route(&format!("{DEPARTURES_PATH}{{instance}}"), post(hint))
        .layer(middleware::from_fn(guard::admit))
        .with_state(Arc::new(node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::health::Server;
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::tests::fake_engine::{FakeEngine, RELEASES};
    use crate::common::state::StateHandle;
    use crate::config::Settings;

    fn serve(node: Option<Node>) -> String {
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}", server.local_addr().unwrap());
        let routes = router(move || node.clone());
        tokio::spawn(server.serve(StateHandle::default(), Settings::default().health, routes));
        url
    }

    async fn tell(url: &str, host: &str) -> StatusCode {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.post(format!("{url}{DEPARTURES_PATH}i-0def")).header("host", host);
        request.send().await.unwrap().status()
    }

    #[tokio::test]
    async fn a_hint_is_kept_for_the_next_read_of_a_node_that_is_known() {
        let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
        let node = Node::example(engine.swarm(), &stub).await;
        let url = serve(Some(node.clone()));
        assert_eq!(tell(&url, "evil.example").await, StatusCode::FORBIDDEN);
        assert!(node.departure_hints.take().is_empty());
        assert_eq!(tell(&url, "127.0.0.1").await, StatusCode::ACCEPTED);
        node.departure_hints.given().await;
        assert_eq!(node.departure_hints.take(), ["i-0def".to_owned()].into());
        let early = serve(None);
        assert_eq!(tell(&early, "127.0.0.1").await, StatusCode::SERVICE_UNAVAILABLE);
        let get = reqwest::get(format!("{url}{DEPARTURES_PATH}i-0def")).await.unwrap();
        assert_eq!(get.status(), StatusCode::NOT_FOUND);
    }
}
