//! Departing: any number of managers leave, whatever dies meanwhile, and the quorum is never lost by skep.
//!
//! Draining and flushing are over when a departure begins here; each is played against late answers and
//! restarts elsewhere. What a node writes into its own row, and what other managers write into it, only ever
//! goes forward, so looking and writing are one action there. Everything that changes raft, the turn or the
//! charter is two: a look, and what follows from it later.
//!
//! Whose swarm a manager is in is known to the skep that has served in it, and forgotten by one that is started anew
//! in the middle of a departure: it asks the ledger, and cannot tell as long as that is out of its reach.
//!
//! The last manager's word that the charter is closed may come late, when another one has joined: then one
//! that serves opens it again. Left out: a manager whose join ends between the last one's look, after minutes
//! of waiting for it, and the leaving by force that follows at once.
//!
//! Assumes of Docker what its source says: a demotion is checked against the quorum as the leader sees it,
//! when it is asked for and again when raft follows; that a member has died is seen later. And of time:
//! who has been taken out of raft does not give the turn back before Docker has seen every death that came
//! earlier; giving it back takes seconds of leaving.

mod act;
mod docker;
mod look;
mod model;
mod settle;

use std::time::Duration;

use crate::clock::Clock;

/// As `ledger::Lease` has them.
const LEASE: Duration = Duration::from_secs(60);
const LONGEST_CREDIBLE: Duration = Duration::from_secs(120);

/// What can happen, and how often what goes wrong.
#[derive(Clone, Debug)]
pub struct Departing {
    pub managers: usize,
    /// How many of them are told to leave, each at any moment.
    pub leaving: usize,
    /// How many new managers may come.
    pub replacements: usize,
    /// How many processes may die in all.
    pub crashes: usize,
    /// How many leases may run out.
    pub expiries: usize,
    /// How many instances may be terminated without a word.
    pub terminations: usize,
    /// How often the ledger may go out of a manager's reach, or come back.
    pub outages: usize,
    /// How often somebody's time may run out: its patience, what it has for draining, its deadline.
    pub hurries: usize,
    pub are_clocks_off: bool,
    pub fence: Fence,
}

/// Whether skep heeds what keeps the quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    Held,
    /// As it must not be: everybody goes as soon as Docker lets it, whoever else is going.
    NoTurn,
    /// As it must not be: a demotion that Docker has accepted counts as done.
    Unconfirmed,
    /// As it must not be: nobody opens a charter again that was closed too late.
    StaysClosed,
    /// As it must not be: who cannot tell whose swarm it is in takes it for another cluster's.
    DoubtIsNo,
}

/// What happens next, to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Auto Scaling wants it to leave.
    Tell(usize),
    Look(usize),
    Act(usize),
    /// The process dies with its request unsent, or between two requests, and starts anew.
    Crash(usize),
    /// The process dies, and its request is on its way.
    CrashInMidRequest(usize),
    /// The `n`th of those arrives.
    Arrive(usize),
    /// Raft carries out a demotion.
    RaftFollows(usize),
    /// A daemon learns that it is no manager any more.
    Hears(usize),
    /// Another manager takes its departure a step further.
    Serve(usize),
    /// `by` sees that it is dead, by Docker's and Auto Scaling's word, and sets about its demotion.
    Bury {
        by: usize,
        dead: usize,
    },
    /// One that was buried is taken off the list.
    Sweep(usize),
    /// Docker sees that it is dead.
    Notice(usize),
    LeaseRunsOut,
    /// It has waited for the managers' word, or for another one to come, for long enough.
    PatienceEnds(usize),
    /// First what it has for draining, then all it has.
    TimeRunsOut(usize),
    Terminate(usize),
    /// The ledger is out of its reach, or within it again.
    Outage(usize),
    Join,
}

/// The whole world.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    managers: Vec<Manager>,
    /// The charter's phase; else it is closed.
    is_open: bool,
    turn: Option<Lease>,
    /// Requests whose sender has died. They arrive in any order, or never.
    late: Vec<Request>,
    spent: Spent,
    /// Somebody has changed raft without a turn, or in one that was taken from somebody: then only
    /// Docker keeps the quorum.
    is_crowded: bool,
    wrongs: Wrongs,
}

/// How often what goes wrong has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Spent {
    replacements: usize,
    crashes: usize,
    expiries: usize,
    terminations: usize,
    outages: usize,
    hurries: usize,
}

/// What must never happen, once it has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Wrongs {
    /// A raft member has left by force, and was not the last.
    desertion: bool,
    /// The charter was closed under another manager that lives.
    early_close: bool,
    /// A second removal from raft has lost the quorum to a death that came before the first.
    blind_removal: bool,
    /// Somebody has decided more than to wait although it could not tell whose swarm it is in.
    in_doubt: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Manager {
    life: Life,
    raft: Raft,
    /// By its own daemon.
    in_swarm: bool,
    /// What Docker knows of its death.
    death: Death,
    row: Option<Row>,
    time: Time,
    /// Its patience with the managers' word is over.
    is_impatient: bool,
    /// The ledger is out of its reach.
    is_cut_off: bool,
    /// Its skep was started anew, and has not learned yet whose swarm it is in.
    has_forgotten: bool,
    clock: Clock,
    /// What it has decided and not done yet.
    decided: Option<Request>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Life {
    Serving,
    Leaving,
    /// Its departure is over, and its instance with it.
    Gone,
    /// Its deadline came first.
    TooLate,
    Terminated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Raft {
    Member,
    /// Its demotion is accepted.
    Going,
    /// Out, and its daemon has not heard of it.
    Dropped,
    Out,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Death {
    /// Alive, or Docker has not seen it yet.
    Unseen,
    /// The same, and somebody was taken out of raft since.
    Overlooked,
    Seen,
}

/// The departure's row, as far as it matters here.
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

/// How far a departure's deadline is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Time {
    Ample,
    LeaveDue,
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Lease {
    whose: usize,
    /// By the clock of who took it.
    expires_at: i64,
    /// How many leases had run out by then: by no clock of anybody.
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

    /// Raft counts it.
    fn is_member(&self) -> bool {
        matches!(self.raft, Raft::Member | Raft::Going)
    }

    /// A vote of raft's that can be given.
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

    /// By the clock of that manager.
    fn now(&self, one: usize) -> i64 {
        self.managers[one].clock.now(self.spent.expiries, LEASE)
    }

    fn others(&self, one: usize) -> impl Iterator<Item = &Manager> + Clone {
        let all = self.managers.iter().enumerate();
        all.filter(move |(other, _)| *other != one).map(|(_, manager)| manager)
    }
}
