//! Founding, joining, losing: at most one swarm per generation, nobody but its founder in any that was
//! not published, and none given up while one of its managers is there.

use std::collections::BTreeSet;
use std::time::Duration;

use skep::boot::{Absence, Observed, OwnSwarm, Step, decide};
use skep::instance::Role;
use skep::ledger::{Charter, CharterPhase, SCHEMA};
use skep::swarm::{LocalNode, LocalState};
use stateright::{Model, Property};
use time::OffsetDateTime;

const LEASE: Duration = Duration::from_secs(30);
/// How far a clock may be off: further than a lease lasts.
const SKEW: Duration = Duration::from_secs(300);
/// Of `boot.lost_after`.
const PATIENCE: Duration = Duration::from_secs(120);
/// With nothing going wrong any more, so many looks of every node are enough for all to be Ready.
const ROUNDS_TO_SETTLE: usize = 12;

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

/// The whole world.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    charter: Option<Row>,
    /// Every swarm that was ever published, by its generation.
    opened: Vec<(u64, u8)>,
    /// Members of every swarm that was ever founded; the first is its founder.
    swarms: Vec<Vec<u8>>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Clock {
    Right,
    Ahead,
    Behind,
}

/// The charter as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Row {
    is_open: bool,
    generation: u64,
    founder: u8,
    /// Seconds.
    lease_expires_at: i64,
    swarm: Option<u8>,
    /// Of the swarms that were given up, the last.
    former: Option<u8>,
}

/// A step that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Write {
    Claim {
        seen: Option<Row>,
        now: i64,
    },
    Init,
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

/// What happens next, to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Look(u8),
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

fn name(host: u8) -> String {
    format!("i-{host}")
}

fn swarm_name(swarm: u8) -> String {
    format!("swarm-{swarm}")
}

/// `i-3` and `swarm-3` are 3.
fn number(name: &str) -> u8 {
    name.rsplit('-').next().and_then(|digits| digits.parse().ok()).expect("a name of this model")
}

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).expect("seconds of this model")
}

impl Row {
    fn charter(self) -> Charter {
        Charter {
            schema: SCHEMA,
            phase: if self.is_open { CharterPhase::Open } else { CharterPhase::Founding },
            generation: self.generation,
            founder: name(self.founder),
            lease_expires_at: at(self.lease_expires_at),
            swarm_id: self.swarm.map(swarm_name),
            ca_digest: None,
            founded_at: None,
            former: self.former.map(swarm_name).into_iter().collect(),
            recovers: None,
        }
    }

    fn of(charter: &Charter) -> Self {
        Self {
            is_open: charter.phase == CharterPhase::Open,
            generation: charter.generation,
            founder: number(&charter.founder),
            lease_expires_at: charter.lease_expires_at.unix_timestamp(),
            swarm: charter.swarm_id.as_deref().map(number),
            former: charter.former.last().map(|id| number(id)),
        }
    }
}

impl World {
    fn new(model: &Founding) -> Self {
        let clocks = [Clock::Right, Clock::Ahead, Clock::Behind];
        let managers =
            clocks.iter().cycle().take(model.managers).map(|clock| (Role::Manager, *clock));
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
            hosts,
            rows: vec![],
            has_robbed: false,
            late: vec![],
            crashes: 0,
            expiries: 0,
            terminations: 0,
            silences: 0,
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

    /// By the clock of that host. Far enough from the epoch for every clock.
    fn now(&self, slot: u8) -> i64 {
        let skew = SKEW.as_secs().cast_signed();
        let lease = LEASE.as_secs().cast_signed();
        let right = 2 * skew + i64::try_from(self.expiries).unwrap_or_default() * (lease + 1);
        match self.host(slot).clock {
            Clock::Right => right,
            Clock::Ahead => right + skew,
            Clock::Behind => right - skew,
        }
    }

    fn members(&self, swarm: u8) -> &Vec<u8> {
        &self.swarms[usize::from(swarm)]
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

    /// What a manager finds that has to join. Its patience is taken as over: whatever it has seen at
    /// one moment may have been so for long.
    fn absence(&self, slot: u8, fence: Fence) -> Option<Absence> {
        let me = self.host(slot);
        let row = self.charter.filter(|row| row.is_open)?;
        let others = || self.rows.iter().filter(|(id, _)| *id != me.id);
        let mut managers: BTreeSet<u8> =
            others().filter(|(_, of)| *of == row.generation).map(|(id, _)| *id).collect();
        managers.insert(row.founder);
        managers.remove(&me.id);
        let listens = |id: u8| self.alive(id).is_some_and(|it| it.swarm.is_some() && !it.is_silent);
        let is_listed = |id: &u8| self.alive(*id).is_some() && fence != Fence::SilenceIsDeath;
        Some(Absence {
            listed: managers.iter().copied().filter(is_listed).map(name).collect(),
            managers: managers.into_iter().map(name).collect(),
            is_self_listed: true,
            listening: others().any(|(id, _)| listens(*id)).then_some([10, 0, 0, 1].into()),
            lasted: PATIENCE,
            patience: PATIENCE,
        })
    }

    fn look(&self, slot: u8, fence: Fence) -> Observed {
        let Host { id, role, swarm, .. } = *self.host(slot);
        let is_manager = swarm.is_some() && role == Role::Manager;
        let is_named = self.charter.is_some_and(|row| row.is_open && row.swarm == swarm);
        Observed {
            charter: self.charter.map(Row::charter),
            local: LocalNode {
                state: if swarm.is_some() { LocalState::Active } else { LocalState::Inactive },
                node_id: swarm.map(|swarm| format!("{id}-in-{swarm}")),
                swarm_id: swarm.map(swarm_name),
                is_manager,
                has_managers: swarm.is_some(),
                error: String::new(),
                address: None,
                live_restore: false,
            },
            member: None,
            // Without a quorum nobody can read the swarm's label.
            own_swarm: swarm
                .filter(|swarm| is_manager && !is_named && self.has_quorum(*swarm))
                .map(|swarm| OwnSwarm {
                    is_ours: true,
                    is_alone: !self.has_joiners(swarm),
                    has_former: false,
                }),
            absence: if swarm.is_none() && role == Role::Manager {
                self.absence(slot, fence)
            } else {
                None
            },
            is_moved: false,
            unsettled_for: Duration::ZERO,
            now: at(self.now(slot)),
        }
    }

    /// What skep would do now.
    fn step(&self, slot: u8, fence: Fence) -> Step {
        decide(&name(self.host(slot).id), self.host(slot).role, &self.look(slot, fence))
    }

    fn write(&self, slot: u8, fence: Fence) -> Option<Write> {
        match self.step(slot, fence) {
            Step::Claim { seen } => {
                Some(Write::Claim { seen: seen.as_ref().map(Row::of), now: self.now(slot) })
            }
            Step::Init { .. } => Some(Write::Init),
            Step::Publish { claim, membership } => {
                Some(Write::Publish { claim: Row::of(&claim), swarm: number(&membership.swarm_id) })
            }
            Step::Join { charter } => Some(Write::Join { generation: charter.generation }),
            Step::Discard { .. } => Some(Write::Discard),
            Step::LeaveStale { .. } => Some(Write::LeaveStale),
            Step::Wait { .. } | Step::Ready(_) | Step::Refuse(_) => None,
            step @ (Step::Unlock { .. } | Step::Recreate { .. }) => panic!("no cause for {step:?}"),
        }
    }

    /// Arbitrates as DynamoDB's conditions and Docker do. `id` has sent it, and may be gone: then
    /// only what went to DynamoDB still counts.
    fn arrive(&mut self, id: u8, write: Write, fence: Fence) {
        match write {
            Write::Claim { seen, now } => self.claim(id, seen, now),
            Write::Publish { claim, swarm } => {
                let is_still_claimed = self.charter.is_some_and(|is| {
                    !is.is_open && is.founder == id && is.generation == claim.generation
                });
                if is_still_claimed || fence == Fence::Missing {
                    self.opened.push((claim.generation, swarm));
                    self.charter = Some(Row { is_open: true, swarm: Some(swarm), ..claim });
                    self.rows.push((id, claim.generation));
                }
            }
            Write::Init | Write::Join { .. } | Write::Discard | Write::LeaveStale => {
                let Some(slot) = self.hosts.iter().position(|host| host.id == id) else { return };
                self.tell_docker(slot, write);
            }
        }
    }

    fn claim(&mut self, id: u8, seen: Option<Row>, now: i64) {
        let is_as_seen = match (seen, self.charter) {
            (None, None) => true,
            (Some(seen), Some(is)) if seen.is_open => is == seen,
            (Some(seen), Some(is)) => {
                !is.is_open && is.generation == seen.generation && is.lease_expires_at <= now
            }
            _ => false,
        };
        if !is_as_seen {
            return;
        }
        let lost = seen.and_then(|seen| seen.swarm);
        self.has_robbed |= lost.is_some_and(|swarm| self.managers_of(swarm).next().is_some());
        self.charter = Some(Row {
            is_open: false,
            generation: seen.map_or(0, |seen| seen.generation) + 1,
            founder: id,
            lease_expires_at: now + LEASE.as_secs().cast_signed(),
            swarm: None,
            former: lost.or(seen.and_then(|seen| seen.former)),
        });
    }

    /// Docker refuses an init, and a second join, while it is in any swarm.
    fn tell_docker(&mut self, slot: usize, write: Write) {
        let Host { id, role, swarm, .. } = self.hosts[slot];
        match (write, swarm) {
            (Write::Init, None) => {
                self.hosts[slot].swarm = u8::try_from(self.swarms.len()).ok();
                self.swarms.push(vec![id]);
            }
            (Write::Join { generation }, None) => {
                let published = self.opened.iter().rev().find(|open| open.0 == generation);
                // Only through a manager of a swarm that can decide.
                if let Some((_, swarm)) = published.copied()
                    && self.has_quorum(swarm)
                {
                    self.hosts[slot].swarm = Some(swarm);
                    self.swarms[usize::from(swarm)].push(id);
                    if role == Role::Manager {
                        self.rows.push((id, generation));
                    }
                }
            }
            (Write::Discard | Write::LeaveStale, Some(swarm)) => {
                self.hosts[slot].swarm = None;
                self.swarms[usize::from(swarm)].retain(|member| *member != id);
            }
            _ => {}
        }
    }

    fn terminate(&mut self, slot: u8) {
        let id = u8::try_from(self.hosts.len() + self.terminations).expect("few instances");
        self.terminations += 1;
        let host = &mut self.hosts[usize::from(slot)];
        *host = Host { id, is_silent: false, swarm: None, decided: None, ..host.clone() };
    }

    /// With no more trouble, is everybody Ready in the same swarm after a while? Not where some, and
    /// not all, of a swarm's managers are gone for good: that is an operator's to mend.
    fn settles(&self, fence: Fence) -> bool {
        let mut world = self.clone();
        for host in &mut world.hosts {
            host.is_silent = false;
        }
        let is_halved = |(_, swarm): &(u64, u8)| {
            !world.has_quorum(*swarm) && world.managers_of(*swarm).next().is_some()
        };
        if world.opened.last().is_some_and(is_halved) {
            return true;
        }
        for round in 0..ROUNDS_TO_SETTLE {
            if round == ROUNDS_TO_SETTLE / 2 {
                // Longer than any clock is off.
                let skewed = 2 * SKEW.as_secs() / LEASE.as_secs();
                world.expiries += 1 + usize::try_from(skewed).unwrap_or_default();
            }
            for slot in world.slots() {
                let decided = world.hosts[usize::from(slot)].decided.take();
                if let Some(write) = decided.or_else(|| world.write(slot, fence)) {
                    world.arrive(world.host(slot).id, write, fence);
                }
            }
        }
        world.slots().all(|slot| matches!(world.step(slot, fence), Step::Ready(_)))
    }
}

impl Model for Founding {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for slot in world.slots() {
            match world.host(slot).decided {
                None if world.write(slot, self.fence).is_some() => actions.push(Action::Look(slot)),
                None => {}
                Some(_) => {
                    actions.push(Action::Act(slot));
                    if world.crashes < self.crashes {
                        actions.push(Action::Crash(slot));
                        actions.push(Action::CrashInMidRequest(slot));
                    }
                }
            }
            if world.terminations < self.terminations {
                actions.push(Action::Terminate(slot));
            }
            if world.silences < self.silences {
                actions.push(Action::Silence(slot));
            }
        }
        actions.extend((0..world.late.len()).map(Action::Arrive));
        if world.expiries < self.expiries {
            actions.push(Action::LeaseRunsOut);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        let id = |slot: u8| world.host(slot).id;
        match action {
            Action::Look(slot) => {
                next.hosts[usize::from(slot)].decided = world.write(slot, self.fence);
            }
            Action::Act(slot) => {
                let write = next.hosts[usize::from(slot)].decided.take()?;
                next.arrive(id(slot), write, self.fence);
            }
            Action::Crash(slot) => {
                next.hosts[usize::from(slot)].decided.take()?;
                next.crashes += 1;
            }
            Action::CrashInMidRequest(slot) => {
                let write = next.hosts[usize::from(slot)].decided.take()?;
                next.late.push((id(slot), write));
                next.crashes += 1;
            }
            Action::Arrive(index) => {
                let (id, write) = next.late.remove(index);
                next.arrive(id, write, self.fence);
            }
            Action::LeaseRunsOut => next.expiries += 1,
            Action::Terminate(slot) => next.terminate(slot),
            Action::Silence(slot) => {
                next.silences += 1;
                let host = &mut next.hosts[usize::from(slot)];
                host.is_silent = !host.is_silent;
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one swarm per generation is published", |_, world: &World| {
                let opened = &world.opened;
                opened.iter().all(|open| opened.iter().all(|it| it.0 != open.0 || it == open))
            }),
            Property::always(
                "none is given up while a manager of it is there",
                |_, world: &World| !world.has_robbed,
            ),
            Property::always("nobody joins a swarm that was not published", |_, world: &World| {
                (0u8..).take(world.swarms.len()).all(|swarm| {
                    !world.has_joiners(swarm) || world.opened.iter().any(|open| open.1 == swarm)
                })
            }),
            Property::always("two swarms never have managers and joiners", |_, world: &World| {
                let is_alive = |swarm: &u8| {
                    world.has_joiners(*swarm) && world.managers_of(*swarm).next().is_some()
                };
                (0u8..).take(world.swarms.len()).filter(is_alive).count() <= 1
            }),
            Property::always("nobody is refused", |model, world: &World| {
                let is_refused = |slot| matches!(world.step(slot, model.fence), Step::Refuse(_));
                !world.slots().any(is_refused)
            }),
            Property::always("with no more trouble all become Ready", |model, world: &World| {
                world.settles(model.fence)
            }),
            Property::sometimes("a claim is taken over", |_, world: &World| {
                world.charter.is_some_and(|row| row.generation > 1)
            }),
            Property::sometimes("somebody joins", |_, world: &World| {
                (0u8..).take(world.swarms.len()).any(|swarm| world.has_joiners(swarm))
            }),
        ]
    }
}
