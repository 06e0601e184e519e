//! The state of all engines and of the swarms that they form, and its changes. Nothing here waits: [`super::joins`] and
//! [`super::api`] decide when a change is made.
//!
//! Guarantees: refusals have Docker's status and text; each write to a node or to a swarm raises the version of that
//! object, and a write at another version is refused.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use fastrand::Rng;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::identity::{self, Authority, Token};
use super::refusal::Refusal;

/// All engines.
pub(super) struct World {
    pub(super) hosts: BTreeMap<Ipv4Addr, Host>,
    pub(super) swarms: BTreeMap<String, Swarm>,
    random: Rng,
    attempts: u64,
}

/// The engine of one instance.
pub(super) struct Host {
    pub(super) address: Ipv4Addr,
    /// Docker's root directory.
    pub(super) root: PathBuf,
    pub(super) place: Place,
}

/// A host's place in a swarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Out,
    /// A join is in progress; its number tells it from a later one.
    Joining(u64),
    In {
        swarm: String,
        node: String,
        /// Whether the host serves the swarm's API.
        is_manager: bool,
    },
}

pub(super) struct Swarm {
    pub(super) id: String,
    pub(super) version: u64,
    pub(super) created_at: OffsetDateTime,
    pub(super) spec: Value,
    pub(super) worker_secret: String,
    pub(super) manager_secret: String,
    pub(super) authority: Authority,
    pub(super) nodes: BTreeMap<String, Node>,
    /// Raft's index: the version of the object that was written last.
    index: u64,
}

/// An entry of the node list.
pub(super) struct Node {
    pub(super) id: String,
    pub(super) version: u64,
    pub(super) created_at: OffsetDateTime,
    pub(super) updated_at: OffsetDateTime,
    pub(super) spec: Value,
    pub(super) address: Ipv4Addr,
    pub(super) state: State,
    /// Whether raft has it as a member, and whether it is the leader.
    pub(super) raft: Option<Raft>,
    /// Its JSON, until it changes: a list of a thousand nodes is asked for many times.
    pub(super) rendered: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Raft {
    pub(super) is_leader: bool,
    pub(super) is_reachable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Unknown,
    Ready,
    Down,
}

impl State {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ready => "ready",
            Self::Down => "down",
        }
    }
}

/// The fate of a join that Docker has accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    Worker {
        attempt: u64,
        swarm: String,
    },
    Manager {
        attempt: u64,
        swarm: String,
    },
    /// It fails after a while.
    Refused {
        attempt: u64,
        refusal: Refusal,
    },
}

/// What follows from a departure.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) swarm: String,
    pub(super) node: String,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let random = Rng::with_seed(seed);
        Self { hosts: BTreeMap::new(), swarms: BTreeMap::new(), random, attempts: 0 }
    }

    pub(super) fn host(&self, address: Ipv4Addr) -> Result<&Host, Refusal> {
        self.hosts.get(&address).ok_or_else(Refusal::no_host)
    }

    pub(super) fn set_place(&mut self, address: Ipv4Addr, place: Place) {
        if let Some(host) = self.hosts.get_mut(&address) {
            host.place = place;
        }
    }

    /// Returns the swarm that a manager serves.
    pub(super) fn served_by(&mut self, address: Ipv4Addr) -> Result<&mut Swarm, Refusal> {
        let host = self.hosts.get(&address).ok_or_else(Refusal::no_host)?;
        let swarm = match &host.place {
            Place::In { swarm, is_manager: true, .. } => swarm,
            Place::In { .. } => return Err(Refusal::worker()),
            Place::Out | Place::Joining(_) => return Err(Refusal::no_manager()),
        };
        let swarm = self.swarms.get_mut(swarm).ok_or_else(Refusal::no_leader)?;
        if swarm.has_leader() { Ok(swarm) } else { Err(Refusal::no_leader()) }
    }

    /// Founds a swarm on a host; returns its node's id.
    pub(super) fn init(&mut self, address: Ipv4Addr, request: &Value) -> anyhow::Result<String> {
        let now = OffsetDateTime::now_utc();
        let authority = Authority::new()?;
        let [id, worker_secret, manager_secret, node] =
            std::array::from_fn(|_| identity::id(&mut self.random));
        let mut spec = request.get("Spec").cloned().filter(Value::is_object).unwrap_or(json!({}));
        if spec["Name"].is_null() {
            spec["Name"] = json!("default");
        }
        let mut swarm = Swarm {
            id: id.clone(),
            version: 10,
            created_at: now,
            spec,
            worker_secret,
            manager_secret,
            authority,
            nodes: BTreeMap::new(),
            index: 10,
        };
        let host = self.hosts.get_mut(&address).context("no such host")?;
        swarm.authority.certify(&host.root, &id, &node, true)?;
        let raft = Raft { is_leader: true, is_reachable: true };
        swarm.add(node.clone(), address, availability(request), Some(raft));
        if let Some(founder) = swarm.nodes.get_mut(&node) {
            founder.state = State::Ready;
        }
        host.place = Place::In { swarm: id.clone(), node: node.clone(), is_manager: true };
        self.swarms.insert(id, swarm);
        Ok(node)
    }

    /// Accepts a join, or refuses it at once.
    pub(super) fn begin_join(
        &mut self,
        address: Ipv4Addr,
        request: &Value,
    ) -> Result<Plan, Refusal> {
        if self.host(address)?.place != Place::Out {
            return Err(Refusal::already_in_swarm());
        }
        self.attempts += 1;
        let attempt = self.attempts;
        // Docker uses the first address only.
        let remote = request["RemoteAddrs"][0].as_str().unwrap_or_default();
        let manager = remote.split(':').next().and_then(|host| host.parse::<Ipv4Addr>().ok());
        let served = manager.and_then(|manager| match &self.hosts.get(&manager)?.place {
            Place::In { swarm, is_manager: true, .. } => self.swarms.get(swarm),
            _ => None,
        });
        let token = request["JoinToken"].as_str().unwrap_or_default();
        let plan = match (served, Token::parse(token)) {
            (_, None) => return Err(Refusal::malformed_token()),
            (None, _) => Plan::Refused { attempt, refusal: Refusal::connection_refused(remote) },
            (Some(swarm), Some(token)) => match () {
                () if token.digest != swarm.authority.digest() => {
                    Plan::Refused { attempt, refusal: Refusal::other_ca(token.digest) }
                }
                () if token.secret == swarm.worker_secret => {
                    Plan::Worker { attempt, swarm: swarm.id.clone() }
                }
                () if token.secret == swarm.manager_secret => {
                    Plan::Manager { attempt, swarm: swarm.id.clone() }
                }
                () => Plan::Refused { attempt, refusal: Refusal::wrong_token() },
            },
        };
        self.set_place(address, Place::Joining(attempt));
        Ok(plan)
    }

    /// Ends a join: the node is in the list from now on, and the host in the swarm. Returns `None` if the host has left
    /// or ended meanwhile; then nothing of it is left.
    pub(super) fn admit(
        &mut self,
        address: Ipv4Addr,
        attempt: u64,
        swarm: &str,
        is_manager: bool,
        availability: &str,
    ) -> anyhow::Result<Option<String>> {
        let Some(host) = self.hosts.get_mut(&address) else { return Ok(None) };
        let Some(swarm) = self.swarms.get_mut(swarm) else { return Ok(None) };
        if host.place != Place::Joining(attempt) {
            return Ok(None);
        }
        let node = identity::id(&mut self.random);
        swarm.authority.certify(&host.root, &swarm.id, &node, is_manager)?;
        let raft = is_manager.then_some(Raft { is_leader: false, is_reachable: true });
        swarm.add(node.clone(), address, availability.to_owned(), raft);
        host.place = Place::In { swarm: swarm.id.clone(), node: node.clone(), is_manager };
        Ok(Some(node))
    }

    /// Whether a host may leave.
    ///
    /// # Errors
    /// Docker's refusal.
    pub(super) fn may_leave(&self, address: Ipv4Addr, force: bool) -> Result<(), Refusal> {
        match &self.host(address)?.place {
            Place::Out => Err(Refusal::not_in_swarm()),
            Place::In { is_manager: true, .. } if !force => Err(Refusal::still_manager()),
            _ => Ok(()),
        }
    }

    /// Takes a host out of its swarm; `None` if it was in none. A manager stays in raft, unreachable.
    pub(super) fn leave(&mut self, address: Ipv4Addr) -> Option<Left> {
        let host = self.hosts.get_mut(&address)?;
        identity::discard(&host.root);
        let Place::In { swarm, node, .. } = std::mem::replace(&mut host.place, Place::Out) else {
            return None;
        };
        if let Some(cluster) = self.swarms.get_mut(&swarm) {
            cluster.lose_contact(&node);
        }
        Some(Left { swarm, node })
    }

    /// Sets whether the engine of a node serves the swarm's API, after a promotion or a demotion.
    pub(super) fn set_manager(
        &mut self,
        address: Ipv4Addr,
        node: &str,
        is_manager: bool,
    ) -> anyhow::Result<()> {
        let Some(host) = self.hosts.get_mut(&address) else { return Ok(()) };
        let Place::In { swarm, node: own, is_manager: serves } = &mut host.place else {
            return Ok(());
        };
        if own == node
            && let Some(swarm) = self.swarms.get(swarm)
        {
            swarm.authority.certify(&host.root, &swarm.id, node, is_manager)?;
            *serves = is_manager;
        }
        Ok(())
    }
}

impl Swarm {
    pub(super) fn has_leader(&self) -> bool {
        self.managers().any(|raft| raft.is_leader)
    }

    fn managers(&self) -> impl Iterator<Item = Raft> {
        self.nodes.values().filter_map(|node| node.raft)
    }

    fn add(&mut self, id: String, address: Ipv4Addr, availability: String, raft: Option<Raft>) {
        let now = OffsetDateTime::now_utc();
        let role = if raft.is_some() { "manager" } else { "worker" };
        self.index += 1;
        let node = Node {
            id: id.clone(),
            version: self.index,
            created_at: now,
            updated_at: now,
            spec: json!({ "Labels": {}, "Role": role, "Availability": availability }),
            address,
            state: State::Unknown,
            raft,
            rendered: None,
        };
        self.nodes.insert(id, node);
    }

    /// Changes a node, and raises its version.
    pub(super) fn write(&mut self, node: &str, change: impl FnOnce(&mut Node)) {
        let Some(node) = self.nodes.get_mut(node) else { return };
        self.index += 1;
        node.version = self.index;
        node.updated_at = OffsetDateTime::now_utc();
        node.rendered = None;
        change(node);
    }

    /// Sets the state of a node by the engine that speaks for it; another engine's address is no longer its own.
    pub(super) fn set_state(&mut self, node: &str, state: State) {
        if self.nodes.get(node).is_some_and(|node| node.state != state) {
            self.write(node, |node| node.state = state);
        }
    }

    /// A manager that is gone is unreachable for raft, which elects another leader while most of its members are left.
    fn lose_contact(&mut self, node: &str) {
        if self.nodes.get(node).is_none_or(|node| node.raft.is_none()) {
            return;
        }
        self.write(node, |node| {
            node.raft = Some(Raft { is_leader: false, is_reachable: false });
        });
        self.elect();
    }

    fn elect(&mut self) {
        let all = self.managers().count();
        let reachable = self.managers().filter(|raft| raft.is_reachable).count();
        if self.has_leader() && 2 * reachable > all {
            return;
        }
        let is_next = |node: &&Node| node.raft.is_some_and(|raft| raft.is_reachable);
        let next = self.nodes.values().find(is_next).map(|node| node.id.clone());
        let ids: Vec<String> = self.nodes.keys().cloned().collect();
        for id in ids {
            let leads = 2 * reachable > all && Some(&id) == next.as_ref();
            let raft = self.nodes.get(&id).and_then(|node| node.raft);
            if let Some(raft) = raft.filter(|raft| raft.is_leader != leads) {
                self.write(&id, |node| node.raft = Some(Raft { is_leader: leads, ..raft }));
            }
        }
    }

    /// Replaces the spec of a node. Returns `true` if it demotes the node: [`Swarm::remove_member`] ends that.
    ///
    /// # Errors
    /// Docker's refusal.
    pub(super) fn update(&mut self, id: &str, version: u64, spec: Value) -> Result<bool, Refusal> {
        let node = self.nodes.get(id).ok_or_else(|| Refusal::no_node(id))?;
        if node.version != version {
            return Err(Refusal::out_of_sequence());
        }
        let has = |key: &str, known: &[&str]| known.iter().any(|word| spec[key] == *word);
        if !has("Role", &["worker", "manager"]) {
            return Err(Refusal::invalid("Role"));
        }
        if !has("Availability", &["active", "pause", "drain"]) {
            return Err(Refusal::invalid("Availability"));
        }
        let is_demotion = spec["Role"] == "worker" && node.spec["Role"] == "manager";
        if is_demotion && let Some(raft) = node.raft {
            self.may_demote(raft)?;
        }
        self.write(id, |node| node.spec = spec);
        Ok(is_demotion)
    }

    fn may_demote(&self, member: Raft) -> Result<(), Refusal> {
        let wanted = self.nodes.values().filter(|node| node.spec["Role"] == "manager").count();
        if wanted <= 1 {
            return Err(Refusal::last_manager());
        }
        let all = self.managers().count() - 1;
        let reachable = self.managers().filter(|raft| raft.is_reachable).count()
            - usize::from(member.is_reachable);
        if 2 * reachable <= all { Err(Refusal::loses_quorum()) } else { Ok(()) }
    }

    /// Removes a demoted node from raft. Returns whether it was the leader.
    pub(super) fn remove_member(&mut self, id: &str) -> bool {
        let was = self.nodes.get(id).and_then(|node| node.raft);
        self.write(id, |node| node.raft = None);
        self.elect();
        was.is_some_and(|raft| raft.is_leader)
    }

    /// Removes a node from the list.
    ///
    /// # Errors
    /// Docker's refusal.
    pub(super) fn delete(&mut self, id: &str, force: bool) -> Result<(), Refusal> {
        let node = self.nodes.get(id).ok_or_else(|| Refusal::no_node(id))?;
        if node.raft.is_some() {
            return Err(Refusal::is_member(id));
        }
        if node.state == State::Ready && !force {
            return Err(Refusal::not_down(id));
        }
        self.nodes.remove(id);
        self.index += 1;
        Ok(())
    }

    /// Replaces the spec of the swarm, and rotates join tokens.
    ///
    /// # Errors
    /// Docker's refusal.
    pub(super) fn respecify(
        &mut self,
        version: u64,
        spec: Value,
        rotated: [Option<String>; 2],
    ) -> Result<(), Refusal> {
        if self.version != version {
            return Err(Refusal::out_of_sequence());
        }
        self.index += 1;
        self.version = self.index;
        self.spec = spec;
        let [worker, manager] = rotated;
        self.worker_secret = worker.unwrap_or_else(|| std::mem::take(&mut self.worker_secret));
        self.manager_secret = manager.unwrap_or_else(|| std::mem::take(&mut self.manager_secret));
        Ok(())
    }
}

/// Returns the availability of a request to init or join.
pub(super) fn availability(request: &Value) -> String {
    request["Availability"].as_str().unwrap_or("active").to_owned()
}
