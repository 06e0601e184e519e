//! Watches every fleet for a second swarm in one cluster, which must never exist.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::bail;
use tokio::task::AbortHandle;

use super::Ec2;

/// Certificates are files on this machine; reading them costs almost nothing.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The tag that names an instance's cluster.
const CLUSTER_TAG: &str = "skep:cluster";

/// By cluster: each swarm id in a node certificate, and the instance with that certificate.
type Seen = BTreeMap<String, BTreeMap<String, String>>;

/// Polls the certificates of all instances until this value is dropped.
#[derive(Debug)]
pub(super) struct OneSwarm {
    seen: Arc<Mutex<Seen>>,
    looking: AbortHandle,
}

impl OneSwarm {
    pub(super) fn watch(machines: &Arc<Ec2>) -> OneSwarm {
        let seen = Arc::<Mutex<Seen>>::default();
        let looking = look(Arc::downgrade(machines), Arc::clone(&seen));
        OneSwarm { seen, looking: machines.site.runtime.spawn(looking).abort_handle() }
    }

    /// # Errors
    /// When a cluster has had more than one swarm.
    pub(super) fn judge(&self) -> anyhow::Result<()> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((cluster, swarms)) = seen.iter().find(|(_, swarms)| swarms.len() > 1) else {
            return Ok(());
        };
        let swarms: Vec<String> =
            swarms.iter().map(|(swarm, by)| format!("{swarm} on {by}")).collect();
        bail!("cluster {cluster} has had more than one swarm: {}", swarms.join(", "))
    }
}

impl Drop for OneSwarm {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

async fn look(machines: Weak<Ec2>, seen: Arc<Mutex<Seen>>) {
    while let Some(machines) = machines.upgrade() {
        for instance in machines.instances().into_iter().filter(|instance| instance.is_on()) {
            let Some(cluster) = instance.launch().tags.get(CLUSTER_TAG) else { continue };
            let Some(swarm) = instance.swarm_by_certificate() else { continue };
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let swarms = seen.entry(cluster.clone()).or_default();
            swarms.entry(swarm).or_insert_with(|| instance.id().to_owned());
        }
        drop(machines);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
