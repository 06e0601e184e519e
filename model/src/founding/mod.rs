//! Founding, joining, losing: at most one swarm per generation, nobody but its founder in any that was
//! not published, and none given up while one of its managers is there.

mod arrive;
mod look;
mod model;

use std::time::Duration;

use skep::common::instance::Role;

use crate::charter::Row;
use crate::clock::Clock;
use crate::sight::Sight;

const LEASE: Duration = Duration::from_secs(30);

/// What can happen, and how often what goes wrong.
#[derive(Clone, Debug)]
pub struct Founding {
    pub managers: usize,
    pub workers: usize,
    /// How many processes may die in all.
    pub crashes: usize,
    /// How many leases may run out.
    pub expiries: usize,
    /// How many instances may be terminated, each replaced by a new one.
    pub terminations: usize,
    /// How often an instance may stop to answer, or begin to again.
    pub silences: usize,
    /// How many looks may fail to see something, and be acted on all the same.
    pub dim_looks: usize,
    pub fence: Fence,
}

/// Whether the ledger's writes carry their conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    Held,
    /// As it must not be: whoever publishes last is believed.
    Missing,
    /// As it must not be: managers that do not answer count as gone, whatever Auto Scaling says.
    SilenceIsDeath,
}

/// What happens next, to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Look(u8),
    /// A look that fails to see something.
    LookDimly {
        slot: u8,
        sight: Sight,
    },
    Act(u8),
    /// The process dies with its request unsent, and starts anew.
    Crash(u8),
    /// The process dies, and its request is on its way.
    CrashInMidRequest(u8),
    /// The `n`th of those arrives.
    Arrive(usize),
    LeaseRunsOut,
    /// Its instance is gone for good; another one starts in its place.
    Terminate(u8),
    /// Nobody reaches it any more, or everybody does again.
    Silence(u8),
}

/// The whole world.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    charter: Option<Row>,
    /// Every swarm that was ever published, by its generation.
    opened: Vec<(u64, u8)>,
    /// Members of every swarm that was ever founded; the first is its founder.
    swarms: Vec<Vec<u8>>,
    /// The generation in the label of each.
    labels: Vec<u64>,
    hosts: Vec<Host>,
    /// Managers' rows: which instance came in under which generation.
    rows: Vec<(u8, u64)>,
    /// The charter was claimed over a swarm of which a manager was there.
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
    /// Of its instance: an instance that replaces another has a number of its own.
    id: u8,
    /// It runs, Auto Scaling lists it, and nobody reaches it.
    is_silent: bool,
    role: Role,
    /// How its clock goes.
    clock: Clock,
    swarm: Option<u8>,
    /// What it has decided and not done yet.
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
    /// Leaves the swarm that the cluster has given up.
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

    /// The host that an instance is; `None` once it has been terminated.
    fn alive(&self, id: u8) -> Option<&Host> {
        self.hosts.iter().find(|host| host.id == id)
    }

    /// By the clock of that host.
    fn now(&self, slot: u8) -> i64 {
        self.host(slot).clock.now(self.expiries, LEASE)
    }

    fn members(&self, swarm: u8) -> &Vec<u8> {
        &self.swarms[usize::from(swarm)]
    }

    /// The generation under which a swarm was founded.
    fn label(&self, swarm: u8) -> u64 {
        self.labels[usize::from(swarm)]
    }

    /// Only its founder may ever have been in a swarm that was not published.
    fn has_joiners(&self, swarm: u8) -> bool {
        self.members(swarm).len() > 1
    }

    /// Instances that run and are managers of a swarm.
    fn managers_of(&self, swarm: u8) -> impl Iterator<Item = &Host> {
        let is_one = move |host: &&Host| host.role == Role::Manager && host.swarm == Some(swarm);
        self.hosts.iter().filter(is_one)
    }

    /// More than half of the managers that it ever had run, and are reached.
    fn has_quorum(&self, swarm: u8) -> bool {
        let all = self.rows.iter().filter(|(id, _)| self.members(swarm).contains(id)).count();
        2 * self.managers_of(swarm).filter(|host| !host.is_silent).count() > all
    }
}
