//! A world for founding, joining and losing: machines that act on what they saw **earlier**, a
//! ledger whose conditions arbitrate as DynamoDB's do, and from which anything may be deleted, swarms
//! with a quorum or without. Whatever can be looked at, some look cannot tell.

mod by_hand;
mod checks;
mod look;
mod recovery;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use time::OffsetDateTime;

use crate::clients::ledger::{Charter, CharterPhase, Member, MemberState};
use crate::common::instance::{Instance, Market, Membership, Role};
use crate::lifecycle::boot::decide::{Step, decide};

const LEASE: Duration = Duration::from_secs(30);
/// Of `boot.lost_after`.
const PATIENCE: Duration = Duration::from_secs(120);

/// What happens next, to whom.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// Looks and decides; acts later.
    Look(usize),
    /// Looks while the rows cannot be read, and Docker does not answer about its swarm.
    LookBlind(usize),
    /// Does what was decided.
    Act(usize),
    /// Does it; Docker's init ends in between its two steps.
    ActHalf(usize),
    /// What its skep does for the others while it serves.
    Serve(usize),
    /// Somebody deletes the charter, whatever goes on.
    DeleteCharter,
    /// Somebody deletes the rows of those that are gone.
    RowsTidied,
    /// Its row is edited by hand, and cannot be read until it is written again.
    SpoilRow(usize),
    /// Does it, dies before it knows, and starts anew.
    ActAndCrash(usize),
    /// Dies with a decision in hand and starts anew.
    Crash(usize),
    /// Nobody reaches it any more, or everybody does again. Auto Scaling lists it all the while.
    Silence(usize),
    /// An operator detaches its instance from its group, or attaches it again: the machine lives on. Nobody can
    /// tell that it does while nobody reaches it either, for minutes: such a time is left out.
    Detach(usize),
    /// An operator makes it a manager, or a worker.
    Promote(usize),
    Demote(usize),
    /// Its instance is gone for good, and another one is launched in its place.
    Replace(usize),
    /// The operator has the quorum re-created there, unless that is refused.
    Recover(usize),
    /// Time for every lease to expire.
    LeaseExpires,
    /// Time for a lost swarm to count as lost.
    PatienceEnds,
}

/// A machine: which host, and how often that was replaced.
pub type Machine = (usize, u32);

#[derive(Clone, Default)]
pub struct World {
    now_seconds: u64,
    pub charter: Option<Charter>,
    /// Generations that were ever open, with their swarm.
    pub opened: Vec<(u64, usize)>,
    /// The same, with what nothing speaks of any more.
    ever_opened: BTreeSet<(u64, usize)>,
    /// Members of each swarm ever founded.
    pub swarms: Vec<Vec<Machine>>,
    /// When each was founded, and the generation in its label.
    labels: Vec<(u64, Option<u64>)>,
    /// Under which generation the quorum of a swarm was last re-created, as its label says.
    recovered: BTreeMap<usize, u64>,
    /// Which machine has joined which swarm of which generation.
    rows: BTreeMap<Machine, Row>,
    /// Of those in a swarm, who was promoted or demoted by hand.
    by_hand: BTreeSet<Machine>,
    pub nodes: Vec<Host>,
}

/// A member's row.
#[derive(Clone, Copy)]
struct Row {
    generation: u64,
    swarm: usize,
    serves_as: Role,
    /// When it was written, in seconds.
    at: u64,
    is_unreadable: bool,
}

#[derive(Clone)]
pub struct Host {
    pub role: Role,
    life: u32,
    pub swarm: Option<usize>,
    decided: Option<Step>,
    pub is_silent: bool,
    /// In no group.
    pub is_detached: bool,
    /// Generation and swarm of the membership that its skep serves under.
    serves: Option<(u64, usize)>,
    /// Since when every look found the managers of that generation gone.
    gone: Option<(u64, u64)>,
}

fn name((node, life): Machine) -> String {
    format!("i-{node}.{life}")
}

pub fn swarm_name(swarm: usize) -> String {
    format!("swarm-{swarm}")
}

impl World {
    pub fn new(managers: usize, workers: usize) -> Self {
        let host = |role| Host {
            role,
            life: 0,
            swarm: None,
            decided: None,
            is_silent: false,
            is_detached: false,
            serves: None,
            gone: None,
        };
        let mut nodes = vec![host(Role::Manager); managers];
        nodes.extend(vec![host(Role::Worker); workers]);
        Self { nodes, ..Self::default() }
    }

    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::from_secs(self.now_seconds)
    }

    fn machine(&self, node: usize) -> Machine {
        (node, self.nodes[node].life)
    }

    fn is_there(&self, (node, life): Machine) -> bool {
        self.nodes[node].life == life
    }

    fn is_manager_of(&self, machine: Machine) -> bool {
        (self.nodes[machine.0].role == Role::Manager) != self.by_hand.contains(&machine)
    }

    /// More than half of the managers are there and reach each other.
    pub fn has_quorum(&self, swarm: usize) -> bool {
        let managers = self.swarms[swarm].iter().filter(|it| self.is_manager_of(**it));
        let (mut all, mut well) = (0, 0);
        for machine in managers {
            all += 1;
            well += usize::from(self.is_there(*machine) && !self.nodes[machine.0].is_silent);
        }
        2 * well > all
    }

    /// The same as that node sees it. One that was left out when the quorum was re-created has none.
    fn is_led(&self, node: usize) -> bool {
        let host = &self.nodes[node];
        host.swarm.is_some_and(|swarm| {
            self.has_quorum(swarm) && self.swarms[swarm].contains(&self.machine(node))
        }) && !host.is_silent
    }

    pub fn decide(&mut self, node: usize) -> Step {
        let seen = self.look(node);
        decide(&name(self.machine(node)), self.nodes[node].role, &seen)
    }

    pub fn act(&mut self, node: usize, step: Step) {
        let me = self.machine(node);
        let is_of_managers = matches!(
            step,
            Step::Claim { .. }
                | Step::Publish { .. }
                | Step::PublishAgain { .. }
                | Step::Init { .. }
        );
        assert!(
            !is_of_managers || self.nodes[node].role == Role::Manager,
            "its role may not: {step:?}"
        );
        match step {
            Step::Claim { seen, traces } => {
                // The condition: unchanged since it was seen, and free or given up.
                let is_unchanged = match (&seen, &self.charter) {
                    (None, None) => true,
                    (Some(seen), Some(now)) if seen.phase == CharterPhase::Open => seen == now,
                    (Some(seen), Some(now)) => {
                        seen.generation == now.generation
                            && seen.phase == now.phase
                            && (now.is_claimable(self.now()) || now.is_recovery())
                            && now.lease_expires_at <= self.now()
                    }
                    _ => false,
                };
                if is_unchanged && seen.is_none() && self.rows.is_empty() {
                    // Nothing speaks of them any more: their generations are counted anew.
                    self.opened.clear();
                }
                if is_unchanged {
                    let claim =
                        Charter::claim(seen.as_ref(), &traces, &name(me), self.now(), LEASE);
                    self.charter = Some(claim);
                }
            }
            Step::Init { claim } => self.init(node, Some(claim.generation)),
            Step::Mark { claim } => {
                let swarm = self.nodes[node].swarm.expect("labels what it is in");
                assert_eq!((&self.swarms[swarm][..], self.labels[swarm].1), (&[me][..], None));
                self.labels[swarm].1 = Some(claim.generation);
            }
            // Demoted by hand since that look: Docker refuses.
            Step::Recreate { .. } | Step::Publish { .. } if !self.is_manager_of(me) => {}
            Step::Recreate { claim } => {
                let swarm = self.nodes[node].swarm.expect("re-creates what it is in");
                assert_eq!(claim.recovers, Some(swarm_name(swarm)));
                let workers = self.swarms[swarm].iter().filter(|it| !self.is_manager_of(**it));
                self.swarms[swarm] = workers.copied().chain([me]).collect();
            }
            Step::Publish { claim, membership } => {
                let swarm = self.nodes[node].swarm.expect("publishes what it is in");
                self.write_row(me, claim.generation, swarm);
                let is_claimed = self.charter.as_ref().is_some_and(|charter| {
                    charter.is_claimed_by(&name(me)) && charter.generation == claim.generation
                });
                if is_claimed {
                    assert_eq!(membership.swarm_id, swarm_name(swarm));
                    self.open(Charter {
                        phase: CharterPhase::Open,
                        swarm_id: Some(swarm_name(swarm)),
                        ..claim
                    });
                }
            }
            Step::PublishAgain { membership } => {
                let swarm = self.nodes[node].swarm.expect("publishes what it is in");
                assert_eq!(membership.swarm_id, swarm_name(swarm));
                self.restore(me, membership.generation, swarm);
            }
            Step::Join { charter } => {
                let swarm = self.swarm_of(&charter).expect("joins what was published");
                let host = &self.nodes[node];
                if host.swarm.is_none() && !host.is_silent && self.has_quorum(swarm) {
                    self.nodes[node].swarm = Some(swarm);
                    self.swarms[swarm].push(me);
                }
            }
            Step::Discard { .. } => {
                let swarm = self.nodes[node].swarm.take().expect("discards what it is in");
                assert_eq!(self.swarms[swarm], [me], "a swarm with others in it was given up");
                assert!(self.opened.iter().all(|open| open.1 != swarm), "it was published");
                self.swarms[swarm].clear();
            }
            Step::LeaveStale { by_force, .. } => {
                let swarm = self.nodes[node].swarm.expect("leaves what it is in");
                if !by_force && self.is_manager_of(me) {
                    // Promoted by hand since that look: Docker refuses.
                    return;
                }
                (self.nodes[node].swarm, self.nodes[node].serves) = (None, None);
                // It will be another node than its row says.
                self.rows.remove(&me);
                self.swarms[swarm].retain(|machine| *machine != me);
                self.by_hand.remove(&me);
            }
            Step::Ready(membership) => {
                let swarm = self.nodes[node].swarm.expect("is Ready in a swarm");
                assert_eq!(membership.swarm_id, swarm_name(swarm));
                // By a decision from before charter and rows were deleted, perhaps.
                assert!(self.ever_opened.contains(&(membership.generation, swarm)));
                self.write_row(me, membership.generation, swarm);
                self.nodes[node].serves = Some((membership.generation, swarm));
            }
            Step::Wait { .. } => {}
            Step::Refuse(refusal) => {
                let swarm = self.nodes[node].swarm.expect("refuses what it is in");
                assert!(self.is_nobodys(node), "{refusal}: {swarm}");
            }
            Step::AskOut { .. } | Step::Unlock { .. } => {
                panic!("no cause for {step:?}")
            }
        }
    }

    /// The machine is gone, and what is left of its swarm strikes it out if that can decide.
    fn replace(&mut self, node: usize) {
        let gone = self.machine(node);
        let swarm = self.nodes[node].swarm.take();
        let host = &mut self.nodes[node];
        *host = Host {
            life: host.life + 1,
            decided: None,
            is_silent: false,
            is_detached: false,
            serves: None,
            gone: None,
            ..host.clone()
        };
        if let Some(swarm) = swarm
            && self.has_quorum(swarm)
        {
            self.swarms[swarm].retain(|machine| *machine != gone);
            // Down for 20 s, and not listed: those that have joined meanwhile have written their rows.
            self.record();
            self.rows.remove(&gone);
        }
    }

    pub fn happen(&mut self, event: Event) {
        match event {
            Event::Look(node) | Event::LookBlind(node) => {
                let seen = match event {
                    Event::LookBlind(_) => self.look_blind(node),
                    _ => self.look(node),
                };
                let step = decide(&name(self.machine(node)), self.nodes[node].role, &seen);
                self.assert_nothing_is_given_up(node, &step);
                self.nodes[node].decided = Some(step);
            }
            Event::ActHalf(node) => match self.nodes[node].decided.take() {
                Some(Step::Init { .. }) => self.init(node, None),
                Some(step) => self.act(node, step),
                None => {}
            },
            Event::Serve(node) => self.serve(node),
            Event::DeleteCharter => self.delete_charter(),
            Event::RowsTidied => self.tidy_rows(),
            Event::SpoilRow(node) => self.spoil_row(node),
            Event::Act(node) | Event::ActAndCrash(node) => {
                if let Some(step) = self.nodes[node].decided.take() {
                    self.act(node, step);
                }
                if matches!(event, Event::ActAndCrash(_)) {
                    self.crash(node);
                }
            }
            Event::Crash(node) => self.crash(node),
            Event::Silence(node) => {
                self.nodes[node].is_silent ^= !self.nodes[node].is_detached;
                self.record();
            }
            Event::Detach(node) => self.nodes[node].is_detached ^= !self.nodes[node].is_silent,
            Event::Promote(node) => self.promote(node),
            Event::Demote(node) => self.demote(node),
            Event::Replace(node) => self.replace(node),
            Event::Recover(node) => self.recover(node),
            Event::LeaseExpires => self.pass(LEASE),
            Event::PatienceEnds => self.pass(PATIENCE),
        }
        let is_once = |open: &(u64, usize)| {
            self.opened.iter().all(|other| other.0 != open.0 || other.1 == open.1)
        };
        assert!(self.opened.iter().all(is_once), "one generation twice: {:?}", self.opened);
        let living = self.opened.iter().map(|open| open.1).filter(|swarm| self.has_quorum(*swarm));
        let living: BTreeSet<usize> = living.collect();
        assert!(living.len() <= 1, "two swarms live: {living:?}");
    }

    /// What is written over nothing is decided and sent within a second: the charter is not written and
    /// deleted again in between.
    fn delete_charter(&mut self) {
        let was_there = self.charter.take().is_some();
        for host in self.nodes.iter_mut().filter(|_| was_there) {
            host.decided.take_if(|step| {
                matches!(step, Step::Claim { seen: None, .. } | Step::PublishAgain { .. })
            });
        }
    }

    fn crash(&mut self, node: usize) {
        let host = &mut self.nodes[node];
        (host.decided, host.gone, host.serves) = (None, None, None);
    }

    fn init(&mut self, node: usize, label: Option<u64>) {
        if self.nodes[node].swarm.is_none() {
            self.swarms.push(vec![self.machine(node)]);
            self.labels.push((self.now_seconds, label));
            self.nodes[node].swarm = Some(self.swarms.len() - 1);
        }
    }

    /// The swarm that a charter names.
    fn swarm_of(&self, charter: &Charter) -> Option<usize> {
        (0..self.swarms.len()).find(|swarm| charter.swarm_id == Some(swarm_name(*swarm)))
    }

    fn open(&mut self, charter: Charter) {
        let swarm = self.swarm_of(&charter).expect("opened for a swarm");
        let known: BTreeSet<usize> = self.rows.values().map(|row| row.swarm).collect();
        let is_forgotten = |open: &(u64, usize)| {
            let is_other = open.0 >= charter.generation && open.1 != swarm;
            is_other && !known.contains(&open.1) && !self.has_quorum(open.1)
        };
        let forgotten: Vec<_> = self.opened.iter().copied().filter(is_forgotten).collect();
        self.opened.retain(|open| !forgotten.contains(open));
        self.ever_opened.insert((charter.generation, swarm));
        if !self.opened.contains(&(charter.generation, swarm)) {
            self.opened.push((charter.generation, swarm));
        }
        if charter.recovers == charter.swarm_id {
            self.recovered.insert(swarm, charter.generation);
        }
        self.charter = Some(charter);
    }

    /// Everybody looks and acts, again and again.
    pub fn settle(&mut self) {
        for round in 0..30 {
            for node in 0..self.nodes.len() {
                // A decision from before still comes first.
                self.happen(Event::Act(node));
                self.happen(Event::Look(node));
                self.happen(Event::Act(node));
                self.happen(Event::Serve(node));
            }
            if round % 5 == 4 {
                self.happen(Event::PatienceEnds);
            }
        }
    }
}

fn node_name((node, life): Machine, swarm: usize) -> String {
    format!("{node}.{life}-in-{swarm}")
}

/// The row of a node whose instance has the name `id`, by what Docker called it when it was written.
pub fn member(id: &str, role: Role, serves_as: Role, generation: u64) -> Member {
    let mut row = row(&format!("node-{id}"), generation, MemberState::Ready);
    (row.instance_id, row.role, row.serves_as) = (id.into(), role, Some(serves_as));
    row
}

pub fn row(node_id: &str, generation: u64, state: MemberState) -> Member {
    let instance = Instance {
        id: String::new(),
        instance_type: String::new(),
        zone: String::new(),
        region: String::new(),
        private_address: [10, 0, 0, 1].into(),
        market: Market::OnDemand,
        group: None,
        stack: None,
        tags: BTreeMap::new(),
    };
    let membership = Membership {
        node_id: node_id.into(),
        swarm_id: String::new(),
        generation,
        role: Role::Worker,
    };
    Member::new(&instance, &membership, Role::Worker, state, OffsetDateTime::UNIX_EPOCH)
}
