//! Engines on sockets of their own, called as skep calls them.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::time::{Duration, Instant, sleep};

use super::Engines;

struct Bench {
    engines: Engines,
    dir: TempDir,
    /// The managers whose port 2377 was opened.
    opened: Arc<Mutex<Vec<Ipv4Addr>>>,
}

fn address(number: u8) -> Ipv4Addr {
    [10, 0, 0, number].into()
}

impl Bench {
    fn start(hosts: u8) -> Self {
        let opened: Arc<Mutex<Vec<Ipv4Addr>>> = Arc::default();
        let ports = Arc::clone(&opened);
        let open = Box::new(move |address| {
            ports.lock().unwrap().push(address);
            Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)
        });
        let engines = Engines::new(1, Handle::current(), open);
        let bench = Self { engines, dir: tempfile::tempdir().unwrap(), opened };
        for number in 1..=hosts {
            let socket = bench.socket(number);
            let root = bench.dir.path().join(number.to_string());
            bench.engines.start(address(number), &socket, &root).unwrap();
        }
        bench
    }

    fn socket(&self, number: u8) -> PathBuf {
        self.dir.path().join(format!("{number}.sock"))
    }

    async fn call(&self, host: u8, method: &str, path: &str, body: Value) -> (u16, Value) {
        let client = reqwest::Client::builder().unix_socket(self.socket(host)).no_proxy();
        let request = client
            .build()
            .unwrap()
            .request(method.parse().unwrap(), format!("http://docker/v1.41/{path}"));
        let answer = request.json(&body).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
    }

    async fn get(&self, host: u8, path: &str) -> Value {
        let (status, answer) = self.call(host, "GET", path, json!(null)).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Returns the text of a refusal.
    async fn refusal(&self, host: u8, method: &str, path: &str, body: Value) -> (u16, String) {
        let (status, answer) = self.call(host, method, path, body).await;
        assert!(status >= 400, "{path} was not refused");
        (status, answer["message"].as_str().unwrap().to_owned())
    }

    async fn init(&self, host: u8) {
        let spec = json!({ "Labels": { "skep.cluster": "bees" } });
        let request = json!({ "Availability": "active", "Spec": spec });
        assert_eq!(self.call(host, "POST", "swarm/init", request).await.0, 200);
    }

    async fn join_request(&self, role: &str) -> Value {
        let token = &self.get(1, "swarm").await["JoinTokens"][role];
        json!({ "RemoteAddrs": ["10.0.0.1:2377"], "JoinToken": token, "Availability": "pause" })
    }

    async fn join(&self, host: u8, role: &str) {
        let request = self.join_request(role).await;
        let (status, answer) = self.call(host, "POST", "swarm/join", request).await;
        assert_eq!(status, 200, "{answer}");
    }

    async fn node(&self, number: u8) -> Option<Value> {
        let nodes = self.get(1, "nodes").await;
        let own = address(number).to_string();
        nodes.as_array().unwrap().iter().find(|node| node["Status"]["Addr"] == own).cloned()
    }

    async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        let start = Instant::now();
        while !is_so().await {
            assert!(start.elapsed() < Duration::from_secs(60), "{what}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn a_swarm_is_founded_joined_and_left() {
    let bench = Bench::start(3);
    let (status, text) = bench.refusal(2, "GET", "nodes", json!(null)).await;
    assert!(status == 503 && text.contains("not a swarm manager"), "{text}");
    bench.init(1).await;
    let own = bench.get(1, "info").await;
    assert_eq!(own["Swarm"]["ControlAvailable"], true);
    let swarm = bench.get(1, "swarm").await;
    assert_eq!(own["Swarm"]["Cluster"]["ID"], swarm["ID"]);
    assert_eq!(swarm["Spec"]["Labels"]["skep.cluster"], "bees");
    bench.join(2, "Worker").await;
    bench.join(3, "Manager").await;
    assert_eq!(*bench.opened.lock().unwrap(), [address(1), address(3)]);
    bench.until("ready", async || bench.node(2).await.unwrap()["Status"]["State"] == "ready").await;
    let worker = bench.node(2).await.unwrap();
    assert_eq!(worker["Spec"]["Availability"], "pause");
    let own = bench.get(2, "info").await;
    assert_eq!(own["Swarm"]["NodeID"], worker["ID"]);
    assert_eq!(own["Swarm"]["RemoteManagers"].as_array().unwrap().len(), 2);
    let (_, text) = bench.refusal(2, "GET", "tasks", json!(null)).await;
    assert!(text.contains("Worker nodes can't be used"), "{text}");
    let (_, text) = bench.refusal(2, "POST", "swarm/join", json!({})).await;
    assert!(text.contains("already part of a swarm"), "{text}");
    let (_, text) = bench.refusal(3, "POST", "swarm/leave", json!(null)).await;
    assert!(text.contains("participating as a manager"), "{text}");

    assert_eq!(bench.call(2, "POST", "swarm/leave", json!(null)).await.0, 200);
    assert_eq!(bench.get(2, "info").await["Swarm"]["LocalNodeState"], "inactive");
    let path = format!("nodes/{}", worker["ID"].as_str().unwrap());
    let (status, text) = bench.refusal(1, "DELETE", &path, json!(null)).await;
    assert!(status == 400 && text.contains("is not down"), "{text}");
    assert_eq!(bench.call(1, "DELETE", &format!("{path}?force=true"), json!(null)).await.0, 200);
    assert_eq!(bench.refusal(1, "GET", &path, json!(null)).await.0, 404);
}

#[tokio::test]
async fn a_write_at_another_version_is_refused_and_a_spec_is_replaced() {
    let bench = Bench::start(2);
    bench.init(1).await;
    bench.join(2, "Worker").await;
    bench.until("ready", async || bench.node(2).await.unwrap()["Status"]["State"] == "ready").await;
    let node = bench.node(2).await.unwrap();
    let (id, version) = (node["ID"].as_str().unwrap(), &node["Version"]["Index"]);
    let path = format!("nodes/{id}/update?version={version}");
    let spec = json!({ "Role": "worker", "Availability": "drain", "Labels": { "a": "b" } });
    assert_eq!(bench.call(1, "POST", &path, spec.clone()).await.0, 200);
    assert_eq!(bench.node(2).await.unwrap()["Spec"], spec);
    let (status, text) = bench.refusal(1, "POST", &path, spec).await;
    assert!(status == 500 && text.contains("update out of sequence"), "{text}");
    let version = &bench.node(2).await.unwrap()["Version"]["Index"];
    let path = format!("nodes/{id}/update?version={version}");
    let (status, _) = bench.refusal(1, "POST", &path, json!({ "Availability": "drain" })).await;
    assert_eq!(status, 400, "a spec without a role");
}

#[tokio::test]
async fn a_manager_is_demoted_while_the_others_keep_a_quorum() {
    let bench = Bench::start(3);
    bench.init(1).await;
    let demote = async |number| {
        let node = bench.node(number).await.unwrap();
        let (id, version) = (node["ID"].as_str().unwrap(), &node["Version"]["Index"]);
        let mut spec = node["Spec"].clone();
        spec["Role"] = json!("worker");
        bench.call(1, "POST", &format!("nodes/{id}/update?version={version}"), spec).await
    };
    let (status, answer) = demote(1).await;
    assert!(status == 400 && answer.to_string().contains("last manager"), "{answer}");
    bench.join(2, "Manager").await;
    bench.join(3, "Manager").await;
    bench.until("ready", async || bench.node(2).await.unwrap()["Status"]["State"] == "ready").await;
    assert_eq!(demote(2).await.0, 200);
    let is_worker =
        async || bench.get(2, "info").await["Swarm"]["ControlAvailable"] == json!(false);
    bench.until("a worker", is_worker).await;
    assert!(bench.node(2).await.unwrap()["ManagerStatus"].is_null());
    bench.engines.power_off(address(3));
    let (status, answer) = bench.call(1, "GET", "nodes", json!(null)).await;
    assert!(status == 500 && answer.to_string().contains("does not have a leader"), "{answer}");
}

#[tokio::test]
async fn joins_are_refused_with_dockers_words() {
    let bench = Bench::start(4);
    bench.init(1).await;
    let good = bench.join_request("Worker").await;
    let token = good["JoinToken"].as_str().unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    let (status, text) =
        bench.refusal(2, "POST", "swarm/join", with(&|it| it["JoinToken"] = json!("x"))).await;
    assert!(status == 400 && text == "invalid join token", "{text}");
    let wrong = format!("{}{}", &token[..60], "a".repeat(25));
    let other_ca = token.replacen(&token[9..12], "zzz", 1);
    let refused = async |host: u8, request: Value, words: &str| {
        let (_, text) = bench.refusal(host, "POST", "swarm/join", request).await;
        assert!(text.contains(words), "{text}");
        assert_eq!(bench.get(host, "info").await["Swarm"]["LocalNodeState"], "inactive");
    };
    // At once: each takes ten seconds.
    tokio::join!(
        refused(2, with(&|it| it["JoinToken"] = json!(wrong)), "A valid join token is necessary"),
        refused(3, with(&|it| it["JoinToken"] = json!(other_ca)), "does not match fingerprint"),
        refused(4, with(&|it| it["RemoteAddrs"] = json!(["10.0.0.2:2377"])), "connection refused"),
    );
}

#[tokio::test]
async fn a_join_that_is_given_up_leaves_nothing_and_a_version_is_agreed() {
    let bench = Bench::start(2);
    bench.init(1).await;
    let request = bench.join_request("Manager").await;
    let joining = bench.call(2, "POST", "swarm/join", request);
    let give_up = async {
        let is_pending =
            async || bench.get(2, "info").await["Swarm"]["LocalNodeState"] == "pending";
        bench.until("pending", is_pending).await;
        bench.call(2, "POST", "swarm/leave?force=true", json!(null)).await
    };
    let ((joined, _), (left, _)) = tokio::join!(joining, give_up);
    assert_eq!((joined, left), (503, 200));
    assert_eq!(bench.node(2).await, None);
    bench.join(2, "Worker").await;

    let client = reqwest::Client::builder().unix_socket(bench.socket(1)).no_proxy();
    let client = client.build().unwrap();
    let get = async |path: &str| {
        client.get(format!("http://docker/{path}")).send().await.unwrap().text().await.unwrap()
    };
    assert!(get("version").await.contains("1.51"));
    assert!(get("v1.52/info").await.contains("is too new. Maximum supported API version is 1.51"));
    assert!(get("v1.23/info").await.contains("is too old. Minimum supported API version is 1.24"));
}
