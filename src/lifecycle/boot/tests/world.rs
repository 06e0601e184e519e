//! A world for founding, joining and losing: machines that act on **earlier** observations, a ledger whose conditions
//! accept and refuse as DynamoDB's do, and from which anything may be deleted, swarms with a quorum or without. For
//! every fact there is an observation that cannot tell.

mod by_hand;
mod checks;
mod look;
mod recovery;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use time::OffsetDateTime;

use crate::clients::ledger::{Charter, CharterPhase, History, Member, MemberState};
use crate::common::instance::{Instance, Market, Membership, Role};
use crate::lifecycle::boot::decide::{Step, decide};

const LEASE: Duration = Duration::from_secs(30);
/// The value of `boot.lost_after`.
const PATIENCE: Duration = Duration::from_secs(120);

/// The next event, and its machine.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// Observes and decides; acts later.
    Look(usize),
    /// Observes while the rows cannot be read, and Docker does not answer about its swarm.
    LookBlind(usize),
    /// Carries out the decision.
    Act(usize),
    /// Carries it out; Docker's init ends between its two steps.
    ActHalf(usize),
    /// Carries out the duties that a serving skep has for the others.
    Serve(usize),
    /// The operator deletes the charter, at any time.
    DeleteCharter,
    /// The operator deletes the rows of machines that are gone.
    RowsTidied,
    /// The operator edits its row, which cannot be read until it is written again.
    SpoilRow(usize),
    /// Carries out the decision, crashes before it has the answer, and restarts.
    ActAndCrash(usize),
    /// Crashes before it carries out its decision, and restarts.
    Crash(usize),
    /// No node reaches it any more, or every node does again. Auto Scaling lists it all the time.
    Silence(usize),
    /// The operator detaches its instance from its group, or attaches it again; the machine keeps running. If it is
    /// also unreachable for minutes, no observation can show that it is alive: the world leaves out such a time.
    Detach(usize),
    /// The operator makes it a manager, or a worker.
    Promote(usize),
    Demote(usize),
    /// Its instance is gone for good, and another one is launched in its place.
    Replace(usize),
    /// The operator re-creates the quorum there, unless that is refused.
    Recover(usize),
    /// Time for every lease to expire.
    LeaseExpires,
    /// Time for a lost swarm to count as lost.
    PatienceEnds,
}

/// A machine: its host, and how often that host was replaced.
pub type Machine = (usize, u32);

#[derive(Clone, Default)]
pub struct World {
    now_seconds: u64,
    pub charter: Option<Charter>,
    history: Option<History>,
    /// Generations that were ever open, with their swarm.
    pub opened: Vec<(u64, usize)>,
    /// The same, including those that no row or charter names any more.
    ever_opened: BTreeSet<(u64, usize)>,
    /// Members of each swarm ever founded.
    pub swarms: Vec<Vec<Machine>>,
    /// When each swarm was founded, and the generation in its label.
    labels: Vec<(u64, Option<u64>)>,
    /// The generation under which the quorum of a swarm was last re-created, by its label.
    recovered: BTreeMap<usize, u64>,
    /// The rows of the machines: the swarm and the generation that each has joined.
    rows: BTreeMap<Machine, Row>,
    /// The machines in a swarm that were promoted or demoted by hand.
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
    /// Since when every observation has found the managers of that generation gone.
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

    /// Whether more than half of the managers exist and reach each other.
    pub fn has_quorum(&self, swarm: usize) -> bool {
        let managers = self.swarms[swarm].iter().filter(|it| self.is_manager_of(**it));
        let (mut all, mut well) = (0, 0);
        for machine in managers {
            all += 1;
            well += usize::from(self.is_there(*machine) && !self.nodes[machine.0].is_silent);
        }
        2 * well > all
    }

    /// Whether that node has a leader. One that was left out when the quorum was re-created has none.
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
            "its role does not permit {step:?}"
        );
        match step {
            Step::Claim { seen, traces } => {
                // The condition: unchanged since the observation, and free or claimable.
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
            // Demoted by hand since the observation: Docker refuses.
            Step::Recreate { .. } | Step::Publish { .. } if !self.is_manager_of(me) => {}
            Step::Recreate { claim } => {
                let swarm = self.nodes[node].swarm.expect("re-creates what it is in");
                assert_eq!(claim.recovers, Some(swarm_name(swarm)));
                let workers = self.swarms[swarm].iter().filter(|it| !self.is_manager_of(**it));
                self.swarms[swarm] = workers.copied().chain([me]).collect();
            }
            Step::Publish { claim, membership } => {
                let swarm = self.nodes[node].swarm.expect("publishes what it is in");
                self.labels[swarm].1 = Some(claim.generation);
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
                assert_eq!(self.swarms[swarm], [me], "it left a swarm with other nodes by force");
                assert!(self.opened.iter().all(|open| open.1 != swarm), "it was published");
                self.swarms[swarm].clear();
            }
            Step::LeaveStale { by_force, .. } => {
                let swarm = self.nodes[node].swarm.expect("leaves what it is in");
                if !by_force && self.is_manager_of(me) {
                    // Promoted by hand since the observation: Docker refuses.
                    return;
                }
                (self.nodes[node].swarm, self.nodes[node].serves) = (None, None);
                // It will not be the node that its row names.
                self.rows.remove(&me);
                self.swarms[swarm].retain(|machine| *machine != me);
                self.by_hand.remove(&me);
            }
            Step::Ready(membership) => {
                let swarm = self.nodes[node].swarm.expect("is Ready in a swarm");
                assert_eq!(membership.swarm_id, swarm_name(swarm));
                // The decision may be from before the charter and the rows were deleted.
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

    /// Replaces the machine; the rest of its swarm removes it from the node list if it has a quorum.
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
            // It is Down for 20 s and not listed: nodes that have joined meanwhile have written their rows.
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
                Some(Step::Publish { claim, .. }) if self.is_manager_of(self.machine(node)) => {
                    let swarm = self.nodes[node].swarm.expect("publishes what it is in");
                    self.labels[swarm].1 = Some(claim.generation);
                }
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

    /// Deletes the charter. A claim on a missing charter is decided and sent within a second: the charter is not
    /// written and deleted again in between.
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

    /// Returns the swarm that a charter names.
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
        self.history = History::up_to(&charter);
        if charter.recovers == charter.swarm_id {
            self.recovered.insert(swarm, charter.generation);
        }
        self.charter = Some(charter);
    }

    /// Makes every node observe and act, again and again.
    pub fn settle(&mut self) {
        for round in 0..30 {
            for node in 0..self.nodes.len() {
                // An earlier decision is carried out first.
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

/// Returns the row of a node with the instance id `id`, which had the role `serves_as` in Docker when the row was
/// written.
pub fn member(id: &str, role: Role, serves_as: Role, generation: u64) -> Member {
    let mut row = row(&format!("node-{id}"), generation, MemberState::Ready);
    (row.instance_id, row.role, row.serves_as) = (id.into(), role, Some(serves_as));
    row
}

pub fn row(node_id: &str, generation: u64, state: MemberState) -> Member {
    let instance = Instance {
        id: String::new(),
        arn: String::new(),
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
