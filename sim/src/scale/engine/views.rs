//! The answers of an engine, as engine 28.5 sends them: with everything that makes an entry of the node list 2 KB, so that
//! managers parse what they would have to parse.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::identity::token;
use super::model::{Host, Node, Place, Raft, Swarm, World};
use super::refusal::Refusal;

/// The release that the engines play.
const RELEASE: &str = "28.5.2";
pub(super) const NEWEST_API: (u32, u32) = (1, 51);
pub(super) const OLDEST_API: (u32, u32) = (1, 24);
const NETWORKS: [&str; 6] = ["bridge", "host", "ipvlan", "macvlan", "null", "overlay"];
const LOGS: [&str; 9] =
    ["awslogs", "fluentd", "gcplogs", "gelf", "journald", "json-file", "local", "splunk", "syslog"];
/// Two CPUs and 4 GiB.
const NANO_CPUS: u64 = 2_000_000_000;
const MEMORY: u64 = 4 << 30;

pub(super) fn text((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

pub(super) fn version() -> Value {
    json!({
        "Version": RELEASE, "ApiVersion": text(NEWEST_API), "MinAPIVersion": text(OLDEST_API),
        "Os": "linux", "Arch": "amd64",
    })
}

/// The answer to `/info`.
pub(super) fn info(world: &World, host: &Host) -> Value {
    let mut info = json!({
        "Name": hostname(host.address), "ServerVersion": RELEASE, "DockerRootDir": host.root,
        "Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "extfs"]],
        "OperatingSystem": "Debian GNU/Linux 12 (bookworm)", "OSType": "linux",
        "Architecture": "x86_64", "NCPU": 2, "MemTotal": MEMORY, "LiveRestoreEnabled": false,
        "Containers": 0, "Images": 0,
    });
    info["Swarm"] = place(world, host);
    info
}

fn place(world: &World, host: &Host) -> Value {
    let out = |state: &str| {
        json!({
            "NodeID": "", "NodeAddr": "", "LocalNodeState": state, "ControlAvailable": false,
            "Error": "", "RemoteManagers": null,
        })
    };
    match &host.place {
        Place::Out => out("inactive"),
        Place::Joining(_) => out("pending"),
        Place::In { swarm, node, is_manager } => {
            let swarm = world.swarms.get(swarm);
            let remotes: Vec<Value> = swarm.map(remote_managers).unwrap_or_default();
            let mut place = json!({
                "NodeID": node, "NodeAddr": host.address, "LocalNodeState": "active",
                "ControlAvailable": is_manager, "Error": "", "RemoteManagers": remotes,
            });
            if let Some(swarm) = swarm.filter(|swarm| *is_manager && swarm.has_leader()) {
                place["Nodes"] = json!(swarm.nodes.len());
                place["Managers"] = json!(remotes_count(swarm));
                let mut cluster = object(swarm);
                // Only `/swarm` has it.
                if let Some(cluster) = cluster.as_object_mut() {
                    cluster.remove("JoinTokens");
                }
                place["Cluster"] = cluster;
            }
            place
        }
    }
}

fn remotes_count(swarm: &Swarm) -> usize {
    swarm.nodes.values().filter(|node| node.raft.is_some()).count()
}

fn remote_managers(swarm: &Swarm) -> Vec<Value> {
    let reachable = |node: &&Node| node.raft.is_some_and(|raft| raft.is_reachable);
    let managers = swarm.nodes.values().filter(reachable);
    managers.map(|node| json!({ "NodeID": node.id, "Addr": raft_address(node.address) })).collect()
}

/// The answer to `/swarm`.
pub(super) fn object(swarm: &Swarm) -> Value {
    let digest = swarm.authority.digest();
    json!({
        "ID": swarm.id, "Version": { "Index": swarm.version }, "CreatedAt": date(swarm.created_at),
        "UpdatedAt": date(swarm.created_at), "Spec": swarm.spec,
        "TLSInfo": { "TrustRoot": swarm.authority.pem() }, "RootRotationInProgress": false,
        "DefaultAddrPool": ["10.0.0.0/8"], "SubnetSize": 24, "DataPathPort": 4789,
        "JoinTokens": {
            "Worker": token(&digest, &swarm.worker_secret),
            "Manager": token(&digest, &swarm.manager_secret),
        },
    })
}

/// The node list.
pub(super) fn list(swarm: &mut Swarm) -> String {
    let root = swarm.authority.pem().to_owned();
    let mut list = String::with_capacity(swarm.nodes.len() * 2048 + 2);
    list.push('[');
    for node in swarm.nodes.values_mut() {
        if list.len() > 1 {
            list.push(',');
        }
        list.push_str(&rendered(node, &root));
    }
    list.push(']');
    list
}

/// One node.
///
/// # Errors
/// Docker's refusal.
pub(super) fn inspect(swarm: &mut Swarm, id: &str) -> Result<String, Refusal> {
    let root = swarm.authority.pem().to_owned();
    let node = swarm.nodes.get_mut(id).ok_or_else(|| Refusal::no_node(id))?;
    Ok(rendered(node, &root).to_string())
}

fn rendered(of: &mut Node, trust_root: &str) -> Arc<str> {
    if let Some(rendered) = &of.rendered {
        return Arc::clone(rendered);
    }
    let text: Arc<str> = node(of, trust_root).to_string().into();
    Arc::clone(of.rendered.insert(text))
}

/// An entry of the node list.
fn node(node: &Node, trust_root: &str) -> Value {
    let plugin = |kind: &'static str| move |name: &&str| json!({ "Type": kind, "Name": name });
    let plugins: Vec<Value> = LOGS
        .iter()
        .map(plugin("Log"))
        .chain(NETWORKS.iter().map(plugin("Network")))
        .chain([json!({ "Type": "Volume", "Name": "local" })])
        .collect();
    let mut view = json!({
        "ID": node.id, "Version": { "Index": node.version },
        "CreatedAt": date(node.created_at), "UpdatedAt": date(node.updated_at), "Spec": node.spec,
        "Description": {
            "Hostname": hostname(node.address),
            "Platform": { "Architecture": "x86_64", "OS": "linux" },
            "Resources": { "NanoCPUs": NANO_CPUS, "MemoryBytes": MEMORY },
            "Engine": { "EngineVersion": RELEASE, "Plugins": plugins },
            "TLSInfo": {
                "TrustRoot": trust_root, "CertIssuerSubject": "MBMxETAPBgNVBAMTCHN3YXJtLWNh",
                "CertIssuerPublicKey": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEWt/5Zp9vi7clOv73iZpVXtzq9HILL6408kzbTWnbg/xlRsjWfFxyWOKywgJWSu/zEDQ8EF1SJU/C+0OlxXTGSw==",
            },
        },
        "Status": { "State": node.state.as_str(), "Addr": node.address },
    });
    if let Some(Raft { is_leader, is_reachable }) = node.raft {
        let reachability = if is_reachable { "reachable" } else { "unreachable" };
        view["ManagerStatus"] = json!({
            "Reachability": reachability, "Addr": raft_address(node.address),
        });
        // Docker omits it for the others.
        if is_leader {
            view["ManagerStatus"]["Leader"] = json!(true);
        }
    }
    view
}

fn raft_address(address: Ipv4Addr) -> String {
    format!("{address}:2377")
}

fn hostname(address: Ipv4Addr) -> String {
    format!("ip-{}", address.to_string().replace('.', "-"))
}

fn date(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}
