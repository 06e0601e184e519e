//! Tells the managers that this node has written its departure row. They poll the ledger too, but more slowly.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;

use crate::common::errors::chain;
use crate::node::{DEPARTURES_PATH, Node};

/// Managers of one network answer within milliseconds. A security group that does not admit the request drops it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends the hint to these managers, in the background. A hint that does not arrive costs the time until the managers'
/// next poll.
pub fn tell(node: &Node, managers: &[IpAddr]) {
    let health = &node.settings.health;
    if !health.enabled {
        return;
    }
    // All nodes of a cluster have the same health port.
    let port = health.listen.port();
    let others = managers.iter().filter(|address| **address != node.address);
    let urls = others.map(|address| {
        let address = SocketAddr::new(*address, port);
        format!("http://{address}{DEPARTURES_PATH}{}", node.instance.id)
    });
    let urls: Vec<String> = urls.collect();
    tokio::spawn(async { join_all(urls.into_iter().map(post)).await });
}

async fn post(url: String) {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build();
    let told = async { client?.post(url).send().await?.error_for_status() };
    if let Err(error) = told.await {
        tracing::debug!("a manager was not told of this departure: {}", chain(&error));
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::{StatusCode, Uri};
    use axum::routing::post;
    use tokio::sync::mpsc;

    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::tests::fake_engine::{FakeEngine, RELEASES};

    #[tokio::test]
    async fn every_manager_is_told_but_not_this_node() {
        let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
        let mut node = Node::example(engine.swarm(), &stub).await;
        let (told, mut seen) = mpsc::unbounded_channel();
        let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = Router::new().fallback(post(async move |uri: Uri| {
            told.send(uri.to_string()).unwrap();
            StatusCode::ACCEPTED
        }));
        tokio::spawn(async { axum::serve(listener, app).await });
        let managers = [1, 2, 3].map(|n| IpAddr::from([127, 0, 0, n]));
        node.address = [127, 0, 0, 1].into();
        node.settings.health.listen.set_port(port);
        node.settings.health.enabled = false;
        tell(&node, &managers);
        node.settings.health.enabled = true;
        tell(&node, &managers);
        for _ in 0..2 {
            assert_eq!(seen.recv().await.unwrap(), "/departures/i-0abc");
        }
        assert!(seen.try_recv().is_err(), "nobody else");
    }
}
