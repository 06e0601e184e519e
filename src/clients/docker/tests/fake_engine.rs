//! A Docker Engine for tests: HTTP on a socket, API versions enforced as by `VersionMiddleware` of moby
//! (`daemon/server/middleware/version.go`), and one node that can join and leave a swarm.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixListener;

use crate::clients::docker::Swarm;

/// An engine's name, and the newest and the oldest API version that it supports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Release {
    pub(crate) name: &'static str,
    pub(crate) newest: &'static str,
    pub(crate) oldest: &'static str,
}

/// From the "API version matrix" of Docker's documentation.
pub(crate) const RELEASES: [Release; 7] = [
    release("20.10", "1.41", "1.12"),
    release("24.0", "1.43", "1.12"),
    release("27.5", "1.47", "1.24"),
    release("28.5", "1.51", "1.24"),
    release("29.0", "1.52", "1.44"),
    release("29.2", "1.53", "1.44"),
    release("29.3", "1.54", "1.40"),
];

pub(crate) const fn release(
    name: &'static str,
    newest: &'static str,
    oldest: &'static str,
) -> Release {
    Release { name, newest, oldest }
}

/// A request that the engine received, whether it accepted it or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The version in the path.
    pub(crate) version: Option<String>,
    /// Method, path below the version, and query.
    pub(crate) what: String,
    pub(crate) body: Value,
}

/// The answer of a path in place of the engine's usual one.
#[derive(Clone, Copy)]
pub(crate) enum Instead {
    /// Status and message.
    Refusal(u16, &'static str),
    /// JSON.
    Answer(&'static str),
    Silence,
}

pub(crate) struct Engine {
    pub(crate) release: Release,
    pub(crate) asked: Vec<Asked>,
    /// Completed changes, named like [`Asked::what`] without a query; reads are not listed.
    pub(crate) done: Vec<String>,
    /// Answers by path below the version, such as `/swarm/join`.
    pub(crate) instead: BTreeMap<&'static str, Instead>,
    pub(crate) service_spec: Value,
    /// The answer to `GET /tasks`.
    pub(crate) tasks: Value,
    /// `RemoteManagers` of `/info`.
    pub(crate) managers: Value,
    is_in_swarm: bool,
    pub(crate) node_spec: Value,
    /// Version index of both objects.
    index: u64,
}

pub(crate) struct FakeEngine {
    dir: TempDir,
    engine: Arc<Mutex<Engine>>,
}

impl FakeEngine {
    pub(crate) fn start(release: Release) -> Self {
        let engine = Engine {
            release,
            asked: vec![],
            done: vec![],
            instead: BTreeMap::new(),
            // `Later` stands for a field that an older API version does not have.
            service_spec: json!({ "Name": "web", "TaskTemplate": { "Later": 7 } }),
            tasks: json!([]),
            managers: json!([{ "NodeID": "n1", "Addr": "10.0.0.1:2377" }]),
            is_in_swarm: false,
            node_spec: json!({ "Role": "manager", "Availability": "active" }),
            index: 12,
        };
        let engine = Arc::new(Mutex::new(engine));
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("docker.sock")).unwrap();
        let app = Router::new().fallback(answer).with_state(Arc::clone(&engine));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { dir, engine }
    }

    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.dir.path().join("docker.sock").display())
    }

    pub(crate) fn swarm(&self) -> Swarm {
        Swarm::new(self.host())
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap()
    }

    /// Lets another engine serve the socket from now on, with the same swarm.
    pub(crate) fn replace(&self, release: Release) {
        self.lock().release = release;
    }

    /// Returns the last request with this method and path, whatever its query.
    pub(crate) fn last(&self, what: &str) -> Asked {
        let engine = self.lock();
        let found = engine.asked.iter().rev().find(|asked| without_query(&asked.what) == what);
        found.unwrap_or_else(|| panic!("no {what} among {:?}", engine.asked)).clone()
    }
}

async fn answer(State(engine): State<Arc<Mutex<Engine>>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let uri = parts.uri.path_and_query().unwrap().as_str();
    let (version, path) = split_version(uri);
    let what = format!("{} {path}", parts.method);
    let instead = {
        let mut engine = engine.lock().unwrap();
        engine.asked.push(Asked { version: version.map(str::to_owned), what, body: body.clone() });
        if let Some(refusal) = engine.version_refusal(version) {
            return respond(400, &json!({ "message": refusal }));
        }
        engine.instead.get(without_query(path)).copied()
    };
    match instead {
        Some(Instead::Silence) => std::future::pending().await,
        Some(Instead::Refusal(status, message)) => respond(status, &json!({ "message": message })),
        Some(Instead::Answer(json)) => respond(200, &serde_json::from_str(json).unwrap()),
        None => {
            let version = version.map(str::to_owned);
            let (status, answer) =
                engine.lock().unwrap().serve(&parts.method, path, version.as_deref(), body);
            respond(status, &answer)
        }
    }
}

/// `/v1.41/info` is `/info` in version 1.41.
fn split_version(uri: &str) -> (Option<&str>, &str) {
    let versioned = uri.strip_prefix("/v").and_then(|rest| {
        let end = rest.find('/')?;
        let (version, path) = rest.split_at(end);
        version.contains('.').then_some((version, path))
    });
    versioned.map_or((None, uri), |(version, path)| (Some(version), path))
}

fn without_query(path: &str) -> &str {
    path.split_once('?').map_or(path, |(path, _)| path)
}

fn numbers(version: &str) -> (u32, u32) {
    let (major, minor) = version.split_once('.').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}

impl Engine {
    /// Returns Docker's refusal, word for word.
    fn version_refusal(&self, version: Option<&str>) -> Option<String> {
        let Release { newest, oldest, .. } = self.release;
        let version = version.unwrap_or(newest);
        if numbers(version) < numbers(oldest) {
            return Some(format!(
                "client version {version} is too old. Minimum supported API version is {oldest}, please upgrade your client to a newer version"
            ));
        }
        (numbers(version) > numbers(newest)).then(|| {
            format!(
                "client version {version} is too new. Maximum supported API version is {newest}"
            )
        })
    }

    fn serve(
        &mut self,
        method: &Method,
        path: &str,
        version: Option<&str>,
        body: Value,
    ) -> (u16, Value) {
        let what = format!("{method} {}", without_query(path));
        let refuse = |status, message: &str| (status, json!({ "message": message }));
        let is_current = path.ends_with(&format!("?version={}", self.index));
        let answer = match what.as_str() {
            "GET /version" => self.version(),
            "GET /info" => self.info(),
            "GET /nodes" => json!([self.node()]),
            "GET /nodes/n1" => self.node(),
            "GET /services" => json!([self.service()]),
            "GET /containers/json" | "GET /images/json" => json!([]),
            "GET /tasks" => self.tasks.clone(),
            "POST /swarm/init" | "POST /swarm/join" if self.is_in_swarm => {
                return refuse(503, "This node is already part of a swarm.");
            }
            "POST /swarm/init" | "POST /swarm/join" => {
                self.is_in_swarm = true;
                json!("n1")
            }
            "POST /swarm/leave" if !self.is_in_swarm => {
                return refuse(503, "This node is not part of a swarm");
            }
            "POST /swarm/leave" => {
                self.is_in_swarm = false;
                Value::Null
            }
            "POST /swarm/unlock" => return refuse(409, "swarm is not locked"),
            "POST /nodes/n1/update" | "POST /services/s1/update" if !is_current => {
                return refuse(500, "rpc error: code = Unknown desc = update out of sequence");
            }
            "POST /nodes/n1/update"
                if !["active", "pause", "drain"].iter().any(|it| body["Availability"] == *it) =>
            {
                return refuse(400, "invalid Availability");
            }
            "POST /nodes/n1/update" => {
                self.node_spec = body;
                Value::Null
            }
            "POST /services/s1/update" => {
                self.service_spec = body;
                if version.is_some_and(|version| numbers(version) < numbers(self.release.newest)) {
                    self.service_spec["TaskTemplate"]["Later"] = Value::Null;
                }
                Value::Null
            }
            _ => return refuse(404, "page not found"),
        };
        if method != Method::GET {
            self.index += 1;
            self.done.push(what);
        }
        (200, answer)
    }

    fn version(&self) -> Value {
        let Release { name, newest, oldest } = self.release;
        json!({ "Version": name, "ApiVersion": newest, "MinAPIVersion": oldest })
    }

    fn info(&self) -> Value {
        let swarm = if self.is_in_swarm {
            json!({
                "LocalNodeState": "active", "NodeID": "n1", "NodeAddr": "10.0.0.1",
                "ControlAvailable": true, "Cluster": { "ID": "c1" },
                "RemoteManagers": self.managers,
            })
        } else {
            json!({ "LocalNodeState": "inactive", "NodeID": "" })
        };
        json!({ "ServerVersion": self.release.name, "Swarm": swarm })
    }

    fn node(&self) -> Value {
        json!({ "ID": "n1", "Version": { "Index": self.index }, "Spec": self.node_spec })
    }

    fn service(&self) -> Value {
        json!({
            "ID": "s1",
            "Version": { "Index": self.index },
            "CreatedAt": "2026-11-21T10:00:00Z",
            "UpdatedAt": "2026-11-21T10:00:00Z",
            "Spec": self.service_spec,
        })
    }
}

fn respond(status: u16, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}
