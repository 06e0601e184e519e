//! The page `GET /ui` of a manager's health port: the whole fleet, drawn live by a browser that polls
//! `GET /ui/fleet.json`. A node that is no manager answers 404 with the reason.
//!
//! Guarantees:
//! - a request is answered only if its address, and every address that a proxy forwards, is private, and only
//!   under a host name that no attacker can point to this node ([`crate::api::guard`]);
//! - nothing can be changed: only `GET` exists;
//! - for any number of viewers, Docker and the ledger are asked at most once a second ([`fleet`]);
//! - the page sends requests to this node only, and runs only its own code (its Content-Security-Policy).

mod fleet;

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, middleware};

use crate::api::guard;
use crate::node::Node;
use fleet::{Desk, Seen};

const NOT_A_MANAGER: &str = "This page is on managers only, and this node is not a manager at present; `skep status` shows its state.\n";

/// The page may load its own style and script and send requests to its own address, and nothing else.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
    img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Headers of every answer below `/ui`.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Returns the routes at `/ui` and below; `node` returns `None` until the identity of this node is known.
pub fn router(node: impl Fn() -> Option<Node> + Send + Sync + 'static) -> Router {
    const CSS: &str = "text/css; charset=utf-8";
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    let file = |kind, text: &'static str| {
        get(move || std::future::ready(([(header::CONTENT_TYPE, kind)], text)))
    };
    Router::new()
        .route("/ui", get(page))
        .route("/ui/fleet.json", get(fleet_as_json))
        .route("/ui/page.css", file(CSS, include_str!("page.css")))
        .route("/ui/theme.js", file(SCRIPT, include_str!("theme.js")))
        .route("/ui/words.js", file(SCRIPT, include_str!("words.js")))
        .route("/ui/find.js", file(SCRIPT, include_str!("find.js")))
        .route("/ui/draw.js", file(SCRIPT, include_str!("draw.js")))
        .route("/ui/services.js", file(SCRIPT, include_str!("services.js")))
        .route("/ui/page.js", file(SCRIPT, include_str!("page.js")))
        .layer(middleware::from_fn(guard::admit))
        .layer(middleware::map_response(async |answer: Response| (HEADERS, answer)))
        .with_state(Arc::new(Desk::new(node)))
}

async fn page(State(desk): State<Arc<Desk>>) -> Response {
    const HTML: &str = "text/html; charset=utf-8";
    match desk.look().await {
        Some(_) => ([(header::CONTENT_TYPE, HTML)], include_str!("page.html")).into_response(),
        None => (StatusCode::NOT_FOUND, NOT_A_MANAGER).into_response(),
    }
}

async fn fleet_as_json(State(desk): State<Arc<Desk>>) -> Response {
    match desk.look().await {
        Some(Seen { json, age }) => {
            let age = age.as_secs().to_string();
            let headers = [(header::CONTENT_TYPE, "application/json"), (header::AGE, age.as_str())];
            (headers, json).into_response()
        }
        None => (StatusCode::NOT_FOUND, NOT_A_MANAGER).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::HOST;

    use super::*;
    use crate::api::health::Server;
    use crate::common::state::StateHandle;
    use crate::config::Settings;

    async fn ask(path: &str, host: &str) -> (u16, String, String) {
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let base = format!("http://{}", server.local_addr().unwrap());
        let settings = Settings::default().health;
        let serving = tokio::spawn(server.serve(StateHandle::default(), settings, router(|| None)));
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.get(format!("{base}{path}")).header(HOST, host).send().await.unwrap();
        let policy = answer.headers().get(header::CONTENT_SECURITY_POLICY);
        let policy = policy.map(|it| it.to_str().unwrap().to_owned()).unwrap_or_default();
        let answer = (answer.status().as_u16(), policy, answer.text().await.unwrap());
        serving.abort();
        answer
    }

    #[tokio::test]
    async fn a_node_that_is_no_manager_says_so() {
        for path in ["/ui", "/ui/fleet.json"] {
            let expected = (404, POLICY.to_owned(), NOT_A_MANAGER.to_owned());
            assert_eq!(ask(path, "127.0.0.1").await, expected, "{path}");
        }
        let (code, _, script) = ask("/ui/page.js", "localhost:1").await;
        assert!(code == 200 && script == include_str!("page.js"));
    }

    /// The policy forbids scripts and styles within the page, which a browser would drop without a word to the reader.
    #[tokio::test]
    async fn each_file_of_the_page_is_served_and_none_is_inline() {
        let html = include_str!("page.html");
        let files: Vec<&str> = html
            .split(['"'])
            .filter(|text| text.starts_with("ui/") && !text.ends_with(".json"))
            .collect();
        assert!(files.len() > 3, "{files:?}");
        for file in files {
            assert_eq!(ask(&format!("/{file}"), "localhost").await.0, 200, "{file}");
        }
        for inline in ["<style", "style=", "onclick", "<script>"] {
            assert!(!html.contains(inline), "{inline}");
        }
    }

    #[tokio::test]
    async fn the_name_of_somebody_else_is_refused() {
        for path in ["/ui", "/ui/fleet.json", "/ui/page.js"] {
            assert_eq!(ask(path, "evil.example").await.0, 403, "{path}");
        }
    }
}
