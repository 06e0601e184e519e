//! Founding, joining and losing a swarm: at most one swarm per generation, no node but the founder in a swarm that was
//! not published, and no swarm replaced while one of its managers is there.

mod arrive;
mod look;
mod model;

use std::time::Duration;

use skep::common::instance::Role;

use crate::charter::Row;
use crate::clock::Clock;
use crate::sight::Sight;

const LEASE: Duration = Duration::from_secs(30);

/// The size of the world, and how often each fault can happen.
#[derive(Clone, Debug)]
pub struct Founding {
    pub managers: usize,
    pub workers: usize,
    /// Number of processes that can die in all.
    pub crashes: usize,
    /// Number of leases that can expire.
    pub expiries: usize,
    /// Number of instances that can be terminated; a new one replaces each.
    pub terminations: usize,
    /// Number of times that an instance can stop answering, or answer again.
    pub silences: usize,
    /// Number of observations that can lack an answer and still lead to a request.
    pub dim_looks: usize,
    pub fence: Fence,
}

/// The safeguards of founding: all held, or one missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    Held,
    /// Wrong on purpose: the ledger accepts every publication, so the last one counts.
    Missing,
    /// Wrong on purpose: managers that do not answer count as gone, even if Auto Scaling lists them.
    SilenceIsDeath,
}

/// The next event, and the host that it happens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Look(u8),
    /// An observation that lacks an answer.
    LookDimly {
        slot: u8,
        sight: Sight,
    },
    Act(u8),
    /// The process dies before it sends its request, and restarts.
    Crash(u8),
    /// The process dies while its request is on its way, and restarts.
    CrashInMidRequest(u8),
    /// The `n`th of those requests arrives.
    Arrive(usize),
    LeaseRunsOut,
    /// Its instance is gone for good; another one starts in its place.
    Terminate(u8),
    /// No node reaches it any more, or every node does again.
    Silence(u8),
}

/// The state of the whole world.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    charter: Option<Row>,
    /// Every swarm that was ever published, by its generation.
    opened: Vec<(u64, u8)>,
    /// Members of every swarm that was ever founded; the first is its founder.
    swarms: Vec<Vec<u8>>,
    /// The generation in the label of each swarm.
    labels: Vec<u64>,
    hosts: Vec<Host>,
    /// Managers' rows: an instance, and the generation under which it joined.
    rows: Vec<(u8, u64)>,
    /// A claim replaced a swarm while one of its managers was there.
    has_robbed: bool,
    /// Requests whose sender has died. They arrive in any order, or never.
    late: Vec<(u8, Write)>,
    crashes: usize,
    expiries: usize,
    terminations: usize,
    silences: usize,
    dim_looks: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Host {
    /// The number of its instance; a replacement has another number.
    id: u8,
    /// It runs and Auto Scaling lists it, but no node reaches it.
    is_silent: bool,
    role: Role,
    clock: Clock,
    swarm: Option<u8>,
    /// The request that it has decided and not sent yet.
    decided: Option<Write>,
}

/// A step that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Write {
    Claim {
        seen: Option<Row>,
        now: i64,
    },
    Init {
        generation: u64,
    },
    Publish {
        claim: Row,
        swarm: u8,
    },
    Join {
        generation: u64,
    },
    Discard,
    /// Leaves a former swarm of the cluster.
    LeaveStale,
}

impl World {
    fn new(model: &Founding) -> Self {
        let clocks = Clock::ALL.iter().cycle().take(model.managers);
        let managers = clocks.map(|clock| (Role::Manager, *clock));
        let workers = std::iter::repeat_n((Role::Worker, Clock::Right), model.workers);
        let hosts = (0u8..)
            .zip(managers.chain(workers))
            .map(|(id, (role, clock))| Host {
                id,
                is_silent: false,
                role,
                clock,
                swarm: None,
                decided: None,
            })
            .collect();
        Self {
            charter: None,
            opened: vec![],
            swarms: vec![],
            labels: vec![],
            hosts,
            rows: vec![],
            has_robbed: false,
            late: vec![],
            crashes: 0,
            expiries: 0,
            terminations: 0,
            silences: 0,
            dim_looks: 0,
        }
    }

    fn host(&self, slot: u8) -> &Host {
        &self.hosts[usize::from(slot)]
    }

    fn slots(&self) -> impl Iterator<Item = u8> + use<> {
        (0u8..).take(self.hosts.len())
    }

    /// Returns the host of an instance, or `None` once the instance is terminated.
    fn alive(&self, id: u8) -> Option<&Host> {
        self.hosts.iter().find(|host| host.id == id)
    }

    /// Returns the time by this host's clock.
    fn now(&self, slot: u8) -> i64 {
        self.host(slot).clock.now(self.expiries, LEASE)
    }

    fn members(&self, swarm: u8) -> &Vec<u8> {
        &self.swarms[usize::from(swarm)]
    }

    /// Returns the generation under which a swarm was founded.
    fn label(&self, swarm: u8) -> u64 {
        self.labels[usize::from(swarm)]
    }

    /// Whether the swarm has a node besides its founder; a swarm that was not published must have none.
    fn has_joiners(&self, swarm: u8) -> bool {
        self.members(swarm).len() > 1
    }

    /// Returns the running instances that are managers of a swarm.
    fn managers_of(&self, swarm: u8) -> impl Iterator<Item = &Host> {
        let is_one = move |host: &&Host| host.role == Role::Manager && host.swarm == Some(swarm);
        self.hosts.iter().filter(is_one)
    }

    /// Whether more than half of all its managers so far are running and reachable.
    fn has_quorum(&self, swarm: u8) -> bool {
        let all = self.rows.iter().filter(|(id, _)| self.members(swarm).contains(id)).count();
        2 * self.managers_of(swarm).filter(|host| !host.is_silent).count() > all
    }
}
