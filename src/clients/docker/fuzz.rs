//! Feeds any bytes to the readers of Docker's answers.
//!
//! The first line of an input has the name of a reader and the status of the answer, the rest is the body.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::LocalSet;

use super::*;
use crate::common::errors::chain;
use crate::fuzz::{Target, kind, run};

const INPUTS: [&str; 16] = [
    r#"nodes 200
[{ "ID": "n1", "Version": { "Index": 12 }, "CreatedAt": "2026-11-21T10:00:00.1Z", "Spec": { "Labels": { "skep.instance": "i-0abc" }, "Role": "manager", "Availability": "active" }, "Description": { "Hostname": "ip-10-0-0-1", "Engine": { "EngineVersion": "28.5.2" } }, "Status": { "State": "ready", "Addr": "10.0.0.1" }, "ManagerStatus": { "Leader": true, "Reachability": "reachable", "Addr": "10.0.0.1:2377" } }, { "ID": "n3", "Spec": { "Availability": "7" } }, { "ID": "n2", "Spec": { "Role": "worker", "Availability": "drain" }, "Status": { "State": "down", "Message": "heartbeat failure" } }]"#,
    r#"node 200
{ "ID": "n1", "Version": { "Index": 12 }, "Spec": { "Role": "manager", "Availability": "active" }, "Status": { "State": "ready" } }"#,
    r#"info 200
{ "ServerVersion": "28.5.2", "LiveRestoreEnabled": false, "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]], "DefaultAddressPools": [{ "Base": "10.10.0.0/16", "Size": 24 }], "Swarm": { "LocalNodeState": "active", "NodeID": "n1", "NodeAddr": "10.0.0.1", "ControlAvailable": true, "Error": "", "RemoteManagers": [{ "NodeID": "n1", "Addr": "10.0.0.1:2377" }, { "NodeID": "n2", "Addr": "[fd00::7]:2377" }], "Cluster": { "ID": "c1", "DefaultAddrPool": ["10.0.0.0/8"], "SubnetSize": 24 } } }"#,
    r#"swarm 200
{ "ID": "c1", "Version": { "Index": 1 }, "CreatedAt": "2026-11-21T10:00:00Z", "Spec": { "Labels": { "skep.cluster": "prod", "skep.generation": "3" }, "EncryptionConfig": { "AutoLockManagers": true } }, "JoinTokens": { "Worker": "SWMTKN-1-w", "Manager": "SWMTKN-1-m" } }"#,
    r#"services 200
[{ "ID": "s1", "Version": { "Index": 12 }, "CreatedAt": "2026-11-21T10:00:00Z", "UpdatedAt": "2026-11-21T10:00:00.123456789Z", "Spec": { "Name": "web", "Mode": { "Replicated": { "Replicas": 2 } }, "TaskTemplate": { "ContainerSpec": { "Image": "host/app:1" } } }, "PreviousSpec": { "Name": "web" }, "UpdateStatus": { "State": "paused" }, "ServiceStatus": { "RunningTasks": 1, "DesiredTasks": 2 } }]"#,
    r#"tasks 200
[{ "ID": "t1", "ServiceID": "s1", "Slot": 1, "NodeID": "n1", "CreatedAt": "2026-11-21T10:00:00Z", "Status": { "State": "running" }, "DesiredState": "shutdown" }, { "ID": "t2", "ServiceID": "s1", "NodeID": "n2", "CreatedAt": "2026-11-21T10:00:00Z", "Status": { "State": "rejected", "Err": "no such image" }, "DesiredState": "running" }]"#,
    r#"containers 200
[{ "Id": "c1", "Names": ["/web.1"], "Image": "app", "ImageID": "sha256:0", "Labels": { "com.docker.swarm.task.id": "t1", "skep.flush": "after" }, "State": "exited", "Status": "Exited (0) 2 hours ago" }]"#,
    r#"container 200
{ "Id": "c1", "State": { "Status": "exited", "Running": false, "ExitCode": 137, "FinishedAt": "2026-11-21T10:00:00Z" }, "Config": { "StopTimeout": 10 } }"#,
    r#"images 200
[{ "Id": "sha256:0", "ParentId": "", "RepoTags": ["app:1"], "RepoDigests": ["app@sha256:1"], "Created": 1795860000, "Size": 1000, "SharedSize": -1, "Labels": { "skep.keep": "" }, "Containers": -1 }]"#,
    r#"volumes 200
{ "Volumes": [{ "Name": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "Driver": "local", "Mountpoint": "/x", "Labels": {}, "Scope": "local", "Options": {} }], "Warnings": null }"#,
    r#"networks 200
[{ "Name": "secure", "Id": "x", "Driver": "overlay", "Options": { "encrypted": "" } }]"#,
    r#"unlockkey 200
{ "UnlockKey": "SWMKEY-1-x" }"#,
    r#"version 200
{ "Version": "28.5", "ApiVersion": "1.51", "MinAPIVersion": "1.24" }"#,
    r#"join 503
{ "message": "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one." }"#,
    r#"change 500
{ "message": "rpc error: code = Unknown desc = update out of sequence" }"#,
    "log 200\n\u{1}\0\0\0\0\0\0\u{6}2026 a\u{2}\0\0\0\0\0\0\u{2}b\n",
];
const WORDS: [&str; 32] = [
    "ID",
    "Spec",
    "Status",
    "ManagerStatus",
    "Reachability",
    "unreachable",
    "Addr",
    "down",
    "disconnected",
    "pause",
    "LocalNodeState",
    "locked",
    "pending",
    "error",
    "inactive",
    "Cluster",
    "RemoteManagers",
    "Error",
    "Index",
    "Labels",
    "skep.generation",
    "State",
    "complete",
    "hibernating",
    "200",
    "400",
    "404",
    "500",
    "503",
    "client version 1.41 is too old. Minimum supported API version is 1.44",
    "is too new. Maximum supported API version",
    "The swarm does not have a leader",
];
const USUAL_VERSION: &str =
    r#"{ "Version": "28.5", "ApiVersion": "1.51", "MinAPIVersion": "1.24" }"#;

/// What the engine answers: whether to `GET /version`, the status, and the body.
type Answer = Rc<RefCell<(bool, u16, Vec<u8>)>>;

#[test]
fn no_answer_of_docker_stops_skep() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = LocalSet::new();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    let answer = Answer::default();
    local.block_on(&runtime, async {
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::task::spawn_local(serve(listener, Rc::clone(&answer)));
    });
    let corpus = INPUTS.map(|input| input.as_bytes().to_vec()).into();
    let target = Target { name: "docker-answers", corpus, words: &WORDS };
    run(&target, |input| {
        let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
        let first = String::from_utf8_lossy(&input[..end]).into_owned();
        let (reader, status) = first.split_once(' ').unwrap_or((first.as_str(), "200"));
        let status = status.parse::<u16>().ok().filter(|it| (200..600).contains(it)).unwrap_or(200);
        let body = input.get(end + 1..).unwrap_or_default().to_vec();
        *answer.borrow_mut() = (reader == "version", status, body);
        let swarm = Swarm::new(format!("unix://{}", socket.display()));
        let result = local.block_on(&runtime, read(&swarm, reader));
        let found = result.unwrap_or_else(|error| {
            assert!(!error.message.is_empty());
            // Docker's own words are no kind.
            let why = if status == 200 { kind(&chain(&error)) } else { String::new() };
            format!("{:?} {why}", error.kind)
        });
        (status, found)
    });
}

/// Calls one reader, and what decides on its result alone. Returns the kind of the result.
async fn read(swarm: &Swarm, reader: &str) -> Result<String, SwarmError> {
    Ok(match reader {
        "nodes" => {
            let nodes = swarm.fetch_nodes().await?;
            let quorum = Quorum::of(&nodes);
            assert!(quorum.reachable <= quorum.managers && quorum.managers <= nodes.len());
            let majors: Vec<_> = nodes.iter().map(|it| it.engine_major().is_some()).collect();
            let states: Vec<_> = nodes.iter().map(|it| (it.is_down(), it.role, it.raft)).collect();
            format!("{:?}", (majors, states, quorum.is_kept()))
        }
        "node" => format!("{:?}", swarm.fetch_node("n1").await?.map(|it| it.availability)),
        "change" => format!("{}", swarm.drain("n1").await? && swarm.demote("n1").await?),
        "info" => {
            let local = swarm.fetch_local_node().await?;
            let engine = swarm.fetch_engine().await?;
            let (refused, known) = (local.is_certificate_refused(), local.managers.len());
            let pools = (engine.bridge_pools.len(), engine.overlay_pools.is_some());
            format!("{:?}", (local.state, local.serves_as_manager(), refused, known, pools))
        }
        "swarm" => {
            let cluster = swarm.fetch_cluster().await?;
            let (counted, created) = (cluster.generation().is_some(), cluster.created_at.is_some());
            format!("{:?}", (counted, created, cluster.is_autolocked))
        }
        "services" => {
            let services = swarm.fetch_services().await?;
            let shown = services.iter().map(|it| {
                let is_updating = it.unfinished_update().is_some();
                assert!(!(is_updating && it.was_rolled_back()));
                (it.image().is_some(), it.is_job(), it.is_short_of_tasks(), is_updating)
            });
            format!("{:?}", shown.collect::<Vec<_>>())
        }
        "tasks" => {
            let live = swarm.count_live_tasks("n1").await?;
            format!("{live} {}", swarm.fetch_tasks_of_service("s1").await?.len())
        }
        "containers" => {
            let running = swarm.fetch_containers().await?;
            let after = running.iter().filter(|it| it.stops_after_flush).count();
            let ended = swarm.fetch_ended_tasks().await?;
            assert!(after <= running.len());
            format!("{} {after} {}", running.len(), ended.len())
        }
        "container" => {
            let grace = swarm.fetch_grace("c1").await;
            format!("{grace:?} {}", swarm.was_killed("c1").await?)
        }
        "images" => format!("{}", swarm.fetch_images().await?.len()),
        "volumes" => format!("{}", swarm.fetch_lost_volumes().await?.len()),
        "networks" => format!("{}", swarm.fetch_encrypted_networks().await?.len()),
        "unlockkey" => format!("{}", swarm.fetch_unlock_key().await?.is_some()),
        "join" => {
            let address = std::net::Ipv4Addr::LOCALHOST.into();
            let token = "SWMTKN-1-a-b".into();
            format!("{:?}", swarm.join(address, address, &token, Availability::Active).await)
        }
        "log" => {
            let mut length = 0;
            swarm.read_log("c1", 100, |piece| length += piece.len()).await?;
            format!("{}", length.min(9))
        }
        // Its answer is for every reader.
        _ => swarm.connect().await.map(|()| String::new())?,
    })
}

/// Serves one request in each connection.
async fn serve(listener: UnixListener, answer: Answer) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::task::spawn_local(respond(stream, Rc::clone(&answer)));
    }
}

async fn respond(mut stream: UnixStream, answer: Answer) {
    let mut head = Vec::new();
    while !head.windows(4).any(|part| part == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let (is_version, status, body) = answer.borrow().clone();
    let is_asked = head.starts_with(b"GET /version ");
    let (status, body) =
        if is_asked == is_version { (status, body) } else { (200, USUAL_VERSION.into()) };
    let kind = "Content-Type: application/json\r\nConnection: close";
    let head = format!("HTTP/1.1 {status} Any\r\n{kind}\r\nContent-Length: {}\r\n\r\n", body.len());
    let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
}
