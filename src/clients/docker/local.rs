//! Reads and changes this host's own place in a swarm: init, join, leave.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use bollard::models::{
    LocalNodeState, SwarmInfo, SwarmInitRequest, SwarmJoinRequest, SwarmSpec,
    SwarmSpecEncryptionConfig, SystemInfo,
};
use bollard::query_parameters::LeaveSwarmOptionsBuilder;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::certificate::{self, CERTIFICATE_SOCKET};
use super::raw::with_availability;
use super::{
    Availability, CALL_TIMEOUT, Certificate, JoinAnswer, SWARM_PORT, Swarm, SwarmError,
    SwarmErrorKind,
};
use crate::common::fact::Fact;
use crate::common::instance::Role;

const READ_CERTIFICATE: &str = "read the node certificate";

/// This host, as Docker reports it (`/info`, and the node certificate where `/info` lacks a value).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalNode {
    /// Whether this host is in a swarm, by `/info`.
    pub state: LocalState,
    /// Docker's id of this node, from `/info` or the certificate; `None` where neither names a node.
    pub node_id: Option<String>,
    /// On a manager from `/info`, on a worker from its certificate. `None` where there is no certificate, or it cannot
    /// be read.
    pub swarm_id: Option<String>,
    /// Whether the control API of the swarm is available here, that is, whether this node is a manager.
    pub is_manager: bool,
    /// Whether Docker lists any manager. False on a node that is no longer in a swarm.
    pub has_managers: bool,
    /// Addresses of the managers that Docker connects to; empty where one of them cannot be parsed.
    pub managers: Vec<IpAddr>,
    /// Docker's error text; empty where there is no error.
    pub error: String,
    /// The address that this node advertises.
    pub address: Option<String>,
    /// Whether `live-restore` is on, which is incompatible with swarm mode.
    pub live_restore: bool,
}

/// Docker's `LocalNodeState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalState {
    /// This host is in no swarm.
    Inactive,
    /// A join is in progress in the background.
    Pending,
    /// This host is a node of a swarm.
    Active,
    /// The node has failed or cannot start; [`LocalNode::error`] has the cause.
    Error,
    /// Autolock: the node's keys are encrypted until it is unlocked.
    Locked,
}

/// Parameters of `docker swarm init`.
#[derive(Clone, Debug)]
pub struct InitSpec {
    /// Address that the node advertises: other nodes reach its port 2377 there.
    pub address: IpAddr,
    /// CIDRs for overlay networks; Docker's default where empty.
    pub address_pool: Vec<String>,
    /// Prefix length of one overlay network, such as 24.
    pub subnet_size: u32,
    /// Labels of the swarm object, by which a founder recognises the swarm that it made before a crash.
    pub labels: HashMap<String, String>,
    /// Availability of the founder itself.
    pub availability: Availability,
    /// Whether managers that restart need the unlock key.
    pub autolock: bool,
    /// Re-creates the quorum on a manager that has lost it: the manager keeps the swarm's state, and is the only
    /// manager.
    pub force_new_cluster: bool,
}

/// The certificate on this host, compared with the node that Docker reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certified {
    /// It is this node's. Docker's CA has signed the role.
    As(Role),
    /// It is another node's, of an earlier membership of this host (it survives a forced leave for a moment), and
    /// proves nothing.
    OfAnother,
    /// There is no certificate.
    Nothing,
}

impl LocalNode {
    fn complete(&mut self, certificate: Option<Certificate>) -> Certified {
        let Some(Certificate { swarm_id, node_id, is_manager }) = certificate else {
            return Certified::Nothing;
        };
        if self.node_id.as_ref().is_some_and(|id| *id != node_id) {
            return Certified::OfAnother;
        }
        self.node_id = Some(node_id);
        self.swarm_id.get_or_insert(swarm_id);
        Certified::As(if is_manager { Role::Manager } else { Role::Worker })
    }

    fn of(info: &SystemInfo, certificate: Option<Certificate>) -> Self {
        let swarm = info.swarm.clone().unwrap_or_default();
        let text = |value: Option<String>| value.filter(|text| !text.is_empty());
        let state = match swarm.local_node_state {
            Some(LocalNodeState::ACTIVE) => LocalState::Active,
            Some(LocalNodeState::PENDING) => LocalState::Pending,
            Some(LocalNodeState::ERROR) => LocalState::Error,
            Some(LocalNodeState::LOCKED) => LocalState::Locked,
            // Docker always reports a state: `read_local_node` refuses an answer without one.
            Some(LocalNodeState::INACTIVE | LocalNodeState::EMPTY) | None => LocalState::Inactive,
        };
        let remotes = swarm.remote_managers.unwrap_or_default();
        let address = |addr: Option<String>| Some(addr?.parse::<SocketAddr>().ok()?.ip());
        let addresses: Option<Vec<IpAddr>> =
            remotes.iter().map(|remote| address(remote.addr.clone())).collect();
        let mut local = Self {
            state,
            swarm_id: text(swarm.cluster.and_then(|cluster| cluster.id)),
            node_id: text(swarm.node_id),
            is_manager: swarm.control_available.unwrap_or_default(),
            has_managers: !remotes.is_empty(),
            managers: addresses.unwrap_or_default(),
            error: swarm.error.unwrap_or_default(),
            address: text(swarm.node_addr),
            live_restore: info.live_restore_enabled.unwrap_or_default(),
        };
        local.complete(certificate);
        local
    }

    /// Returns the role that Docker reports for this node now.
    #[must_use]
    pub fn role(&self) -> Role {
        if self.is_manager { Role::Manager } else { Role::Worker }
    }

    /// Whether the node is clearly in the swarm or out of it, so that Docker's answer about the role holds.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(self.state, LocalState::Active | LocalState::Inactive)
    }

    /// Whether this node is a manager. A Docker that is starting, in error or locked cannot tell, unless it reports a
    /// manager.
    #[must_use]
    pub fn serves_as_manager(&self) -> Fact {
        if self.is_manager || self.is_settled() { self.is_manager.into() } else { Fact::CannotTell }
    }

    /// Whether Docker's error is about a certificate, such as one that expired while the machine was off.
    #[must_use]
    pub fn is_certificate_refused(&self) -> bool {
        let says = |text: &str| self.error.contains(text);
        says("x509") || says("certificate has expired") || says("bad certificate")
    }

    /// Whether it advertises another address than `own`: that of an interface which was replaced, or of the machine
    /// from which an image was made.
    #[must_use]
    pub fn advertises_other_than(&self, own: IpAddr) -> bool {
        let advertised = self.address.as_ref().and_then(|it| it.parse::<IpAddr>().ok());
        advertised.is_some_and(|it| it != own)
    }

    /// Whether it is active, with a manager connected and no error.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.state == LocalState::Active && self.has_managers && self.error.is_empty()
    }
}

impl Swarm {
    /// Fetches this host's present place in a swarm.
    ///
    /// # Errors
    /// When Docker does not answer.
    pub async fn fetch_local_node(&self) -> Result<LocalNode, SwarmError> {
        let asked_at = Instant::now();
        let read = self.read_local_node().await;
        let settled = read.as_ref().ok().filter(|local| local.is_settled());
        let mut lately = self.lately();
        // An earlier request may be answered later.
        if lately.0.is_none_or(|before| before <= asked_at) {
            *lately = (Some(asked_at), settled.cloned());
        }
        read
    }

    /// Like [`Swarm::fetch_local_node`], but an answer of the last `age` is enough. Only an answer about a settled node
    /// is kept. Docker starts two programs for each answer, so callers that only wait for a change share it.
    ///
    /// # Errors
    /// As for [`Swarm::fetch_local_node`].
    pub async fn fetch_local_node_lately(&self, age: Duration) -> Result<LocalNode, SwarmError> {
        let begin = Instant::now();
        let mut failed = self.asking.lock().await;
        // Prevents the waiting callers from asking a hanging Docker one after the other.
        if let Some((at, error)) = &*failed
            && *at >= begin
        {
            return Err(error.clone());
        }
        let (asked_at, local) = self.lately().clone();
        if let Some(local) = local
            && asked_at.is_some_and(|at| at.elapsed() < age)
        {
            return Ok(local);
        }
        let read = self.fetch_local_node().await;
        *failed = read.as_ref().err().map(|error| (Instant::now(), error.clone()));
        read
    }

    fn lately(&self) -> MutexGuard<'_, (Option<Instant>, Option<LocalNode>)> {
        self.lately.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read_local_node(&self) -> Result<LocalNode, SwarmError> {
        let info = self.call("read /info", |docker| async move { docker.info().await }).await?;
        let swarm = info.swarm.as_ref();
        if swarm
            .and_then(|swarm| swarm.local_node_state)
            .is_none_or(|it| it == LocalNodeState::EMPTY)
        {
            // Docker always reports a state, if only `inactive`: without one nothing can be concluded.
            return Err(SwarmError::unexpected("read /info", "the answer has no swarm state"));
        }
        let node_id = certified_node(swarm);
        let certificate = match (&info.docker_root_dir, node_id) {
            (Some(root), Some(node_id)) => self.certificate_of(node_id, Path::new(root)).await?,
            _ => None,
        };
        Ok(LocalNode::of(&info, certificate))
    }

    /// Whether this node is a manager, by an answer of the last `age`. An error is "cannot tell".
    pub async fn is_manager_lately(&self, age: Duration) -> Fact {
        let local = self.fetch_local_node_lately(age).await;
        local.map_or(Fact::CannotTell, |local| local.serves_as_manager())
    }

    /// Returns the certificate of this node, and reads it where the kept one is another node's. Also returns `None`
    /// where another read would fail alike: a caller then uses this node's row.
    async fn certificate_of(
        &self,
        node_id: &str,
        docker_root: &Path,
    ) -> Result<Option<Certificate>, SwarmError> {
        let mut known = self.certificate.lock().await;
        if known.as_ref().is_none_or(|certificate| certificate.node_id != node_id) {
            *known = match certificate::read(docker_root, CERTIFICATE_SOCKET).await {
                Err(error) if certificate::is_lasting(&error) => {
                    tracing::debug!("{READ_CERTIFICATE}: {error}");
                    None
                }
                read => read
                    .map_err(|error| SwarmError::unexpected(READ_CERTIFICATE, error.to_string()))?,
            };
        }
        Ok(known.clone())
    }

    /// Completes Docker's answer with the certificate on this host: Docker reports no node while it is in error, and no
    /// swarm on a worker and on a manager without a leader.
    ///
    /// # Errors
    /// When Docker does not answer, or the certificate cannot be read; `local` is unchanged then.
    pub async fn complete_by_certificate(
        &self,
        local: &mut LocalNode,
    ) -> Result<Certified, SwarmError> {
        Ok(local.complete(self.fetch_certificate().await?))
    }

    /// Reads the certificate on this host, whether Docker reports a node or not. It may have expired, and survives a
    /// forced leave for a moment. `None` only where it certainly does not exist.
    ///
    /// # Errors
    /// When Docker does not answer, or the certificate cannot be read.
    async fn fetch_certificate(&self) -> Result<Option<Certificate>, SwarmError> {
        let info = self.call("read /info", |docker| async move { docker.info().await }).await?;
        let Some(root) = info.docker_root_dir.filter(|root| !root.is_empty()) else {
            return Err(SwarmError::unexpected(
                READ_CERTIFICATE,
                "Docker does not report its root directory",
            ));
        };
        let read = certificate::read(Path::new(&root), CERTIFICATE_SOCKET).await;
        read.map_err(|error| SwarmError::unexpected(READ_CERTIFICATE, error.to_string()))
    }

    /// Founds a swarm on this host, or re-creates the quorum of the present one.
    ///
    /// # Errors
    /// Docker's refusal.
    pub async fn init(&self, spec: InitSpec) -> Result<(), SwarmError> {
        let request = SwarmInitRequest {
            listen_addr: Some(listen_address(spec.address)),
            advertise_addr: Some(spec.address.to_string()),
            default_addr_pool: Some(spec.address_pool).filter(|pool| !pool.is_empty()),
            // The engine has no default: with a pool and no size its allocator stops, and no task of the swarm ever
            // starts.
            subnet_size: Some(spec.subnet_size),
            force_new_cluster: Some(spec.force_new_cluster),
            spec: Some(SwarmSpec {
                labels: Some(spec.labels),
                encryption_config: Some(SwarmSpecEncryptionConfig {
                    auto_lock_managers: Some(spec.autolock),
                }),
                ..SwarmSpec::default()
            }),
            ..SwarmInitRequest::default()
        };
        let request = with_availability(&request, spec.availability)?;
        self.post("init the swarm", "swarm/init", &request).await
    }

    /// Joins through one manager. Docker uses only the first of several addresses, so skep passes one.
    pub async fn join(
        &self,
        address: IpAddr,
        manager: IpAddr,
        token: &SecretString,
        availability: Availability,
    ) -> JoinAnswer {
        let request = SwarmJoinRequest {
            listen_addr: Some(listen_address(address)),
            advertise_addr: Some(address.to_string()),
            remote_addrs: Some(vec![socket_address(manager)]),
            join_token: Some(token.expose_secret().to_owned()),
            ..SwarmJoinRequest::default()
        };
        let join = async {
            let request = with_availability(&request, availability)?;
            self.post("join the swarm", "swarm/join", &request).await
        };
        JoinAnswer::of(join.await)
    }

    /// Leaves the swarm. A manager that leaves by force becomes a dead raft member: use `force` only for a node that is
    /// not a raft member, or is the only one.
    ///
    /// # Errors
    /// Docker's refusal; being in no swarm is success. After a timeout the node may still be leaving.
    pub async fn leave(&self, force: bool) -> Result<(), SwarmError> {
        let options = &LeaveSwarmOptionsBuilder::default().force(force).build();
        let left = self
            .call("leave the swarm", |docker| async move {
                docker.leave_swarm(Some(options.clone())).await
            })
            .await;
        match left {
            Err(error) if error.kind == SwarmErrorKind::NotInSwarm => Ok(()),
            Err(error) if error.kind == SwarmErrorKind::TimedOut => {
                let message = format!(
                    "Docker has not answered for {} s; if this repeats, restart docker.service",
                    CALL_TIMEOUT.as_secs()
                );
                let error = SwarmError { message, ..error };
                tracing::warn!("{error}");
                Err(error)
            }
            left => left,
        }
    }
}

/// Returns the node id where the swarm id must come from the certificate, because `/info` lacks it: on a worker there
/// is no cluster, and on a manager without a leader Docker reports one with an empty id.
fn certified_node(swarm: Option<&SwarmInfo>) -> Option<&str> {
    let named = |swarm: &&SwarmInfo| {
        let id = swarm.cluster.as_ref().and_then(|cluster| cluster.id.as_deref());
        id.is_some_and(|id| !id.is_empty())
    };
    let swarm = swarm.filter(|swarm| !named(swarm))?;
    swarm.node_id.as_deref().filter(|id| !id.is_empty())
}

/// Returns the private address and the port in Docker's format; IPv6 in brackets.
fn socket_address(address: IpAddr) -> String {
    std::net::SocketAddr::new(address, SWARM_PORT).to_string()
}

/// Returns all addresses of the host, so that a second interface or a changed address does no harm; the security group
/// limits the access.
fn listen_address(address: IpAddr) -> String {
    match address {
        IpAddr::V4(_) => format!("0.0.0.0:{SWARM_PORT}"),
        IpAddr::V6(_) => format!("[::]:{SWARM_PORT}"),
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ClusterInfo;

    use super::*;

    /// The answers of engine 20.10.24 on a worker, on a manager, and on a manager without a leader.
    #[test]
    fn without_a_leader_the_certificate_says_which_swarm_it_is() {
        let swarm = |cluster: Option<&str>| SwarmInfo {
            node_id: Some("node".into()),
            local_node_state: Some(LocalNodeState::ACTIVE),
            cluster: cluster
                .map(|id| ClusterInfo { id: Some(id.into()), ..ClusterInfo::default() }),
            ..SwarmInfo::default()
        };
        assert_eq!(certified_node(Some(&swarm(None))), Some("node"));
        assert_eq!(certified_node(Some(&swarm(Some("")))), Some("node"));
        assert_eq!(certified_node(Some(&swarm(Some("swarm")))), None);

        let info = SystemInfo { swarm: Some(swarm(Some(""))), ..SystemInfo::default() };
        let certificate =
            Certificate { swarm_id: "swarm".into(), node_id: "node".into(), is_manager: true };
        let local = LocalNode::of(&info, Some(certificate));
        assert_eq!(local.swarm_id.as_deref(), Some("swarm"));
    }

    #[test]
    fn docker_is_completed_by_its_own_nodes_certificate_and_by_no_other() {
        let docker = |node_id: Option<&str>, swarm_id: Option<&str>| LocalNode {
            state: LocalState::Error,
            node_id: node_id.map(str::to_owned),
            swarm_id: swarm_id.map(str::to_owned),
            is_manager: false,
            has_managers: false,
            managers: vec![],
            error: String::new(),
            address: None,
            live_restore: false,
        };
        let look = |node_id, swarm_id, certificate| {
            let mut local = docker(node_id, swarm_id);
            let certified = local.complete(certificate);
            (certified, local.node_id, local.swarm_id)
        };
        let named = |id: &str| Some(id.to_owned());
        let certificate = |is_manager| {
            Some(Certificate { swarm_id: "swarm".into(), node_id: "node".into(), is_manager })
        };
        for (node_id, swarm_id, certificate, expected) in [
            (
                None,
                None,
                certificate(false),
                (Certified::As(Role::Worker), named("node"), named("swarm")),
            ),
            (
                Some("node"),
                Some("own"),
                certificate(true),
                (Certified::As(Role::Manager), named("node"), named("own")),
            ),
            (Some("other"), None, certificate(true), (Certified::OfAnother, named("other"), None)),
            (None, None, None, (Certified::Nothing, None, None)),
        ] {
            assert_eq!(look(node_id, swarm_id, certificate), expected);
        }
    }
}
