//! Recovering: a swarm has lost its quorum and has survivors. The operator re-creates the quorum on one of them, or on
//! several at once, while managers that were cut off come back, claims arrive late and replacements try to join.
//!
//! A manager that makes itself a swarm's only manager starts another **history** of the same swarm: from there on, the
//! two histories have their own members and node lists, under the same id. The charter names the one that counts.
//!
//! Left out: the tokens, apart from their founder's row (both are written before the charter opens); autolock;
//! departures; the time between a dead manager's removal from raft and that of its row; and a manager whose first row
//! is written after the former managers were removed from the node list and before the charter opens, while Docker
//! brings it back into raft.
//!
//! Assumes that Docker does what its source says: a manager that was left out notices this as soon as it reaches a
//! manager that was in raft beside it, and joins that raft by itself 16 seconds later, unless it was removed from the
//! node list. Assumes about time: the row of a manager that has joined is written before an operator's observation
//! of the quorum ends, which takes 20 seconds, and before any node's patience of two minutes ends. Clocks count only
//! for the lease: a clock that is minutes behind makes a row look old, which here is an outage of the ledger.

mod arrive;
mod docker;
mod look;
mod model;
mod rounds;
mod settle;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skep::common::instance::Role;

use crate::charter::Row;
use crate::clock::Clock;
use crate::sight::Sight;

/// The lease of `recover`. It is longer than the lease of a founding, which here has this one, too.
const LEASE: Duration = Duration::from_secs(300);

/// The size of the world, and how often each fault can happen.
#[derive(Clone, Debug)]
pub struct Recovering {
    /// Number of managers of the swarm at the start.
    pub managers: usize,
    /// Number of them that are gone at the start; a new instance has replaced each.
    pub lost: usize,
    pub workers: usize,
    /// Number of recoveries that the operator can start, on any manager.
    pub recoveries: usize,
    /// Number of processes that can die in all.
    pub crashes: usize,
    /// Number of leases that can expire.
    pub expiries: usize,
    /// Number of further instances that can be terminated; a new one replaces each.
    pub terminations: usize,
    /// Number of times that an instance can move to the other side of a network partition, or back.
    pub cuts: usize,
    /// Number of times that an instance can lose the ledger for minutes, or reach it again.
    pub outages: usize,
    /// Number of times that Docker can bring a former manager back into raft, 16 seconds after its removal.
    pub adoptions: usize,
    /// Number of observations that can lack an answer and still lead to a request.
    pub dim_looks: usize,
    pub are_clocks_off: bool,
    pub fence: Fence,
}

/// The safeguards that keep histories apart: all held, or one missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    Held,
    /// Wrong on purpose: a recovery is claimed and published without the ledger's conditions.
    Unclaimed,
    /// Wrong on purpose: every former manager stays a manager.
    Unfenced,
    /// Wrong on purpose: a manager without a row does not check whose raft it joined.
    Unasked,
    /// Wrong on purpose: a Docker that does not report whether there is a leader counts as having none.
    SilenceIsNo,
}

/// The next event, and the host that it happens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A booting node observes.
    Look(u8),
    /// The same; the node will join through that instance.
    LookFor {
        slot: u8,
        through: u8,
    },
    /// A serving node observes its own membership and row.
    Care(u8),
    /// The operator runs `skep recover` there, and a recovery starts.
    Recover(u8),
    /// Each of these, on an observation that lacks an answer.
    LookDimly {
        slot: u8,
        sight: Sight,
    },
    CareDimly {
        slot: u8,
        sight: Sight,
    },
    RecoverDimly {
        slot: u8,
        sight: Sight,
    },
    Act(u8),
    /// The process dies before it sends its request, and restarts.
    Crash(u8),
    /// The process dies and restarts; its request is on its way to the ledger, or Docker has carried it out.
    CrashInMidRequest(u8),
    /// The `n`th of those requests arrives.
    Arrive(usize),
    LeaseRunsOut,
    /// Its instance is gone for good; another one starts in its place.
    Terminate(u8),
    Cut(u8),
    Outage(u8),
    /// A worker finds a manager that answers.
    Follow(u8),
    /// A former manager that is still on the node list joins raft again by itself.
    Adopt(u8),
    /// A manager removes nodes without an instance from raft and the node list, and deletes their rows.
    Bury(u8),
    /// A manager marks the rows of nodes that are not on its node list.
    Mark(u8),
}

/// A node's id: its instance, and the number of the instance's earlier joins.
type Node = (u8, u8);

/// The state of the whole world.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    charter: Row,
    /// Every history that was ever published, by its generation.
    opened: Vec<(u64, u8)>,
    histories: Vec<History>,
    hosts: Vec<Host>,
    /// By instance.
    rows: BTreeMap<u8, MemberRow>,
    /// Requests to the ledger whose sender has died. They arrive in any order, or never.
    late: Vec<(u8, Request)>,
    spent: Spent,
    wrongs: Wrongs,
}

/// The number of faults of each kind so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Spent {
    recoveries: usize,
    crashes: usize,
    expiries: usize,
    terminations: usize,
    cuts: usize,
    outages: usize,
    adoptions: usize,
    dim_looks: usize,
}

/// Events that must never happen; `true` once one has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Wrongs {
    /// A recovery started beside a quorum whose members are all in the ledger.
    against_quorum: bool,
    /// A claim replaced a swarm while one of its managers was there.
    robbery: bool,
    /// A manager became Ready in another history than its generation's.
    stray: bool,
    /// A member of the charter's own raft left by force.
    desertion: bool,
}

/// One history of a swarm.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct History {
    swarm: u8,
    /// The history of which it started as a copy.
    parent: Option<u8>,
    raft: BTreeSet<Node>,
    listed: BTreeSet<Node>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Host {
    /// The number of its instance; a replacement has another number.
    id: u8,
    role: Role,
    clock: Clock,
    /// It is on the other side of a network partition.
    is_away: bool,
    /// It cannot reach the ledger, for so long that its row is old.
    is_mute: bool,
    joins: u8,
    seat: Option<Seat>,
    /// The generation under which it is Ready; `None` while it boots.
    serves: Option<u64>,
    /// The request that it has decided and not sent yet.
    decided: Option<Request>,
}

/// The history that Docker is in, and the node that it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Seat {
    history: u8,
    node: Node,
}

/// The part of a member's row that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct MemberRow {
    role: Role,
    node: Node,
    generation: u64,
    is_removed: bool,
}

/// A request that is not sent yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Request {
    /// Claims the charter to found another swarm.
    Claim {
        seen: Row,
        now: i64,
    },
    ClaimRecovery {
        seen: Row,
        swarm: u8,
        now: i64,
    },
    Init,
    Recreate,
    /// Removes the former managers from the node list, before the rest of publishing.
    StrikeOut {
        claim: Row,
    },
    /// Writes the node's own row and the tokens; then the charter, if there is a claim to publish.
    Record {
        row: MemberRow,
        then: Option<(Row, u8)>,
    },
    Publish {
        claim: Row,
        history: u8,
    },
    Join {
        through: u8,
    },
    Leave {
        by_force: bool,
    },
}

impl World {
    fn new(model: &Recovering) -> Self {
        let nodes = (0u8..).take(model.managers + model.workers).map(|id| (id, 0));
        let raft: BTreeSet<Node> = nodes.clone().take(model.managers).collect();
        let clocks = if model.are_clocks_off { Clock::ALL } else { [Clock::Right; 3] };
        let hosts: Vec<Host> = nodes
            .clone()
            .zip(clocks.into_iter().cycle())
            .map(|(node, clock)| Host {
                id: node.0,
                role: if raft.contains(&node) { Role::Manager } else { Role::Worker },
                clock,
                is_away: false,
                is_mute: false,
                joins: 1,
                seat: Some(Seat { history: 0, node }),
                serves: Some(1),
                decided: None,
            })
            .collect();
        let row = |host: &Host| {
            let row =
                MemberRow { role: host.role, node: (host.id, 0), generation: 1, is_removed: false };
            (host.id, row)
        };
        let mut world = Self {
            charter: Row {
                is_open: true,
                generation: 1,
                founder: 0,
                lease_expires_at: 0,
                swarm: Some(0),
                former: None,
                recovers: None,
            },
            opened: vec![(1, 0)],
            histories: vec![History { swarm: 0, parent: None, raft, listed: nodes.collect() }],
            rows: hosts.iter().map(row).collect(),
            hosts,
            late: vec![],
            spent: Spent::default(),
            wrongs: Wrongs::default(),
        };
        for slot in (0u8..).take(model.lost) {
            world.terminate(slot);
        }
        world.spent = Spent::default();
        // Later replacements must not get the numbers of these.
        world.spent.terminations = model.lost;
        world
    }

    fn slots(&self) -> impl Iterator<Item = u8> + use<> {
        (0u8..).take(self.hosts.len())
    }

    fn host(&self, slot: u8) -> &Host {
        &self.hosts[usize::from(slot)]
    }

    fn host_mut(&mut self, slot: u8) -> &mut Host {
        &mut self.hosts[usize::from(slot)]
    }

    /// Returns the host of an instance, or `None` once the instance is terminated.
    fn slot_of(&self, id: u8) -> Option<u8> {
        self.slots().find(|slot| self.host(*slot).id == id)
    }

    fn history(&self, history: u8) -> &History {
        &self.histories[usize::from(history)]
    }

    /// Returns the time by this host's clock.
    fn now(&self, slot: u8) -> i64 {
        self.host(slot).clock.now(self.spent.expiries, LEASE)
    }

    /// Returns the history that the charter's generation, or the last one before it, has published.
    fn published(&self) -> u8 {
        self.opened.last().expect("one stands in the beginning").1
    }

    fn terminate(&mut self, slot: u8) {
        let id = u8::try_from(self.hosts.len() + self.spent.terminations).expect("few instances");
        self.spent.terminations += 1;
        let host = self.host_mut(slot);
        *host = Host {
            id,
            is_away: false,
            is_mute: false,
            joins: 0,
            seat: None,
            serves: None,
            decided: None,
            ..host.clone()
        };
    }
}
