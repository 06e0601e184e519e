//! Departing: any number of managers leave, whatever dies meanwhile, and skep never loses the quorum.
//!
//! Draining and flushing are over when a departure begins here; other tests run them against late answers and
//! restarts. The node and the other managers only ever advance the departure's row, so observing and writing are one
//! action there. Every change of raft, of the demotion lease (the turn) or of the charter is two actions: an
//! observation, and later the request that follows from it.
//!
//! A skep that has served in a swarm has in memory whose swarm it is. A skep that restarts in the middle of a departure
//! has lost this: it reads the ledger, and cannot tell as long as the ledger is out of reach.
//!
//! The last manager's request to close the charter can arrive late, after another manager has joined; then a serving
//! manager opens the charter again. Left out: a manager whose join ends between the last manager's observation, which
//! follows minutes of waiting for a replacement, and the leave by force that follows at once.
//!
//! Assumes that Docker does what its source says: it checks a demotion against the quorum as the leader sees it, when
//! the demotion is requested and again when raft carries it out; it notices a member's death later. Assumes about time:
//! a manager that was removed from raft does not return the lease before Docker has noticed every earlier death,
//! because it needs seconds to leave first.

mod act;
mod docker;
mod look;
mod model;
mod settle;

use std::time::Duration;

use crate::clock::Clock;

/// The values of `ledger::Lease`.
const LEASE: Duration = Duration::from_secs(60);
const LONGEST_CREDIBLE: Duration = Duration::from_secs(120);

/// The size of the world, and how often each fault can happen.
#[derive(Clone, Debug)]
pub struct Departing {
    pub managers: usize,
    /// Number of them that get a notice, each at any moment.
    pub leaving: usize,
    /// Number of new managers that can join.
    pub replacements: usize,
    /// Number of processes that can die in all.
    pub crashes: usize,
    /// Number of leases that can expire.
    pub expiries: usize,
    /// Number of instances that can be terminated without a departure.
    pub terminations: usize,
    /// Number of times that a manager can lose the ledger, or reach it again.
    pub outages: usize,
    /// Number of times that a manager's time can run out: its patience, its time for draining, its deadline.
    pub hurries: usize,
    pub are_clocks_off: bool,
    pub fence: Fence,
}

/// The safeguards of the quorum: all held, or one missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    Held,
    /// Wrong on purpose: every manager leaves as soon as Docker allows it, without the lease.
    NoTurn,
    /// Wrong on purpose: a demotion that Docker has accepted counts as done.
    Unconfirmed,
    /// Wrong on purpose: no manager reopens a charter that was closed too late.
    StaysClosed,
    /// Wrong on purpose: a manager that cannot tell whose swarm it is in takes it for another cluster's.
    DoubtIsNo,
}

/// The next event, and the manager that it happens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It gets Auto Scaling's notice.
    Tell(usize),
    Look(usize),
    Act(usize),
    /// The process dies before it sends its request, or between two requests, and restarts.
    Crash(usize),
    /// The process dies while its request is on its way, and restarts.
    CrashInMidRequest(usize),
    /// The `n`th of those requests arrives.
    Arrive(usize),
    /// Raft carries out a demotion.
    RaftFollows(usize),
    /// A daemon notices that it is not a manager any more.
    Hears(usize),
    /// Another manager advances its departure by one step.
    Serve(usize),
    /// `by` finds it dead, by the answers of Docker and Auto Scaling, and starts its demotion.
    Bury {
        by: usize,
        dead: usize,
    },
    /// A dead manager is removed from the node list after its demotion.
    Sweep(usize),
    /// Docker notices its death.
    Notice(usize),
    LeaseRunsOut,
    /// It stops waiting for the managers' confirmation, or for a replacement.
    PatienceEnds(usize),
    /// First its time for draining ends, then its deadline passes.
    TimeRunsOut(usize),
    Terminate(usize),
    /// It loses the ledger, or reaches it again.
    Outage(usize),
    Join,
}

/// The state of the whole world.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    managers: Vec<Manager>,
    /// Whether the charter is open; else it is closed.
    is_open: bool,
    turn: Option<Lease>,
    /// Requests whose sender has died. They arrive in any order, or never.
    late: Vec<Request>,
    spent: Spent,
    /// Raft was changed without the lease, or under a lease that was taken from another node before it expired: then
    /// only Docker keeps the quorum.
    is_crowded: bool,
    wrongs: Wrongs,
}

/// The number of faults of each kind so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Spent {
    replacements: usize,
    crashes: usize,
    expiries: usize,
    terminations: usize,
    outages: usize,
    hurries: usize,
}

/// Events that must never happen; `true` once one has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Wrongs {
    /// A member of raft left by force, and was not the last.
    desertion: bool,
    /// The charter was closed while another manager was alive.
    early_close: bool,
    /// A second removal from raft lost the quorum, because of a death that came before the first removal.
    blind_removal: bool,
    /// A manager decided more than to wait although it could not tell whose swarm it is in.
    in_doubt: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Manager {
    life: Life,
    raft: Raft,
    /// As its own daemon reports.
    in_swarm: bool,
    /// Whether Docker has noticed its death.
    death: Death,
    row: Option<Row>,
    time: Time,
    /// It waits no longer for the managers' confirmation.
    is_impatient: bool,
    /// It cannot reach the ledger.
    is_cut_off: bool,
    /// Its skep has restarted, and cannot tell yet whose swarm it is in.
    has_forgotten: bool,
    clock: Clock,
    /// The request that it has decided and not sent yet.
    decided: Option<Request>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Life {
    Serving,
    Leaving,
    /// Its departure has ended, and so has its instance.
    Gone,
    /// Its deadline passed before its departure ended.
    TooLate,
    Terminated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Raft {
    Member,
    /// Docker has accepted its demotion.
    Going,
    /// Removed, and its daemon has not noticed.
    Dropped,
    Out,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Death {
    /// Alive, or Docker has not noticed the death yet.
    Unseen,
    /// Docker has not noticed the death yet, and a manager was removed from raft since.
    Overlooked,
    Seen,
}

/// The part of the departure's row that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Row {
    stage: Stage,
    demoted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Drained,
    Left,
    Removed,
}

/// The time that a departure has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Time {
    Ample,
    LeaveDue,
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Lease {
    whose: usize,
    /// By the clock of the manager that took it.
    expires_at: i64,
    /// Number of leases that had expired by then; independent of every clock.
    taken_at: usize,
}

/// A request that is not sent yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Request {
    TakeTurn { whose: usize, now: i64 },
    Demote { whose: usize, in_turn: bool },
    Leave,
    CloseCharter,
    ReopenCharter,
    LeaveLast,
}

impl Manager {
    fn new(clock: Clock) -> Self {
        Self {
            life: Life::Serving,
            raft: Raft::Member,
            in_swarm: true,
            death: Death::Unseen,
            row: None,
            time: Time::Ample,
            is_impatient: false,
            is_cut_off: false,
            has_forgotten: false,
            clock,
            decided: None,
        }
    }

    fn is_alive(&self) -> bool {
        matches!(self.life, Life::Serving | Life::Leaving)
    }

    fn is_leaving(&self) -> bool {
        self.life == Life::Leaving
    }

    /// Whether raft counts it.
    fn is_member(&self) -> bool {
        matches!(self.raft, Raft::Member | Raft::Going)
    }

    /// Whether it can vote in raft.
    fn votes(&self) -> bool {
        self.is_member() && self.is_alive() && self.in_swarm
    }
}

impl World {
    fn new(model: &Departing) -> Self {
        let clocks = match model.are_clocks_off {
            true => Clock::ALL,
            false => [Clock::Right; 3],
        };
        let clocks = clocks.into_iter().cycle().take(model.managers);
        Self {
            managers: clocks.map(Manager::new).collect(),
            is_open: true,
            turn: None,
            late: vec![],
            spent: Spent::default(),
            is_crowded: false,
            wrongs: Wrongs::default(),
        }
    }

    /// Returns the time by this manager's clock.
    fn now(&self, one: usize) -> i64 {
        self.managers[one].clock.now(self.spent.expiries, LEASE)
    }

    fn others(&self, one: usize) -> impl Iterator<Item = &Manager> + Clone {
        let all = self.managers.iter().enumerate();
        all.filter(move |(other, _)| *other != one).map(|(_, manager)| manager)
    }
}
