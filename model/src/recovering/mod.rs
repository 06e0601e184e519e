//! Recovering: a swarm has lost its quorum with survivors, and the operator has it re-created on one of them,
//! or on several at once, while who was cut off comes back, claims are late and replacements want in.
//!
//! Whoever makes itself a swarm's only manager begins another **history** of the same swarm: its members
//! and its node list go their own way from there, under the same id. Which of them counts is what the
//! charter says.
//!
//! Left out: the tokens beyond what their founder's row says (both are written before the charter opens);
//! autolock; departures; the time between a dead manager's removal from raft and that of its row; and a
//! manager whose first row comes between the moment at which the former ones are taken off the list and the one
//! at which the charter opens, while Docker brings it back into raft.
//!
//! Assumes of Docker what its source says: a manager that was left out hears so from one that was in raft
//! beside it, as soon as it reaches that one, and comes into its raft by itself sixteen seconds later, unless
//! it was taken off the list. And of time: the row of a manager that has come in is written before an
//! operator's look at the quorum ends, which takes twenty seconds, and before anybody's two minutes of
//! patience do. Clocks count for the lease alone: one that is minutes behind makes a row look old, which here
//! is an outage of the ledger.

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

/// As `recover` has it; longer than that of a founding, which is what another claim needs here as well.
const LEASE: Duration = Duration::from_secs(300);

/// What can happen, and how often what goes wrong.
#[derive(Clone, Debug)]
pub struct Recovering {
    /// Of the swarm that stands in the beginning.
    pub managers: usize,
    /// How many of them are gone by then, with a new instance in the place of each.
    pub lost: usize,
    pub workers: usize,
    /// How often the operator may begin a recovery, anywhere.
    pub recoveries: usize,
    /// How many processes may die in all.
    pub crashes: usize,
    /// How many leases may run out.
    pub expiries: usize,
    /// How many more instances may be terminated, each replaced by a new one.
    pub terminations: usize,
    /// How often an instance may come to the other side of a network that has fallen apart, or back.
    pub cuts: usize,
    /// How often the ledger may go out of an instance's reach for minutes, or come back.
    pub outages: usize,
    /// How often Docker may bring a former manager back into raft, sixteen seconds after it was struck.
    pub adoptions: usize,
    /// How many looks may fail to see something, and be acted on all the same.
    pub dim_looks: usize,
    pub are_clocks_off: bool,
    pub fence: Fence,
}

/// Whether skep heeds what keeps histories apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    Held,
    /// As it must not be: a recovery is claimed and published without the ledger's conditions.
    Unclaimed,
    /// As it must not be: whoever was a manager before stays one.
    Unfenced,
    /// As it must not be: a manager without a row does not ask whose raft it came into.
    Unasked,
    /// As it must not be: a Docker that does not say whether there is a leader has none.
    SilenceIsNo,
}

/// What happens next, to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A boot's look.
    Look(u8),
    /// The same, and it will join through that instance.
    LookFor {
        slot: u8,
        through: u8,
    },
    /// A look of one that serves at its own membership and row.
    Care(u8),
    /// The operator looks there, and begins a recovery.
    Recover(u8),
    /// Each of these by a look that fails to see something.
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
    /// The process dies with its request unsent, and starts anew.
    Crash(u8),
    /// The process dies, and its request is on its way to the ledger, or done by Docker.
    CrashInMidRequest(u8),
    /// The `n`th of those arrives.
    Arrive(usize),
    LeaseRunsOut,
    /// Its instance is gone for good; another one starts in its place.
    Terminate(u8),
    Cut(u8),
    Outage(u8),
    /// A worker finds a manager that answers.
    Follow(u8),
    /// A former manager that is still on the node list comes into raft again by itself.
    Adopt(u8),
    /// A manager takes whose instance is gone off raft and list, and their rows.
    Bury(u8),
    /// A manager marks the rows whose node is on no list.
    Mark(u8),
}

/// A node's id: its instance, and how often that had joined something before.
type Node = (u8, u8);

/// The whole world.
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

/// How often what goes wrong has.
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

/// What must never happen, once it has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Wrongs {
    /// A recovery was begun beside a quorum whose members are all in the ledger.
    against_quorum: bool,
    /// A swarm was given up while a manager of it was there.
    robbery: bool,
    /// A manager calls itself Ready in another history than its generation's.
    stray: bool,
    /// Somebody has left the charter's own raft by force.
    desertion: bool,
}

/// One history of a swarm.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct History {
    swarm: u8,
    /// Of which other it began as a copy.
    parent: Option<u8>,
    raft: BTreeSet<Node>,
    listed: BTreeSet<Node>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Host {
    /// Of its instance: one that replaces another has a number of its own.
    id: u8,
    role: Role,
    clock: Clock,
    /// On the other side of a network that has fallen apart.
    is_away: bool,
    /// The ledger is out of its reach, for so long that its row is old.
    is_mute: bool,
    joins: u8,
    seat: Option<Seat>,
    /// Under which generation it is Ready; else it boots.
    serves: Option<u64>,
    /// What it has decided and not done yet.
    decided: Option<Request>,
}

/// Where Docker is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Seat {
    history: u8,
    node: Node,
}

/// A member's row, as far as it matters here.
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
    /// To found anew.
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
    /// Takes the former managers off the list, before the rest of publishing.
    StrikeOut {
        claim: Row,
    },
    /// The node's own row, and the tokens; then the charter, where a claim is to be published.
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
        // Their replacements have numbers of their own, for good.
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

    /// The host that an instance is; `None` once it has been terminated.
    fn slot_of(&self, id: u8) -> Option<u8> {
        self.slots().find(|slot| self.host(*slot).id == id)
    }

    fn history(&self, history: u8) -> &History {
        &self.histories[usize::from(history)]
    }

    /// By the clock of that host.
    fn now(&self, slot: u8) -> i64 {
        self.host(slot).clock.now(self.spent.expiries, LEASE)
    }

    /// The history that the charter's generation, or the last one before it, has published.
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
