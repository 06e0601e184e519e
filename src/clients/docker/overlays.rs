//! Finds the encrypted overlay networks, and the VXLAN interfaces that an earlier membership has left on this host.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use bollard::Docker;
use bollard::query_parameters::ListNetworksOptionsBuilder;
use thiserror::Error;

use super::{Swarm, SwarmError};
use crate::common::errors::Explained;

/// The driver option of an encrypted network.
const ENCRYPTED: &str = "encrypted";
/// The host's own interfaces.
const INTERFACES: &str = "/sys/class/net";
/// Docker names the VXLAN interface of a network `vx-<id>-<network>` (moby, `overlay/ov_network.go`), and moves it
/// into the network's namespace at once.
const VXLAN: &str = "vx-";

impl Swarm {
    /// Fetches the names of the swarm's encrypted overlay networks.
    ///
    /// # Errors
    /// When Docker does not answer.
    pub async fn fetch_encrypted_networks(&self) -> Result<Vec<String>, SwarmError> {
        let filters = HashMap::from([("driver".to_owned(), vec!["overlay".to_owned()])]);
        let options = &ListNetworksOptionsBuilder::default().filters(&filters).build();
        let list =
            |docker: Docker| async move { docker.list_networks(Some(options.clone())).await };
        let networks = self.call("list the networks", list).await?;
        let is_encrypted = |options: &HashMap<String, String>| {
            options.get(ENCRYPTED).is_some_and(|value| value != "false")
        };
        let encrypted =
            networks.into_iter().filter(|it| it.options.as_ref().is_some_and(is_encrypted));
        Ok(encrypted.filter_map(|network| network.name).collect())
    }
}

/// Returns the VXLAN interfaces in the host's namespace, which no network uses. While Docker sets up a network, its
/// interface is one of them for milliseconds. One that stays was left over when the node left a swarm, and Docker
/// rejects the tasks on the next network with its number: `error creating vxlan interface: file exists`.
///
/// # Errors
/// When the interfaces cannot be listed.
pub fn find_left_over_vxlans() -> io::Result<Vec<String>> {
    vxlans_in(Path::new(INTERFACES))
}

fn vxlans_in(interfaces: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(interfaces)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(VXLAN) {
            found.push(name);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The names of VXLAN interfaces that are left over.
#[derive(Debug, Error)]
#[error("{}", self.sentence(": "))]
pub struct LeftOverVxlans(pub Vec<String>);

impl Explained for LeftOverVxlans {
    fn evidence(&self) -> String {
        let names = self.0.join(", ");
        format!(
            "{names} is left over from an overlay network of an earlier membership, so Docker rejects tasks on a network with the same number"
        )
    }

    fn remedy(&self) -> Option<String> {
        let commands: Vec<String> =
            self.0.iter().map(|name| format!("ip link delete {name}")).collect();
        Some(commands.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_interfaces_of_overlay_networks_are_left_over() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(vxlans_in(dir.path()).unwrap(), Vec::<String>::new());
        for name in ["lo", "eth0", "docker_gwbridge", "vethvx-1", "vx-001001-kq2jx", "vx-001002-a"]
        {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let found = vxlans_in(dir.path()).unwrap();
        assert_eq!(found, ["vx-001001-kq2jx", "vx-001002-a"]);
        let text = LeftOverVxlans(found).to_string();
        assert!(
            text.ends_with("ip link delete vx-001001-kq2jx; ip link delete vx-001002-a"),
            "{text}"
        );
        assert!(vxlans_in(&dir.path().join("nowhere")).is_err());
    }
}
