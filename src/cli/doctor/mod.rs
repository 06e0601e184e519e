//! Everything that this node rests on, looked at one by one: what is right, what is not, how that shows and
//! what mends it.
//!
//! Guarantees: nothing is changed anywhere; every group of checks ends in time, and one that does not is a
//! finding; no skep has to run on this host. What cannot be known from here is said to be so.

mod command;
mod departure;
mod docker;
mod finding;
mod ledger;
mod metadata;
mod network;
mod permissions;
mod secrets;
mod unit;

use std::time::Duration;

pub use command::{Arguments, examine_and_print};
pub use finding::{Finding, Verdict};

use crate::clients::docker::Swarm;
use crate::config::Settings;

/// Longer than the SDK tries a call, and than a Docker without a leader is silent for.
const GROUP_PATIENCE: Duration = Duration::from_secs(25);

/// Looks at everything, the groups side by side. In the order in which things rest on each other.
pub async fn examine(settings: &Settings) -> Vec<Finding> {
    let docker = Swarm::new(settings.docker.host.to_string());
    let (mut findings, subject) = metadata::examine(settings, &docker).await;
    let node = subject.node.as_ref();
    let groups = tokio::join!(
        bounded("ledger", ledger::examine(node)),
        bounded("permissions", permissions::examine(node, subject.aws.as_ref())),
        bounded("secrets", secrets::examine(node)),
        bounded("docker", docker::examine(&docker, node)),
        bounded("quorum", docker::examine_quorum(settings, &docker)),
        bounded("network", network::examine(settings, &subject, &docker)),
        bounded("departure", departure::examine(settings, node)),
        bounded("unit", unit::examine(settings)),
    );
    let (ledger, permissions, secrets, docker, quorum, network, departure, unit) = groups;
    findings
        .extend([ledger, permissions, secrets, docker, quorum, network, departure, unit].concat());
    findings
}

async fn bounded(group: &'static str, examine: impl Future<Output = Vec<Finding>>) -> Vec<Finding> {
    tokio::time::timeout(GROUP_PATIENCE, examine).await.unwrap_or_else(|_| {
        vec![Finding::failed(
            group,
            format!("no answer within {GROUP_PATIENCE:?}"),
            "see whether Docker has a leader and AWS a route, and run it again",
        )]
    })
}

/// Where there is no [`Node`](crate::node::Node) to look at.
fn skipped_without_node(checks: &[&'static str]) -> Vec<Finding> {
    let why = "it is not known which instance of which cluster this is";
    checks.iter().map(|check| Finding::skipped(*check, why, "mend the above first")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_group_that_hangs_is_a_finding() {
        let findings = bounded("network", std::future::pending()).await;
        assert_eq!(findings[0].verdict, Verdict::Failed);
        assert!(findings[0].evidence.contains("25s"), "{findings:?}");
    }
}
