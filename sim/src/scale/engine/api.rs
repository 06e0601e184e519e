//! Answers the requests of the Engine API.

use std::net::Ipv4Addr;

use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};

use super::refusal::Refusal;
use super::{Engines, pace, views};

/// Longest body: a spec.
const LARGEST_BODY: usize = 1 << 20;

/// A request below the version in its path.
struct Call {
    method: Method,
    path: String,
    query: String,
    body: Value,
}

impl Call {
    fn query(&self, name: &str) -> Option<String> {
        let pairs = form_urlencoded::parse(self.query.as_bytes());
        pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    fn flag(&self, name: &str) -> bool {
        self.query(name).is_some_and(|value| value == "true" || value == "1")
    }

    fn version(&self) -> u64 {
        self.query("version").and_then(|version| version.parse().ok()).unwrap_or_default()
    }
}

impl Engines {
    pub(super) async fn answer(&self, address: Ipv4Addr, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let Ok(body) = axum::body::to_bytes(body, LARGEST_BODY).await else {
            return respond(400, json!({ "message": "unreadable body" }).to_string());
        };
        let (version, path) = split_version(parts.uri.path());
        let call = Call {
            method: parts.method,
            path: path.to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            body: serde_json::from_slice(&body).unwrap_or_default(),
        };
        let answered = match refused_version(version) {
            Some(refusal) => Err(refusal),
            None => self.dispatch(address, &call).await,
        };
        match answered {
            Ok(body) => respond(200, body),
            Err(Refusal { status, message }) => {
                respond(status, json!({ "message": message }).to_string())
            }
        }
    }

    async fn dispatch(&self, address: Ipv4Addr, call: &Call) -> Result<String, Refusal> {
        let done = |()| String::new();
        let path: Vec<&str> = call.path.trim_matches('/').split('/').collect();
        match (call.method.as_str(), path.as_slice()) {
            ("GET", ["_ping"]) => Ok("OK".to_owned()),
            ("GET", ["version"]) => Ok(views::version().to_string()),
            ("GET", ["info"]) => {
                let world = self.world();
                Ok(views::info(&world, world.host(address)?).to_string())
            }
            ("POST", ["swarm", "init"]) => self.init(address, &call.body).await,
            ("POST", ["swarm", "join"]) => self.join(address, &call.body).await.map(done),
            ("POST", ["swarm", "leave"]) => self.leave(address, call.flag("force")).await.map(done),
            ("POST", ["swarm", "unlock"]) => Err(Refusal::not_locked()),
            ("GET", ["swarm", "unlockkey"]) => {
                self.world().served_by(address)?;
                Ok(json!({ "UnlockKey": "" }).to_string())
            }
            ("GET", ["swarm"]) => Ok(views::object(self.world().served_by(address)?).to_string()),
            ("POST", ["swarm", "update"]) => {
                let rotated =
                    ["rotateWorkerToken", "rotateManagerToken"].map(|flag| call.flag(flag));
                self.respecify(address, call.version(), call.body.clone(), rotated).await.map(done)
            }
            ("GET", ["nodes"]) => {
                let count = self.world().served_by(address)?.nodes.len();
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                tokio::time::sleep(pace::LIST_PER_NODE * count).await;
                Ok(views::list(self.world().served_by(address)?))
            }
            ("GET", ["nodes", id]) => views::inspect(self.world().served_by(address)?, id),
            ("POST", ["nodes", id, "update"]) => {
                self.update(address, id, call.version(), call.body.clone()).await.map(done)
            }
            ("DELETE", ["nodes", id]) => {
                let deleted = |engines: &Self| {
                    engines.world().served_by(address)?.delete(id, call.flag("force"))
                };
                self.world().served_by(address)?;
                self.shared.leader.serve(pace::WRITE).await;
                deleted(self).map(done)
            }
            // Of the swarm: managers only.
            ("GET", ["tasks" | "services"]) => {
                self.world().served_by(address)?;
                Ok("[]".to_owned())
            }
            ("GET", ["containers" | "images", "json"] | ["networks"]) => Ok("[]".to_owned()),
            ("GET", ["volumes"]) => Ok(json!({ "Volumes": [] }).to_string()),
            _ => Err(Refusal::page_not_found()),
        }
    }
}

/// `/v1.41/info` is `/info` in version 1.41.
fn split_version(path: &str) -> (Option<(u32, u32)>, &str) {
    let versioned = path.strip_prefix("/v").and_then(|rest| {
        let (version, _) = rest.split_once('/')?;
        let (major, minor) = version.split_once('.')?;
        Some(((major.parse().ok()?, minor.parse().ok()?), &rest[version.len()..]))
    });
    versioned.map_or((None, path), |(version, path)| (Some(version), path))
}

fn refused_version(version: Option<(u32, u32)>) -> Option<Refusal> {
    let version = version?;
    let (newest, oldest) = (views::NEWEST_API, views::OLDEST_API);
    if version > newest {
        Some(Refusal::too_new(&views::text(version), &views::text(newest)))
    } else {
        (version < oldest).then(|| Refusal::too_old(&views::text(version), &views::text(oldest)))
    }
}

fn respond(status: u16, body: String) -> Response<Body> {
    let response = Response::builder()
        .status(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
        .header(header::CONTENT_TYPE, "application/json");
    // All parts are valid, so building cannot fail.
    response.body(Body::from(body)).unwrap_or_default()
}
