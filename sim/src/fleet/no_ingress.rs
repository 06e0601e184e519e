//! Removes Docker's network for published ports from swarms.
//!
//! Docker creates `ingress` with every swarm and sets it up on every node: a dozen processes each, a quarter of the
//! cost of a scenario. Docker has no option to omit it, so it is removed as soon as there is a manager.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bollard::errors::Error;
use tokio::task::AbortHandle;

use super::{Ec2, Instance};

/// Short: each node that joins before the removal sets the network up.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Timeout of one request; a manager that does not answer in time is asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Removes the network from each new swarm until this value is dropped.
#[derive(Debug)]
pub(super) struct NoIngress(AbortHandle);

impl NoIngress {
    pub(super) fn keep(machines: &Arc<Ec2>) -> NoIngress {
        let looking = look(Arc::downgrade(machines));
        NoIngress(machines.site.runtime.spawn(looking).abort_handle())
    }
}

impl Drop for NoIngress {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn look(machines: Weak<Ec2>) {
    let (mut asked, mut done) = (BTreeSet::new(), BTreeSet::new());
    while let Some(machines) = machines.upgrade() {
        for instance in machines.instances().into_iter().filter(|instance| instance.is_on()) {
            let Some(swarm) = instance.swarm_by_certificate() else { continue };
            if done.contains(&swarm) {
                continue;
            }
            match remove(&instance).await {
                Removed::Yes => drop(done.insert(swarm)),
                Removed::NotThere if asked.contains(&swarm) => drop(done.insert(swarm)),
                Removed::NotThere | Removed::Refused => {}
                Removed::NoAnswer => drop(asked.insert(swarm)),
            }
        }
        drop(machines);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

enum Removed {
    Yes,
    /// Not created yet, or already removed.
    NotThere,
    /// By a worker, or by a manager that has no leader.
    Refused,
    /// Unknown: it may have been removed.
    NoAnswer,
}

async fn remove(instance: &Instance) -> Removed {
    let Ok(docker) = instance.docker() else { return Removed::Refused };
    match tokio::time::timeout(ANSWER_WITHIN, docker.remove_network("ingress")).await {
        Ok(Ok(())) => Removed::Yes,
        Ok(Err(Error::DockerResponseServerError { status_code: 404, .. })) => Removed::NotThere,
        Ok(Err(_)) => Removed::Refused,
        Err(_) => Removed::NoAnswer,
    }
}
