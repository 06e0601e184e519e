//! Checks the connections to the managers, and the address pools that would hide the managers.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use ipnet::Ipv4Net;
use time::OffsetDateTime;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::Instant;

use super::metadata::Subject;
use super::{Finding, Verdict, skipped_without_node};
use crate::clients::docker::{Engine, LeftOverVxlans, SWARM_PORT, Swarm, find_left_over_vxlans};
use crate::clients::imds::Imds;
use crate::clients::ledger::Member;
use crate::common::timing::MANAGER_ROW_IS_FRESH;
use crate::config::{Settings, overlap, parse_range};
use crate::lifecycle::boot;
use crate::node::Node;

/// Port of the gossip between the nodes, TCP and UDP.
const GOSSIP_PORT: u16 = 7946;
/// Port of the overlay networks' packets (VXLAN), UDP.
const OVERLAY_PORT: u16 = 4789;
/// Time limit for a connection: a packet takes milliseconds within a region, unless a security group drops it.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// Time limit for a refusal: a closed port refuses at once.
const REFUSED_WITHIN: Duration = Duration::from_millis(500);
/// Time limit for Docker: the checks of the ports must not wait for a Docker that hangs.
const DOCKER_PATIENCE: Duration = Duration::from_secs(10);
/// Docker's defaults for overlay networks and for bridges.
const DOCKERS_OVERLAY_POOL: &[&str] = &["10.0.0.0/8"];
const DOCKERS_BRIDGE_POOLS: &[&str] =
    &["172.17.0.0/16", "172.18.0.0/15", "172.20.0.0/14", "172.24.0.0/13", "192.168.0.0/16"];

pub async fn examine(settings: &Settings, subject: &Subject, docker: &Swarm) -> Vec<Finding> {
    let Some((imds, instance)) = &subject.metadata else {
        let skipped = skipped_without_node(&["address", "overlay pools", "bridge pools", "ports"]);
        return [skipped, vec![left_over().await]].concat();
    };
    let address = settings.swarm.advertise_address.unwrap_or(instance.private_address);
    let (pools, ports, left_over) =
        tokio::join!(pools(settings, imds, docker), ports(subject.node.as_ref()), left_over());
    [vec![own_address(address)], pools, ports, vec![left_over]].concat()
}

/// Checks for VXLAN interfaces of an earlier membership. An interface that a network has just created is gone at the
/// second read.
async fn left_over() -> Finding {
    const SECOND_LOOK_AFTER: Duration = Duration::from_secs(1);
    let first = find_left_over_vxlans();
    tokio::time::sleep(SECOND_LOOK_AFTER).await;
    judge_left_over(first.and_then(|first| {
        let second = find_left_over_vxlans()?;
        Ok(first.into_iter().filter(|name| second.contains(name)).collect())
    }))
}

fn judge_left_over(found: io::Result<Vec<String>>) -> Finding {
    const CHECK: &str = "vxlan interfaces";
    match found {
        Ok(names) if names.is_empty() => Finding::ok(CHECK, "none is left over"),
        Ok(names) => Finding::of_error(CHECK, &LeftOverVxlans(names)),
        Err(error) => {
            Finding::skipped(CHECK, format!("/sys/class/net: {error}"), "sudo skep doctor")
        }
    }
}

fn own_address(address: IpAddr) -> Finding {
    const CHECK: &str = "address";
    match boot::check_address(address) {
        Ok(()) => Finding::ok(CHECK, format!("{address} is on this host")),
        Err(_) => {
            let evidence = format!("no interface of this host has the address {address}");
            Finding::failed(CHECK, evidence, boot::ADVERTISE_ANOTHER)
        }
    }
}

async fn pools(settings: &Settings, imds: &Imds, docker: &Swarm) -> Vec<Finding> {
    let engine = tokio::time::timeout(DOCKER_PATIENCE, docker.fetch_engine());
    let (blocks, engine) = tokio::join!(vpc_blocks(imds), engine);
    if blocks.is_empty() {
        let why = "the metadata does not contain the VPC's IPv4 ranges";
        return vec![Finding::skipped(
            "address pools",
            why,
            "compare swarm.address_pool with them",
        )];
    }
    // Without Docker's answer, the pools are those of the settings, or Docker's own.
    let engine = engine.ok().and_then(Result::ok).unwrap_or_default();
    judge_pools(&blocks, settings, &engine)
}

/// Returns the VPC's IPv4 ranges, read from the metadata of the primary interface.
async fn vpc_blocks(imds: &Imds) -> Vec<Ipv4Net> {
    let deadline = Instant::now() + CONNECT_WITHIN;
    let read = async |path: String| imds.get(&path, deadline).await.ok().flatten();
    let Some(mac) = read("mac".into()).await else { return Vec::new() };
    let of_interface = format!("network/interfaces/macs/{}", mac.trim());
    // The second item is from the time when a VPC had one range only.
    for item in ["vpc-ipv4-cidr-blocks", "vpc-ipv4-cidr-block"] {
        if let Some(text) = read(format!("{of_interface}/{item}")).await {
            return text.lines().filter_map(|line| parse_range(line.trim()).ok()).collect();
        }
    }
    Vec::new()
}

/// Compares the pools with the VPC: an overlay or a bridge that uses an address of the VPC makes the machine with that
/// address unreachable from this host.
fn judge_pools(vpc: &[Ipv4Net], settings: &Settings, engine: &Engine) -> Vec<Finding> {
    let set: Vec<String> = settings.swarm.address_pool.iter().map(ToString::to_string).collect();
    let default = |pools: &[&str]| pools.iter().map(|pool| (*pool).to_owned()).collect();
    let overlay = match &engine.overlay_pools {
        Some(pools) if !pools.is_empty() => pools.clone(),
        _ if !set.is_empty() => set,
        _ => default(DOCKERS_OVERLAY_POOL),
    };
    let bridges = match engine.bridge_pools.as_slice() {
        [] => default(DOCKERS_BRIDGE_POOLS),
        pools => pools.to_vec(),
    };
    vec![
        apart(
            "overlay pools",
            &overlay,
            vpc,
            "set swarm.address_pool to a range outside of the VPC; it applies to swarms that are founded later",
        ),
        apart(
            "bridge pools",
            &bridges,
            vpc,
            "set default-address-pools in /etc/docker/daemon.json to ranges outside of the VPC",
        ),
    ]
}

fn apart(check: &'static str, pools: &[String], vpc: &[Ipv4Net], remedy: &str) -> Finding {
    let words = |ranges: &[String]| ranges.join(", ");
    let blocks: Vec<String> = vpc.iter().map(ToString::to_string).collect();
    let parsed = pools.iter().filter_map(|pool| parse_range(pool).ok());
    let shared: Vec<String> = parsed
        .filter(|pool| vpc.iter().any(|block| overlap(block, pool)))
        .map(|pool| pool.to_string())
        .collect();
    if shared.is_empty() {
        return Finding::ok(check, format!("{}; the VPC has {}", words(pools), words(&blocks)));
    }
    let evidence = format!("{} overlaps the VPC's {}", words(&shared), words(&blocks));
    Finding::warning(check, evidence, remedy)
}

/// Checks the ports of every other manager in the ledger.
async fn ports(node: Option<&Node>) -> Vec<Finding> {
    let Some(node) = node else { return skipped_without_node(&["ports"]) };
    let Ok(mut managers) = node.ledger.fetch_managers().await else {
        let why = "the managers' rows cannot be read";
        return vec![Finding::skipped("ports", why, "repair the table first")];
    };
    managers.retain(|member| member.instance_id != node.instance.id);
    if managers.is_empty() {
        return vec![Finding::ok("ports", "the ledger lists no other manager to try")];
    }
    let now = OffsetDateTime::now_utc();
    let tried = managers.iter().map(|manager| async move {
        let (swarm, gossip, gossip_packets, overlay) = tokio::join!(
            connect(manager.address, SWARM_PORT),
            connect(manager.address, GOSSIP_PORT),
            send(manager.address, GOSSIP_PORT),
            send(manager.address, OVERLAY_PORT),
        );
        let tcp = BTreeMap::from([(SWARM_PORT, swarm), (GOSSIP_PORT, gossip)]);
        let udp = format!("{GOSSIP_PORT}/udp {gossip_packets}, {OVERLAY_PORT}/udp {overlay}");
        (judge_ports(manager, &tcp, now), (manager.address, udp))
    });
    let (mut findings, udp): (Vec<_>, Vec<_>) = join_all(tried).await.into_iter().unzip();
    let udp: Vec<String> = udp.iter().map(|(address, seen)| format!("{address}: {seen}")).collect();
    findings.push(Finding::skipped(
        "udp ports",
        format!("no answer to UDP proves nothing; {}", udp.join("; ")),
        "let the security group admit UDP 7946 and 4789 between all nodes",
    ));
    findings
}

/// The failure of a connection; `None` if it succeeded.
type Trouble = Option<&'static str>;

async fn connect(address: IpAddr, port: u16) -> Trouble {
    let connect = TcpStream::connect(SocketAddr::new(address, port));
    match tokio::time::timeout(CONNECT_WITHIN, connect).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Some("refused"),
        Ok(Err(_)) => Some("unreachable"),
        Err(_) => Some("silent"),
    }
}

/// Sends an empty packet. A refusal shows that the packet arrived, so that no security group drops such packets.
async fn send(address: IpAddr, port: u16) -> &'static str {
    let exchange = async {
        let any: SocketAddr = match address {
            IpAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            IpAddr::V6(_) => ([0u16; 8], 0).into(),
        };
        let socket = UdpSocket::bind(any).await?;
        socket.connect((address, port)).await?;
        socket.send(&[]).await?;
        socket.recv(&mut [0]).await
    };
    match tokio::time::timeout(REFUSED_WITHIN, exchange).await {
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => "reachable (refused)",
        // The sandbox of skep.service lets nothing but the health port be bound.
        Ok(Err(error)) if error.kind() == ErrorKind::PermissionDenied => "not tried",
        Ok(Err(_)) => "unreachable",
        Ok(Ok(_)) => "answers",
        Err(_) => "silent",
    }
}

fn judge_ports(manager: &Member, tcp: &BTreeMap<u16, Trouble>, now: OffsetDateTime) -> Finding {
    let Member { instance_id, address, updated_at, .. } = manager;
    let seen: Vec<String> = tcp
        .iter()
        .map(|(port, trouble)| format!("{port}/tcp {}", trouble.unwrap_or("answers")))
        .collect();
    let mut evidence = format!("manager {instance_id} at {address}: {}", seen.join(", "));
    if tcp.values().all(Option::is_none) {
        return Finding::ok("ports", evidence);
    }
    let age = now - *updated_at;
    let remedy = "let the security group admit TCP 2377 and TCP and UDP 7946 between the nodes";
    if age > MANAGER_ROW_IS_FRESH {
        evidence.push_str(&format!("; its row is {} s old: it may be gone", age.whole_seconds()));
        return Finding { verdict: Verdict::Warning, ..Finding::failed("ports", evidence, remedy) };
    }
    Finding::failed("ports", evidence, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(of: &[&str]) -> Vec<Ipv4Net> {
        of.iter().map(|text| parse_range(text).unwrap()).collect()
    }

    fn verdicts(vpc: &str, settings: &Settings, engine: &Engine) -> [Verdict; 2] {
        let findings = judge_pools(&ranges(&[vpc]), settings, engine);
        [findings[0].verdict, findings[1].verdict]
    }

    #[test]
    fn pools_are_those_in_force_then_those_set_then_dockers_own() {
        let (ok, warning) = (Verdict::Ok, Verdict::Warning);
        let (mut settings, mut engine) = (Settings::default(), Engine::default());
        assert_eq!(verdicts("10.78.0.0/24", &settings, &engine), [warning, ok]);
        assert_eq!(verdicts("172.31.0.0/16", &settings, &engine), [ok, warning]);
        settings.swarm.address_pool = ranges(&["10.128.0.0/9"]);
        assert_eq!(verdicts("10.78.0.0/24", &settings, &engine), [ok, ok]);
        engine.overlay_pools = Some(vec!["10.0.0.0/8".into()]);
        assert_eq!(verdicts("10.78.0.0/24", &settings, &engine), [warning, ok], "founded with it");
        engine.bridge_pools = vec!["172.20.0.0/14".into()];
        assert_eq!(verdicts("172.31.0.0/16", &settings, &engine), [ok, ok]);
        let shared = judge_pools(&ranges(&["10.78.0.0/24"]), &settings, &engine);
        assert_eq!(shared[0].evidence, "10.0.0.0/8 overlaps the VPC's 10.78.0.0/24");
    }

    #[test]
    fn dockers_ranges_can_be_read() {
        for pool in DOCKERS_BRIDGE_POOLS.iter().chain(DOCKERS_OVERLAY_POOL) {
            parse_range(pool).unwrap();
        }
    }

    #[test]
    fn a_port_that_is_cut_is_a_failure_unless_the_manager_may_be_gone() {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::hours(1);
        let manager = |age: i64| -> Member {
            serde_json::from_value(serde_json::json!({
                "instance_id": "i-0abc", "role": "manager", "node_id": "n1", "address": "10.0.0.7",
                "zone": "a", "generation": 1, "state": "ready",
                "updated_at": (now - time::Duration::seconds(age)).unix_timestamp(),
            }))
            .unwrap()
        };
        let ports = |swarm| BTreeMap::from([(SWARM_PORT, swarm), (GOSSIP_PORT, None)]);
        let verdict = |age, swarm| judge_ports(&manager(age), &ports(swarm), now);
        assert_eq!(verdict(10, None).verdict, Verdict::Ok);
        let cut = verdict(10, Some("silent"));
        assert_eq!(cut.verdict, Verdict::Failed);
        assert_eq!(cut.evidence, "manager i-0abc at 10.0.0.7: 2377/tcp silent, 7946/tcp answers");
        assert_eq!(verdict(200, Some("silent")).verdict, Verdict::Warning);
    }

    #[test]
    fn a_left_over_interface_is_a_failure_with_the_command_that_removes_it() {
        assert_eq!(judge_left_over(Ok(vec![])).verdict, Verdict::Ok);
        let found = judge_left_over(Ok(vec!["vx-001001-kq2jx".into()]));
        assert_eq!(found.verdict, Verdict::Failed);
        assert_eq!(found.remedy.as_deref(), Some("ip link delete vx-001001-kq2jx"));
        let unknown = judge_left_over(Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(unknown.verdict, Verdict::Skipped);
    }

    #[tokio::test]
    async fn a_closed_port_says_so() {
        let local: IpAddr = [127, 0, 0, 1].into();
        let listener = tokio::net::TcpListener::bind((local, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(connect(local, port).await, None);
        drop(listener);
        assert_eq!(connect(local, port).await, Some("refused"));
        assert_eq!(send(local, port).await, "reachable (refused)");
    }
}
