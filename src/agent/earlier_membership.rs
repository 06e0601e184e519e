//! Checks after a restart of skep whether this machine was Ready before and Docker still names the same node: then the
//! restart is no reason to replace the node.
//!
//! Guarantees: "yes" needs Docker's answer or the node certificate, for a node that was Ready since this start of
//! the machine; a missing answer changes nothing. Neither AWS nor the swarm's managers are asked: this check is for the
//! time in which they do not answer.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clients::docker::{LocalNode, LocalState, Swarm, SwarmError};
use crate::clients::systemd;
use crate::common::disk;
use crate::common::fact::Fact;
use crate::common::state::{Phase, StateHandle};
use crate::config::Settings;
use crate::node::Node;

const FILE: &str = "was-ready.json";
/// Time between two checks; a load balancer asks at most every 5 s.
const INTERVAL: Duration = Duration::from_secs(2);

/// The node that was Ready here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    boot_id: String,
    node_id: String,
}

/// Records on disk that this node is Ready. If that fails, a restart during an outage makes the node look unhealthy.
pub fn remember(node: &Node, node_id: &str) {
    let record = Record { boot_id: node.boot_id.clone(), node_id: node_id.to_owned() };
    let path = path(&node.settings.state_dir);
    let written = serde_json::to_vec(&record).map_err(io::Error::from);
    if let Err(error) = written.and_then(|text| disk::replace(&path, &text)) {
        tracing::warn!("{}: {error}", path.display());
    }
}

/// Whether this node was Ready since this start of the machine, and was not found out of the swarm afterwards.
pub fn was_ready(node: &Node) -> bool {
    load(&node.settings.state_dir).is_some_and(|record| record.boot_id == node.boot_id)
}

/// Removes the record, because the node is out of the swarm in which it was Ready, or cannot join it.
pub fn forget(node: &Node) {
    let path = path(&node.settings.state_dir);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!("{}: {error}", path.display());
        }
        _ => {}
    }
    node.state.update(|state| state.is_still_member = Fact::No);
}

/// Keeps `is_still_member` current until the node is Ready (again). Never returns: spawn it.
pub async fn follow(settings: Settings, state: StateHandle) -> Infallible {
    let docker = Swarm::new(settings.docker.host.to_string());
    // Without a boot id, all starts of the machine would look the same.
    let Ok(boot_id) = systemd::boot_id() else { return std::future::pending().await };
    loop {
        if matches!(state.now().phase, Phase::Starting | Phase::Booting)
            && let Some(record) = load(&settings.state_dir)
        {
            match judge(&record, &boot_id, &look(&docker).await) {
                Fact::CannotTell => {}
                known if known == state.now().is_still_member => {}
                known => state.update(|state| state.is_still_member = known),
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Reads Docker's answer, completed from the certificate: Docker reports no node id while it is in error.
async fn look(docker: &Swarm) -> Result<LocalNode, SwarmError> {
    let mut local = docker.fetch_local_node().await?;
    if local.node_id.is_none() && local.state != LocalState::Inactive {
        docker.complete_by_certificate(&mut local).await?;
    }
    Ok(local)
}

/// Judges whether this machine is still the node that was Ready since this start.
fn judge(record: &Record, boot_id: &str, look: &Result<LocalNode, SwarmError>) -> Fact {
    match look {
        _ if record.boot_id != boot_id => Fact::No,
        Err(_) => Fact::CannotTell,
        Ok(local) if local.state == LocalState::Inactive => Fact::No,
        Ok(local) => match &local.node_id {
            Some(node_id) => Fact::from(*node_id == record.node_id),
            None => Fact::CannotTell,
        },
    }
}

/// Reads the record; an unreadable one counts as absent.
fn load(state_dir: &Path) -> Option<Record> {
    serde_json::from_slice(&std::fs::read(path(state_dir)).ok()?).ok()
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::docker::SwarmErrorKind;

    fn record() -> Record {
        Record { boot_id: "boot-1".into(), node_id: "node-1".into() }
    }

    fn local(state: LocalState, node_id: Option<&str>) -> Result<LocalNode, SwarmError> {
        Ok(LocalNode {
            state,
            node_id: node_id.map(str::to_owned),
            swarm_id: None,
            is_manager: true,
            has_managers: false,
            managers: vec![],
            error: "rpc error: The swarm does not have a leader".into(),
            address: None,
            live_restore: false,
        })
    }

    #[test]
    fn only_the_node_that_was_ready_at_this_start_of_the_machine_is_still_a_member() {
        use LocalState::{Active, Error, Inactive, Pending};
        let of = |look| judge(&record(), "boot-1", &look);
        for state in [Active, Pending, Error] {
            assert_eq!(of(local(state, Some("node-1"))), Fact::Yes, "{state:?}");
            assert_eq!(of(local(state, Some("node-2"))), Fact::No, "{state:?}");
            assert_eq!(of(local(state, None)), Fact::CannotTell, "{state:?}");
        }
        assert_eq!(of(local(Inactive, None)), Fact::No);
        assert_eq!(of(local(Inactive, Some("node-1"))), Fact::No);
        let silence = SwarmError {
            operation: "read /info",
            kind: SwarmErrorKind::TimedOut,
            message: String::new(),
        };
        assert_eq!(of(Err(silence)), Fact::CannotTell);
        assert_eq!(judge(&record(), "boot-2", &local(Active, Some("node-1"))), Fact::No);
    }

    #[test]
    fn what_is_written_is_read_and_nonsense_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()), None);
        let text = serde_json::to_vec(&record()).unwrap();
        disk::replace(&path(dir.path()), &text).unwrap();
        assert_eq!(load(dir.path()), Some(record()));
        std::fs::write(path(dir.path()), "{\"boot_id\"").unwrap();
        assert_eq!(load(dir.path()), None);
    }
}
