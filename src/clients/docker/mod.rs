//! The client of the Docker Engine API: Docker on this host, and the swarm as its managers see it.
//!
//! Guarantees: every request ends within [`CALL_TIMEOUT`]; every error names the operation; every call uses an API
//! version that the engine has offered, also after the engine was upgraded or downgraded. Assumes API 1.41 or later
//! (engine 20.10). Facts about answers and timings were measured on the engines 20.10.24 and 28.5.2.

mod api_version;
mod availability;
mod certificate;
mod cluster;
mod engine;
mod error;
#[cfg(test)]
mod fuzz;
mod join;
mod leftovers;
mod live;
mod local;
mod nodes;
mod objects;
mod overlays;
mod probe;
mod quorum;
mod raw;
mod resources;
mod services;
mod tasks;
#[cfg(test)]
pub(crate) mod tests;
mod version;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use api_version::Agreed;
pub use availability::{Availability, settle};
use certificate::Certificate;
pub use cluster::{Cluster, Rotation, Tokens, UnlockAnswer};
pub use engine::Engine;
pub use error::{SwarmError, SwarmErrorKind};
pub use join::JoinAnswer;
pub use leftovers::{KEEP_LABEL, LocalContainer, LocalImage};
pub use live::{LiveService, LiveTask, LiveWork};
pub use local::{Certified, InitSpec, LocalNode, LocalState};
pub use nodes::{NodeView, RaftView};
pub use objects::{Creatable, Named};
pub use overlays::{LeftOverVxlans, find_left_over_vxlans};
pub use probe::first_listening;
pub use quorum::Quorum;
pub use resources::Resources;
pub use services::{Service, ServiceTask};
pub use tasks::{Stop, TaskContainer};

/// Time limit of one call. In the worst case measured, Docker answers a join or a leave within 20 s, and an init within
/// one election. With a shorter limit skep would not learn the outcome.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(40);

/// The TCP port on which managers accept connections from nodes.
pub const SWARM_PORT: u16 = 2377;

/// The swarm's label with the cluster whose skep founded it.
pub const CLUSTER_LABEL: &str = "skep.cluster";

/// The swarm's label with the generation under which it was founded, or under which its quorum was re-created.
pub const GENERATION_LABEL: &str = "skep.generation";

/// The swarm's label with the generation under which its quorum was last re-created.
pub const RECOVERED_LABEL: &str = "skep.recovered";

/// The swarm's label of a swarm that skep did not found: it may hold services before its charter is open.
pub const ADOPTED_LABEL: &str = "skep.adopted";

/// The Docker daemon of this host. Creating this value makes no request, so a node can have it before Docker runs.
/// Cheap to clone; clones share the API version and the kept answers.
#[derive(Clone, Debug)]
pub struct Swarm {
    host: String,
    agreed: Arc<Agreed>,
    /// The certificate that was read last. Its node and its swarm do not change.
    certificate: Arc<Mutex<Option<Certificate>>>,
    /// Time of the last request for this host's place in the swarm, and Docker's answer; no answer where it failed or
    /// the node was not settled.
    lately: Arc<std::sync::Mutex<(Option<Instant>, Option<LocalNode>)>>,
    /// Lock with which concurrent callers share one request; holds the time and the error of the last failed one.
    asking: Arc<Mutex<Option<(Instant, SwarmError)>>>,
}

impl Swarm {
    /// Returns the client of the daemon at `host` (`unix://…`).
    #[must_use]
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            agreed: Arc::default(),
            certificate: Arc::default(),
            lately: Arc::default(),
            asking: Arc::default(),
        }
    }
}
