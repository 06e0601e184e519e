//! A world for founding, joining and losing: machines that act on what they saw **earlier**, a
//! ledger whose conditions arbitrate as DynamoDB's do, swarms with a quorum or without.

mod recovery;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use time::OffsetDateTime;

use crate::boot::decide::{NEVER_RECORDED, Observed, OwnSwarm, Step, decide};
use crate::boot::lost::Absence;
use crate::instance::{Instance, Market, Membership, Role};
use crate::ledger::{Charter, CharterPhase, Member, MemberState};
use crate::swarm::{LocalNode, LocalState};

const LEASE: Duration = Duration::from_secs(30);
/// Of `boot.lost_after`.
const PATIENCE: Duration = Duration::from_secs(120);

/// What happens next, to whom.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// Looks and decides; acts later.
    Look(usize),
    /// Does what was decided.
    Act(usize),
    /// Does it, dies before it knows, and starts anew.
    ActAndCrash(usize),
    /// Dies with a decision in hand and starts anew.
    Crash(usize),
    /// Nobody reaches it any more, or everybody does again. Auto Scaling lists it all the while.
    Silence(usize),
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
    /// Members of each swarm ever founded.
    pub swarms: Vec<Vec<Machine>>,
    /// Which machine has joined which swarm of which generation.
    rows: BTreeMap<Machine, (u64, usize)>,
    pub nodes: Vec<Host>,
}

#[derive(Clone)]
pub struct Host {
    pub role: Role,
    life: u32,
    pub swarm: Option<usize>,
    decided: Option<Step>,
    pub is_silent: bool,
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
        let host =
            |role| Host { role, life: 0, swarm: None, decided: None, is_silent: false, gone: None };
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

    fn is_manager_of(&self, (node, _): Machine) -> bool {
        self.nodes[node].role == Role::Manager
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

    fn absence(&mut self, node: usize) -> Option<Absence> {
        let is_of_interest = |it: &Charter| it.phase == CharterPhase::Open || it.is_recovery();
        let charter = self.charter.clone().filter(is_of_interest)?;
        let me = self.machine(node);
        let listens = |machine: &Machine| {
            let host = &self.nodes[machine.0];
            self.is_there(*machine) && host.swarm.is_some() && !host.is_silent
        };
        let others = || self.rows.keys().filter(|it| self.is_manager_of(**it) && **it != me);
        let mut managers: BTreeSet<String> = others()
            .filter(|it| self.rows[*it].0 == charter.generation || charter.is_recovery())
            .map(|it| name(*it))
            .collect();
        managers.insert(charter.founder.clone());
        managers.remove(&name(me));
        let there: BTreeSet<String> =
            (0..self.nodes.len()).map(|node| name(self.machine(node))).collect();
        let mut absence = Absence {
            listed: managers.intersection(&there).cloned().collect(),
            managers,
            is_self_listed: true,
            listening: others().any(listens).then_some([10, 0, 0, 1].into()),
            lasted: Duration::ZERO,
            patience: PATIENCE,
        };
        let host = &mut self.nodes[node];
        host.gone = absence.is_complete().then_some(match host.gone {
            Some((of, since)) if of == charter.generation => (of, since),
            _ => (charter.generation, self.now_seconds),
        });
        let since = host.gone.map_or(self.now_seconds, |(_, since)| since);
        absence.lasted = Duration::from_secs(self.now_seconds - since);
        Some(absence)
    }

    pub fn look(&mut self, node: usize) -> Observed {
        let absence = match &self.nodes[node] {
            Host { role: Role::Manager, swarm: None, .. } => self.absence(node),
            _ => None,
        };
        let host = &self.nodes[node];
        let (has_quorum, me) = (self.is_led(node), self.machine(node));
        let is_manager = host.swarm.is_some() && host.role == Role::Manager;
        let node_id = host.swarm.map(|swarm| format!("{node}-in-{swarm}"));
        let local = LocalNode {
            state: if host.swarm.is_some() { LocalState::Active } else { LocalState::Inactive },
            node_id: node_id.clone(),
            swarm_id: host.swarm.map(swarm_name),
            is_manager,
            has_managers: has_quorum,
            error: String::new(),
            address: None,
            live_restore: false,
        };
        let is_named = self.charter.as_ref().is_some_and(|charter| {
            charter.phase == CharterPhase::Open && charter.swarm_id == local.swarm_id
        });
        let is_asked = !is_named
            || !self.rows.contains_key(&me)
                && self.charter.as_ref().is_some_and(|it| it.fences(&name(me), NEVER_RECORDED));
        Observed {
            charter: self.charter.clone(),
            own_swarm: host.swarm.filter(|_| is_manager && is_asked && has_quorum).map(|swarm| {
                OwnSwarm {
                    is_ours: true,
                    is_alone: self.swarms[swarm].len() <= 1,
                    has_former: self.swarms[swarm].iter().any(|it| {
                        let generation = self.charter.as_ref().map(|charter| charter.generation);
                        // A row of another node id is of a swarm that the machine was in before.
                        let row = self.rows.get(it).filter(|row| row.1 == swarm);
                        let is_former = row.is_some_and(|row| Some(row.0) < generation);
                        self.is_manager_of(*it) && *it != me && is_former
                    }),
                }
            }),
            local,
            member: self.rows.get(&self.machine(node)).map(|(generation, swarm)| {
                row(&format!("{node}-in-{swarm}"), *generation, MemberState::Ready)
            }),
            absence,
            is_moved: false,
            relief: None,
            unsettled_for: Duration::ZERO,
            now: self.now(),
        }
    }

    pub fn decide(&mut self, node: usize) -> Step {
        let seen = self.look(node);
        decide(&name(self.machine(node)), self.nodes[node].role, &seen)
    }

    pub fn act(&mut self, node: usize, step: Step) {
        let me = self.machine(node);
        match step {
            Step::Claim { seen } => {
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
                if is_unchanged {
                    let claim = Charter::claim(seen.as_ref(), &name(me), self.now(), LEASE);
                    self.charter = Some(claim);
                }
            }
            Step::Init { .. } => {
                if self.nodes[node].swarm.is_none() {
                    self.swarms.push(vec![me]);
                    self.nodes[node].swarm = Some(self.swarms.len() - 1);
                }
            }
            Step::Recreate { claim } => {
                let swarm = self.nodes[node].swarm.expect("re-creates what it is in");
                assert_eq!(claim.recovers, Some(swarm_name(swarm)));
                let workers = self.swarms[swarm].iter().filter(|it| !self.is_manager_of(**it));
                self.swarms[swarm] = workers.copied().chain([me]).collect();
            }
            Step::Publish { claim, membership } => {
                let swarm = self.nodes[node].swarm.expect("publishes what it is in");
                self.rows.insert(me, (claim.generation, swarm));
                let is_claimed = self.charter.as_ref().is_some_and(|charter| {
                    charter.is_claimed_by(&name(me)) && charter.generation == claim.generation
                });
                if is_claimed {
                    assert_eq!(membership.swarm_id, swarm_name(swarm));
                    self.opened.push((claim.generation, swarm));
                    self.charter = Some(Charter {
                        phase: CharterPhase::Open,
                        swarm_id: Some(swarm_name(swarm)),
                        ..claim
                    });
                }
            }
            Step::Join { charter } => {
                let swarm = self.opened.iter().find(|open| open.0 == charter.generation);
                let swarm = swarm.expect("joins what was published").1;
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
                let swarm = self.nodes[node].swarm.take().expect("leaves what it is in");
                assert_eq!(by_force, self.nodes[node].role == Role::Manager);
                // It will be another node than its row says.
                self.rows.remove(&me);
                self.swarms[swarm].retain(|machine| *machine != me);
            }
            Step::Ready(membership) => {
                let swarm = self.nodes[node].swarm.expect("is Ready in a swarm");
                assert_eq!(membership.swarm_id, swarm_name(swarm));
                assert!(self.opened.contains(&(membership.generation, swarm)));
                self.rows.insert(me, (membership.generation, swarm));
            }
            Step::Wait { .. } => {}
            Step::AskOut { .. } | Step::Unlock { .. } | Step::Refuse(_) => {
                panic!("no cause for {step:?}")
            }
        }
    }

    /// Nothing is given up that lives: a claim over an open charter is decided only where its swarm
    /// has no quorum and nobody is left who is in the ledger; a node leaves another swarm only.
    fn assert_nothing_is_given_up(&self, node: usize, step: &Step) {
        if let Some(recovery) = self.charter.as_ref().filter(|it| it.is_recovery()) {
            let founder = (0..self.nodes.len())
                .find(|node| name(self.machine(*node)) == recovery.founder)
                .filter(|node| self.nodes[*node].swarm.is_some());
            assert!(founder.is_none() || !matches!(step, Step::Claim { .. }), "its founder lives");
        }
        let Some(open) = self.charter.as_ref().filter(|it| it.phase == CharterPhase::Open) else {
            return;
        };
        if matches!(step, Step::LeaveStale { .. }) {
            // One whose claim was taken over, and that has re-created the quorum all the same: what it
            // holds is another history of the same swarm.
            let me = self.machine(node);
            let is_fenced = self
                .rows
                .get(&me)
                .is_some_and(|(generation, _)| open.fences(&name(me), *generation));
            let own =
                self.nodes[node].swarm.filter(|own| !is_fenced && self.swarms[*own].contains(&me));
            assert_ne!(own.map(swarm_name), open.swarm_id, "it is the charter's");
        }
        if !matches!(step, Step::Claim { .. }) {
            return;
        }
        let swarm = self.opened.last().expect("the open one").1;
        assert!(!self.has_quorum(swarm), "a swarm that lives was given up");
        let survivors = self.swarms[swarm].iter().filter(|machine| {
            let has_row = self.rows.get(*machine).is_some_and(|row| row.0 == open.generation);
            self.is_there(**machine) && self.is_manager_of(**machine) && has_row
        });
        assert_eq!(survivors.count(), 0, "a swarm with survivors was given up");
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
            gone: None,
            ..host.clone()
        };
        if let Some(swarm) = swarm
            && self.has_quorum(swarm)
        {
            self.swarms[swarm].retain(|machine| *machine != gone);
            self.rows.remove(&gone);
        }
    }

    /// Time goes by: whoever is a manager of a swarm with a quorum has written its row by then.
    fn pass(&mut self, time: Duration) {
        self.now_seconds += time.as_secs() + 1;
        self.record();
    }

    fn record(&mut self) {
        for (generation, swarm) in self.opened.clone() {
            if self.has_quorum(swarm) {
                for machine in self.swarms[swarm].clone() {
                    if self.is_there(machine) {
                        self.rows.insert(machine, (generation, swarm));
                    }
                }
            }
        }
    }

    pub fn happen(&mut self, event: Event) {
        match event {
            Event::Look(node) => {
                let step = self.decide(node);
                self.assert_nothing_is_given_up(node, &step);
                self.nodes[node].decided = Some(step);
            }
            Event::Act(node) | Event::ActAndCrash(node) => {
                if let Some(step) = self.nodes[node].decided.take() {
                    self.act(node, step);
                }
                if matches!(event, Event::ActAndCrash(_)) {
                    self.nodes[node].gone = None;
                }
            }
            Event::Crash(node) => (self.nodes[node].decided, self.nodes[node].gone) = (None, None),
            Event::Silence(node) => {
                self.nodes[node].is_silent ^= true;
                self.record();
            }
            Event::Replace(node) => self.replace(node),
            Event::Recover(node) => self.recover(node),
            Event::LeaseExpires => self.pass(LEASE),
            Event::PatienceEnds => self.pass(PATIENCE),
        }
        let is_once = self.opened.windows(2).all(|pair| pair[0].0 < pair[1].0);
        assert!(is_once, "two swarms of one generation were published: {:?}", self.opened);
    }

    /// Everybody looks and acts, again and again.
    pub fn settle(&mut self) {
        for round in 0..30 {
            for node in 0..self.nodes.len() {
                // A decision from before still comes first.
                self.happen(Event::Act(node));
                self.happen(Event::Look(node));
                self.happen(Event::Act(node));
            }
            if round % 5 == 4 {
                self.happen(Event::PatienceEnds);
            }
        }
    }
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
