//! Docker on this host, and the swarm as its managers see it, over the Docker Engine API.
//!
//! Guarantees: every call ends within [`CALL_TIMEOUT`]; every error names the operation. Assumes
//! API 1.41 or later (engine 20.10). Facts about answers and timings were measured on the engines
//! 20.10.24 and 28.5.2.

mod availability;
mod cluster;
mod engine;
mod error;
mod join;
mod leftovers;
mod local;
mod nodes;
mod probe;
mod quorum;
mod raw;
mod services;
mod tasks;

use std::sync::Arc;
use std::time::Duration;

use bollard::{ClientVersion, Docker};
use tokio::sync::{Mutex, OnceCell};

pub use availability::{Availability, settle};
pub use cluster::{Cluster, Rotation, Tokens, UnlockAnswer};
pub use engine::Engine;
pub use error::{SwarmError, SwarmErrorKind};
pub use join::JoinAnswer;
pub use leftovers::{KEEP_LABEL, LocalContainer, LocalImage};
pub use local::{Certificate, InitSpec, LocalNode, LocalState};
pub use nodes::{NodeView, RaftView};
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

/// The API versions that skep speaks, in the order in which they are tried: 20.10's, which every
/// engine up to 28 still knows, and the oldest that engine 29 takes. (bollard's own negotiation
/// asks in its newest version, which older engines refuse to answer.)
const SPOKEN: [ClientVersion; 2] = [
    ClientVersion { major_version: 1, minor_version: 41 },
    ClientVersion { major_version: 1, minor_version: 44 },
];

/// The Docker daemon of this host. Connects when it is first asked, so that a node can have one
/// before Docker is up. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Swarm {
    host: String,
    docker: Arc<OnceCell<Docker>>,
    /// The one that was read last: it names node and swarm, which do not change.
    certificate: Arc<Mutex<Option<Certificate>>>,
}

impl Swarm {
    /// A daemon behind `host` (`unix://…`).
    #[must_use]
    pub fn new(host: impl Into<String>) -> Self {
        Self { host: host.into(), docker: Arc::default(), certificate: Arc::default() }
    }

    /// Connects, unless that is done, and agrees on an API version.
    ///
    /// # Errors
    /// [`SwarmErrorKind::Unreachable`] where nobody listens, [`SwarmErrorKind::TooOld`] or
    /// [`SwarmErrorKind::TooNew`] where the daemon speaks no version that skep does.
    pub async fn connect(&self) -> Result<&Docker, SwarmError> {
        self.docker.get_or_try_init(|| self.negotiate()).await
    }

    async fn negotiate(&self) -> Result<Docker, SwarmError> {
        const OPERATION: &str = "connect to Docker";
        let mut refusal = None;
        for version in &SPOKEN {
            let docker = Docker::connect_with_unix(&self.host, CALL_TIMEOUT.as_secs(), version)
                .map_err(|error| SwarmError::new(OPERATION, &error))?;
            match docker.version().await.map_err(|error| SwarmError::new(OPERATION, &error)) {
                Ok(_) => return Ok(docker),
                Err(error) if error.kind == SwarmErrorKind::TooNew => refusal = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(refusal.unwrap_or_else(|| SwarmError::unexpected(OPERATION, "no version was tried")))
    }
}
