//! Checks Docker: version, settings, membership, and the disks that it writes to.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Finding;
use crate::api::control::{Client, socket_path};
use crate::clients::docker::{
    Engine, LocalState, NodeView, Quorum, Swarm, SwarmError, SwarmErrorKind,
};
use crate::clients::ledger::CharterPhase;
use crate::common::disk::{Disk, DiskSpace};
use crate::common::fact::Fact;
use crate::common::state::quorum_lost;
use crate::config::Settings;
use crate::manager::moves::remarks;
use crate::manager::peers::has_leader;
use crate::node::Node;

const DOCKER: &str = "docker";
const QUORUM: &str = "quorum";
/// Share of free space below which Docker soon cannot pull images and containers soon cannot write.
const FREE_ENOUGH: f64 = 0.10;
/// Time limit for the node list: a leader answers within milliseconds, and the group of checks has a limit too.
const LEADER_PATIENCE: Duration = Duration::from_secs(10);
/// Share of free space below which Docker and containers already fail.
const FREE_AT_ALL: f64 = 0.02;

pub async fn examine(docker: &Swarm, node: Option<&Node>) -> Vec<Finding> {
    let engine = match docker.fetch_engine().await {
        Ok(engine) => engine,
        Err(error) => return vec![of_docker(&error)],
    };
    let mut findings = vec![
        Finding::ok(DOCKER, format!("engine {}", engine.version)),
        live_restore(&engine),
        membership(docker, node).await,
    ];
    findings.extend(disks(&engine).into_iter().flat_map(disk));
    findings
}

/// Returns the directories that Docker writes to: one, or two if containerd stores the images on another disk.
fn disks(engine: &Engine) -> Vec<&Path> {
    let (root, images) = (engine.root_dir.as_deref(), engine.image_dir.as_deref());
    let is_shared = |(root, images)| Disk::is_shared(root, images).unwrap_or_default();
    let images = images.filter(|_| !root.zip(images).is_some_and(is_shared));
    root.into_iter().chain(images).collect()
}

/// On a manager, checks whether its swarm has a leader. Without a leader, Docker answers slowly or not at all;
/// therefore the running skep is asked first.
pub async fn examine_quorum(settings: &Settings, docker: &Swarm) -> Vec<Finding> {
    if let Some(since) = lost_since(settings).await {
        return vec![without_leader(Some(since))];
    }
    if !docker.fetch_local_node().await.is_ok_and(|local| local.is_manager) {
        return vec![];
    }
    let answer = tokio::time::timeout(LEADER_PATIENCE, docker.fetch_nodes()).await;
    let answer = answer.unwrap_or_else(|_| Err(SwarmError::silent("list the nodes")));
    let mut findings = vec![quorum(&answer)];
    if let Ok(nodes) = &answer {
        findings.extend(moves(settings, docker, nodes).await);
    }
    findings
}

/// Checks the services with the labels `skep.drain` and `skep.balance`.
async fn moves(settings: &Settings, docker: &Swarm, nodes: &[NodeView]) -> Vec<Finding> {
    const CHECK: &str = "services";
    let services = match docker.fetch_services().await {
        Ok(services) => services,
        Err(error) => {
            let remedy = "run `skep doctor` again in a minute";
            return vec![Finding::skipped(CHECK, error.to_string(), remedy)];
        }
    };
    let of = |(name, remark): (String, Result<String, String>)| match remark {
        Ok(fine) => Finding::ok(CHECK, format!("{name}: {fine}")),
        Err(why) => {
            let evidence = format!("{name} asks to be moved, and is not: {why}");
            Finding::warning(
                CHECK,
                evidence,
                "see \"New tasks before the old ones end\" in the documentation, or remove the label",
            )
        }
    };
    remarks(&services, nodes, settings).into_iter().map(of).collect()
}

/// Returns since when the running skep reports the quorum as lost.
async fn lost_since(settings: &Settings) -> Option<OffsetDateTime> {
    let client = Client::new(socket_path(&settings.runtime_dir));
    let node = client.node::<Value>().await.ok()?;
    OffsetDateTime::parse(node["quorum_lost_since"].as_str()?, &Rfc3339).ok()
}

/// Judges by a manager's answer about its nodes whether the swarm has a leader.
fn quorum(answer: &Result<Vec<NodeView>, SwarmError>) -> Finding {
    let nodes = match (answer, has_leader(answer.as_deref())) {
        (Ok(nodes), Fact::Yes) => nodes,
        (Err(error), Fact::CannotTell) => {
            return Finding::skipped(
                QUORUM,
                error.to_string(),
                "run `skep doctor` again in a minute",
            );
        }
        (Ok(_) | Err(_), _) => return without_leader(None),
    };
    let Quorum { managers, reachable } = Quorum::of(nodes);
    let may_be_lost = Quorum::of(nodes).may_be_lost();
    let evidence =
        format!("managers: {managers}, reachable: {reachable}, may be lost: {may_be_lost}");
    if managers > 1 && may_be_lost == 0 {
        let remedy = "find the missing manager with skep status; run three or five managers";
        return Finding::warning(QUORUM, evidence, remedy);
    }
    Finding::ok(QUORUM, evidence)
}

fn without_leader(lost_since: Option<OffsetDateTime>) -> Finding {
    const REMEDY: &str = "skep recover, which shows what can be done";
    match lost_since {
        Some(since) => Finding::failed(QUORUM, quorum_lost(since), REMEDY),
        None => Finding::failed(
            QUORUM,
            "no leader answers this manager: an election is in progress, or the quorum is lost",
            format!("run `skep doctor` again in a minute; then {REMEDY}"),
        ),
    }
}

fn of_docker(error: &SwarmError) -> Finding {
    let evidence = error.to_string();
    match error.kind {
        SwarmErrorKind::PermissionDenied => {
            Finding::skipped(DOCKER, evidence, "sudo skep doctor, or as user skep")
        }
        SwarmErrorKind::TooOld => {
            Finding::failed(DOCKER, evidence, "install Docker 20.10 or newer")
        }
        SwarmErrorKind::TooNew => Finding::failed(DOCKER, evidence, "upgrade skep"),
        SwarmErrorKind::TimedOut => Finding::failed(
            DOCKER,
            evidence,
            "Docker runs and does not answer: see `systemctl status docker` and `journalctl -u docker`",
        ),
        _ => Finding::failed(DOCKER, evidence, "systemctl start docker; see docker.host"),
    }
}

fn live_restore(engine: &Engine) -> Finding {
    const CHECK: &str = "live-restore";
    if engine.live_restore {
        let remedy = "set \"live-restore\": false in /etc/docker/daemon.json and restart Docker";
        return Finding::failed(CHECK, "it is on, and swarm mode does not work with it", remedy);
    }
    Finding::ok(CHECK, "off")
}

/// Compares the swarm that this host is in with the charter's swarm.
async fn membership(docker: &Swarm, node: Option<&Node>) -> Finding {
    const CHECK: &str = "membership";
    let local = match docker.fetch_local_node().await {
        Ok(local) => local,
        Err(error) => return Finding { check: CHECK.into(), ..of_docker(&error) },
    };
    let charter = match node {
        Some(node) => node.ledger.fetch_charter().await.ok().flatten(),
        None => None,
    };
    let open = charter.filter(|charter| charter.phase == CharterPhase::Open);
    let named = open.and_then(|charter| charter.swarm_id);
    let swarm = local.swarm_id.as_deref().unwrap_or("a swarm whose id only managers know");
    let evidence = match local.state {
        LocalState::Inactive => "in no swarm".to_owned(),
        state => format!("{state:?}, in {swarm}"),
    };
    let is_foreign = named.is_some() && local.swarm_id.is_some() && named != local.swarm_id;
    match local.state {
        LocalState::Inactive => Finding::warning(
            CHECK,
            evidence,
            "systemctl start skep, unless another program starts it later",
        ),
        _ if is_foreign => {
            let named = named.unwrap_or_default();
            let remedy =
                "if nothing there is needed: docker swarm leave --force, systemctl restart skep";
            Finding::failed(CHECK, format!("{evidence}; the charter names {named}"), remedy)
        }
        _ if !local.error.is_empty() => {
            Finding::warning(CHECK, format!("{evidence}: {}", local.error), "skep status")
        }
        _ if !local.is_sound() => {
            Finding::warning(CHECK, format!("{evidence}, no manager connected"), "skep status")
        }
        _ => Finding::ok(CHECK, evidence),
    }
}

/// Checks the space and the inodes of a file system that Docker writes to.
fn disk(root: &Path) -> Vec<Finding> {
    let disk = match Disk::of(root) {
        Ok(disk) => disk,
        Err(error) => {
            let why = format!("{}: {error}", root.display());
            return vec![Finding::skipped("disk", why, "sudo skep doctor")];
        }
    };
    let Disk { bytes, inodes } = disk;
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let space =
        format!("{:.1} of {:.1} GiB free at {}", gib(bytes.free), gib(bytes.all), root.display());
    let nodes = format!("{} of {} free at {}", inodes.free, inodes.all, root.display());
    vec![free("disk", space, bytes), free("inodes", nodes, inodes)]
}

fn free(check: &'static str, evidence: String, space: DiskSpace) -> Finding {
    let share = space.share();
    let remedy = "[janitor] enabled = true, docker system prune, or a larger volume";
    if share < FREE_AT_ALL {
        Finding::failed(check, evidence, remedy)
    } else if share < FREE_ENOUGH {
        Finding::warning(check, evidence, remedy)
    } else {
        Finding::ok(check, evidence)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_disk_that_fills_is_said_before_it_is_full() {
        let verdict =
            |free, all| super::free("disk", String::new(), DiskSpace { free, all }).verdict;
        assert_eq!(verdict(50, 100), Verdict::Ok);
        assert_eq!(verdict(9, 100), Verdict::Warning);
        assert_eq!(verdict(1, 100), Verdict::Failed);
        assert_eq!(verdict(0, 0), Verdict::Ok, "no limit");
        assert_eq!(disk(Path::new("/"))[0].check, "disk");
        assert_eq!(disk(Path::new("/nowhere"))[0].verdict, Verdict::Skipped);
    }

    #[test]
    fn the_disk_of_the_images_is_looked_at_where_it_is_another() {
        let engine = |root: &str, images: Option<&str>| Engine {
            root_dir: Some(root.into()),
            image_dir: images.map(Into::into),
            ..Engine::default()
        };
        assert_eq!(disks(&engine("/", None)), [Path::new("/")]);
        assert_eq!(disks(&engine("/", Some("/"))), [Path::new("/")]);
        let another = engine("/", Some("/proc"));
        assert_eq!(disks(&another), [Path::new("/"), Path::new("/proc")]);
        let unreadable = engine("/", Some("/nowhere"));
        assert_eq!(disks(&unreadable), [Path::new("/"), Path::new("/nowhere")], "reported");
    }

    #[tokio::test]
    async fn docker_that_is_not_there_is_a_failure_with_what_starts_it() {
        let findings = examine(&Swarm::new("unix:///nowhere/docker.sock"), None).await;
        assert_eq!((findings.len(), findings[0].verdict), (1, Verdict::Failed));
        assert!(findings[0].remedy.as_ref().unwrap().contains("systemctl start docker"));
    }

    #[test]
    fn docker_that_is_silent_is_not_started_but_looked_at() {
        let remedy = of_docker(&SwarmError::silent("read /info")).remedy.unwrap();
        assert!(remedy.contains("systemctl status docker"), "{remedy}");
    }

    #[test]
    fn a_lost_quorum_names_the_remedy_and_silence_is_no_verdict() {
        let refused = |kind| {
            let message = String::new();
            quorum(&Err(SwarmError { operation: "list the nodes", kind, message }))
        };
        assert_eq!(refused(SwarmErrorKind::TimedOut).verdict, Verdict::Skipped);
        let leaderless = refused(SwarmErrorKind::NoLeader);
        assert_eq!(leaderless.verdict, Verdict::Failed);
        assert!(leaderless.remedy.unwrap().contains("skep recover"));
        let since = OffsetDateTime::UNIX_EPOCH;
        let lost = without_leader(Some(since));
        assert_eq!((lost.verdict, lost.evidence), (Verdict::Failed, quorum_lost(since)));
    }

    #[test]
    fn live_restore_is_a_failure() {
        assert_eq!(live_restore(&Engine::default()).verdict, Verdict::Ok);
        let engine = Engine { live_restore: true, ..Engine::default() };
        assert_eq!(live_restore(&engine).verdict, Verdict::Failed);
    }
}
