//! Swarms without Docker's network for published ports.
//!
//! Docker makes `ingress` with every swarm and sets it up on every node: a dozen processes each, a fifth of what a
//! scenario costs. Docker has no option that leaves it out, so it is removed as soon as there is a manager.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::AbortHandle;

use super::{Ec2, Instance};

/// Each node that joins before it is gone sets it up.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A manager that does not answer in time is asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Removes the network from each new swarm until it is dropped.
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
    let mut done = BTreeSet::new();
    while let Some(machines) = machines.upgrade() {
        for instance in machines.instances().into_iter().filter(|instance| instance.is_on()) {
            let Some(swarm) = instance.swarm_by_certificate() else { continue };
            if !done.contains(&swarm) && is_removed(&instance).await {
                done.insert(swarm);
            }
        }
        drop(machines);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// `false` also where this node is no manager, or the network is not there yet.
async fn is_removed(instance: &Instance) -> bool {
    let Ok(docker) = instance.docker() else { return false };
    let removed = tokio::time::timeout(ANSWER_WITHIN, docker.remove_network("ingress")).await;
    matches!(removed, Ok(Ok(())))
}
