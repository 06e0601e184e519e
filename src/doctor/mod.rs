//! Checks everything that this node depends on: each finding has a verdict, its evidence and a remedy.
//!
//! `skep doctor` runs the checks, and so does the skep of a node that a manager asks.
//!
//! Guarantees: nothing is changed anywhere; every group of checks has a time limit, and a group that exceeds it is a
//! finding; no skep has to run on this host. A check that is not possible from this host is reported as skipped.

mod departure;
mod docker;
mod finding;
mod ledger;
mod metadata;
mod network;
mod permissions;
mod secrets;
mod unit;
mod webhook;

use std::time::Duration;

pub use finding::{Finding, Verdict, report, worst};

use crate::clients::docker::Swarm;
use crate::config::Settings;

/// Time limit of a group: longer than the SDK retries a call, and than a Docker without a leader takes to answer.
const GROUP_PATIENCE: Duration = Duration::from_secs(25);

/// Remedies for a group whose checks do not end, by what they ask.
const AWS: &str = "check that AWS is reachable from this subnet (routes, endpoints, security groups), and run `skep doctor` again";
const DOCKER: &str = "Docker on this host does not answer: see `systemctl status docker` and `journalctl -u docker`, and run `skep doctor` again";
const SYSTEMD: &str =
    "systemd or logind does not answer: see `systemctl status`, and run `skep doctor` again";
const FILES: &str = "check the file system of the webhook's files, and run `skep doctor` again";

/// Runs all checks, the groups in parallel. Returns the findings in the order of dependence.
pub async fn examine(settings: &Settings) -> Vec<Finding> {
    let docker = Swarm::new(settings.docker.host.to_string());
    let (mut findings, subject) = metadata::examine(settings, &docker).await;
    let node = subject.node.as_ref();
    let groups = tokio::join!(
        bounded("ledger", AWS, ledger::examine(node)),
        bounded("permissions", AWS, permissions::examine(node, subject.aws.as_ref())),
        bounded("secrets", AWS, secrets::examine(node)),
        bounded("docker", DOCKER, docker::examine(&docker, node)),
        bounded("quorum", DOCKER, docker::examine_quorum(settings, &docker)),
        bounded("network", AWS, network::examine(settings, &subject, &docker)),
        bounded("departure", AWS, departure::examine(settings, node)),
        bounded("unit", SYSTEMD, unit::examine(settings)),
        bounded("webhook", FILES, webhook::examine(settings)),
    );
    let (ledger, permissions, secrets, docker, quorum, network, departure, unit, webhook) = groups;
    findings.extend(
        [ledger, permissions, secrets, docker, quorum, network, departure, unit, webhook].concat(),
    );
    findings
}

/// Runs a group of checks. `remedy` is about the program or service that the group asks.
async fn bounded(
    group: &'static str,
    remedy: &'static str,
    examine: impl Future<Output = Vec<Finding>>,
) -> Vec<Finding> {
    tokio::time::timeout(GROUP_PATIENCE, examine).await.unwrap_or_else(|_| {
        vec![Finding::failed(group, format!("no answer within {GROUP_PATIENCE:?}"), remedy)]
    })
}

/// Returns skipped findings for checks that need a [`Node`](crate::node::Node).
fn skipped_without_node(checks: &[&'static str]) -> Vec<Finding> {
    let why = "the instance or its cluster is not known";
    checks.iter().map(|check| Finding::skipped(*check, why, "fix the above first")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_group_that_hangs_is_a_finding() {
        let findings = bounded("network", AWS, std::future::pending()).await;
        assert_eq!(findings[0].verdict, Verdict::Failed);
        assert!(findings[0].evidence.contains("25s"), "{findings:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_docker_that_hangs_is_a_finding_about_docker_alone() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        // Nobody accepts its connections.
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let docker = Swarm::new(format!("unix://{}", socket.display()));
        let findings = bounded("docker", DOCKER, docker::examine(&docker, None)).await;
        let remedy = findings[0].remedy.as_ref().unwrap();
        assert_eq!(findings[0].verdict, Verdict::Failed);
        assert!(remedy.contains("systemctl status docker"), "{remedy}");
        assert!(!remedy.contains("AWS") && !remedy.contains("leader"), "{remedy}");
    }
}
