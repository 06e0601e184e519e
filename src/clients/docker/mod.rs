//! Docker on this host, and the swarm as its managers see it, over the Docker Engine API.
//!
//! Guarantees: every request ends within [`CALL_TIMEOUT`]; every error names the operation; every call
//! speaks an API version that the engine has offered, also after the engine was upgraded or downgraded.
//! Assumes API 1.41 or later (engine 20.10). Facts about answers and timings were measured on the
//! engines 20.10.24 and 28.5.2.

mod api;
mod api_version;
mod availability;
mod certificate;
mod cluster;
mod engine;
mod error;
mod join;
mod leftovers;
mod local;
mod nodes;
mod overlays;
mod probe;
mod quorum;
mod raw;
mod services;
mod tasks;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use api::Agreed;
pub use availability::{Availability, settle};
use certificate::Certificate;
pub use cluster::{Cluster, Rotation, Tokens, UnlockAnswer};
pub use engine::Engine;
pub use error::{SwarmError, SwarmErrorKind};
pub use join::JoinAnswer;
pub use leftovers::{KEEP_LABEL, LocalContainer, LocalImage};
pub use local::{Certified, InitSpec, LocalNode, LocalState};
pub use nodes::{NodeView, RaftView};
pub use overlays::{explain_left_over, find_left_over_vxlans};
pub use probe::first_listening;
pub use quorum::Quorum;
pub use services::{Service, ServiceTask};
pub use tasks::{LiveTask, Stop, TaskContainer};

/// Docker answers a join or leave within 20 s in the worst case measured, an init within one
/// election; a client that gave up sooner would not know what happened.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(40);

/// The port on which managers talk to nodes (TCP).
pub const SWARM_PORT: u16 = 2377;

/// The swarm's label that names the cluster whose skep founded it.
pub const CLUSTER_LABEL: &str = "skep.cluster";

/// The swarm's label with the generation under which it was founded, or its quorum re-created.
pub const GENERATION_LABEL: &str = "skep.generation";

/// The swarm's label with the generation under which its quorum was last re-created.
pub const RECOVERED_LABEL: &str = "skep.recovered";

/// The Docker daemon of this host. Asked only when there is something to ask, so that a node can have one
/// before Docker is up. Cheap to clone; clones share what they know of it.
#[derive(Clone, Debug)]
pub struct Swarm {
    host: String,
    agreed: Arc<Agreed>,
    /// The one that was read last: it names node and swarm, which do not change.
    certificate: Arc<Mutex<Option<Certificate>>>,
    /// Docker's last answer about this host, and when it was asked; none where that left something open.
    lately: Arc<std::sync::Mutex<(Option<Instant>, Option<LocalNode>)>>,
    /// Those who want such an answer at the same time ask once: when the last question failed, and how.
    asking: Arc<Mutex<Option<(Instant, SwarmError)>>>,
}

impl Swarm {
    /// A daemon behind `host` (`unix://…`).
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
