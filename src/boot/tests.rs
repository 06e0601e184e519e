//! Founding and joining by several nodes, step by step in any order: every step is decided on what
//! a node saw **earlier**, nodes crash in between, leases expire. The writes arbitrate as
//! DynamoDB's conditions and Docker do.

use std::time::Duration;

use proptest::prelude::*;
use time::OffsetDateTime;

use super::decide::{Observed, OwnSwarm, Refusal, SETTLE_TIME, Step, decide};
use crate::instance::Role;
use crate::ledger::{Charter, CharterPhase, SCHEMA};
use crate::swarm::{LocalNode, LocalState};

const LEASE: Duration = Duration::from_secs(30);

/// What happens next, to whom.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Looks and decides; acts later.
    Look(usize),
    /// Does what was decided.
    Act(usize),
    /// Does it, dies before it knows, and starts anew.
    ActAndCrash(usize),
    /// Dies with a decision in hand and starts anew.
    Crash(usize),
    /// Time for every lease to expire.
    LeaseExpires,
}

#[derive(Clone, Default)]
struct World {
    now_seconds: u64,
    charter: Option<Charter>,
    /// Generations that were ever open, with their swarm.
    opened: Vec<(u64, usize)>,
    /// Members of each swarm ever founded, by node.
    swarms: Vec<Vec<usize>>,
    nodes: Vec<Host>,
}

#[derive(Clone)]
struct Host {
    role: Role,
    swarm: Option<usize>,
    decided: Option<Step>,
}

fn name(node: usize) -> String {
    format!("i-{node}")
}

fn swarm_name(swarm: usize) -> String {
    format!("swarm-{swarm}")
}

impl World {
    fn new(managers: usize, workers: usize) -> Self {
        let host = |role| Host { role, swarm: None, decided: None };
        let mut nodes = vec![host(Role::Manager); managers];
        nodes.extend(vec![host(Role::Worker); workers]);
        Self { nodes, ..Self::default() }
    }

    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::from_secs(self.now_seconds)
    }

    fn look(&self, node: usize) -> Observed {
        let host = &self.nodes[node];
        let is_manager = host.swarm.is_some() && host.role == Role::Manager;
        let local = LocalNode {
            state: if host.swarm.is_some() { LocalState::Active } else { LocalState::Inactive },
            node_id: host.swarm.map(|swarm| format!("{node}-in-{swarm}")),
            swarm_id: host.swarm.map(swarm_name),
            is_manager,
            has_managers: host.swarm.is_some(),
            error: String::new(),
            address: None,
            live_restore: false,
        };
        let is_named = self.charter.as_ref().is_some_and(|charter| {
            charter.phase == CharterPhase::Open && charter.swarm_id == local.swarm_id
        });
        Observed {
            charter: self.charter.clone(),
            own_swarm: host
                .swarm
                .filter(|_| is_manager && !is_named)
                .map(|swarm| OwnSwarm { is_ours: true, is_alone: self.swarms[swarm].len() <= 1 }),
            local,
            member: None,
            unsettled_for: Duration::ZERO,
            now: self.now(),
        }
    }

    fn decide(&self, node: usize) -> Step {
        decide(&name(node), self.nodes[node].role, &self.look(node))
    }

    fn act(&mut self, node: usize, step: Step) {
        match step {
            Step::Claim { seen } => {
                // The condition: unchanged since it was seen, and free.
                let is_unchanged = match (&seen, &self.charter) {
                    (None, None) => true,
                    (Some(seen), Some(now)) => {
                        seen.generation == now.generation
                            && seen.phase == now.phase
                            && now.is_claimable(self.now())
                    }
                    _ => false,
                };
                if is_unchanged {
                    self.charter = Some(Charter {
                        schema: SCHEMA,
                        phase: CharterPhase::Founding,
                        generation: seen.map_or(0, |charter| charter.generation) + 1,
                        founder: name(node),
                        lease_expires_at: self.now() + LEASE,
                        swarm_id: None,
                        ca_digest: None,
                        founded_at: None,
                    });
                }
            }
            Step::Init { .. } => {
                if self.nodes[node].swarm.is_none() {
                    self.swarms.push(vec![node]);
                    self.nodes[node].swarm = Some(self.swarms.len() - 1);
                }
            }
            Step::Publish { claim, membership } => {
                let is_claimed = self.charter.as_ref().is_some_and(|charter| {
                    charter.is_claimed_by(&name(node)) && charter.generation == claim.generation
                });
                if is_claimed {
                    let swarm = self.nodes[node].swarm.expect("publishes what it is in");
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
                let host = &mut self.nodes[node];
                if host.swarm.is_none() {
                    let swarm = self.opened.iter().find(|open| open.0 == charter.generation);
                    let swarm = swarm.expect("joins what was published").1;
                    host.swarm = Some(swarm);
                    self.swarms[swarm].push(node);
                }
            }
            Step::Discard { .. } => {
                let swarm = self.nodes[node].swarm.take().expect("discards what it is in");
                assert_eq!(self.swarms[swarm], [node], "a swarm with others in it was given up");
                assert!(self.opened.iter().all(|open| open.1 != swarm), "it was published");
                self.swarms[swarm].clear();
            }
            Step::Ready(membership) => {
                let swarm = self.nodes[node].swarm.expect("is Ready in a swarm");
                assert_eq!(membership.swarm_id, swarm_name(swarm));
                assert!(self.opened.contains(&(membership.generation, swarm)));
            }
            Step::Wait { .. } => {}
            Step::Unlock { .. } | Step::LeaveStale | Step::Refuse(_) => {
                panic!("no cause for {step:?}")
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Look(node) => self.nodes[node].decided = Some(self.decide(node)),
            Event::Act(node) | Event::ActAndCrash(node) => {
                if let Some(step) = self.nodes[node].decided.take() {
                    self.act(node, step);
                }
            }
            Event::Crash(node) => self.nodes[node].decided = None,
            Event::LeaseExpires => self.now_seconds += LEASE.as_secs() + 1,
        }
        assert!(self.opened.len() <= 1, "two swarms were published: {:?}", self.opened);
    }
}

fn events(nodes: usize) -> impl Strategy<Value = Vec<Event>> {
    let node = 0..nodes;
    let event = prop_oneof![
        5 => node.clone().prop_map(Event::Look),
        5 => node.clone().prop_map(Event::Act),
        2 => node.clone().prop_map(Event::ActAndCrash),
        1 => node.prop_map(Event::Crash),
        1 => Just(Event::LeaseExpires),
    ];
    prop::collection::vec(event, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever has happened: one swarm at the most was published, and once the dust has settled
    /// every node is Ready in it.
    #[test]
    fn any_order_of_steps_and_crashes_ends_in_one_swarm(events in events(5)) {
        let mut world = World::new(3, 2);
        for event in events {
            world.happen(event);
        }
        for round in 0..20 {
            for node in 0..world.nodes.len() {
                // A decision from before still comes first.
                world.happen(Event::Act(node));
                world.happen(Event::Look(node));
                world.happen(Event::Act(node));
            }
            if round == 5 {
                world.happen(Event::LeaseExpires);
            }
        }
        for node in 0..world.nodes.len() {
            prop_assert!(
                matches!(world.decide(node), Step::Ready(_)),
                "{node}: {:?}", world.decide(node)
            );
        }
    }
}

fn observed(state: LocalState) -> Observed {
    let mut world = World::new(1, 0);
    world.act(0, Step::Claim { seen: None });
    let seen = world.look(0);
    Observed { local: LocalNode { state, ..seen.local.clone() }, ..seen }
}

#[test]
fn a_join_in_the_background_gets_time_to_settle_and_is_then_given_up() {
    let mut seen = observed(LocalState::Pending);
    assert!(matches!(decide("i-0", Role::Worker, &seen), Step::Wait { .. }));
    seen.unsettled_for = SETTLE_TIME;
    assert!(matches!(decide("i-0", Role::Worker, &seen), Step::Discard { .. }));
}

#[test]
fn a_swarm_that_bears_no_mark_of_ours_is_left_alone() {
    let mut seen = observed(LocalState::Active);
    seen.local.swarm_id = Some("theirs".into());
    seen.local.node_id = Some("node".into());
    // A worker whose row does not know this node, then a manager of an unmarked swarm, even alone.
    assert!(matches!(decide("i-0", Role::Worker, &seen), Step::Refuse(_)));
    seen.local.is_manager = true;
    seen.own_swarm = Some(OwnSwarm { is_ours: false, is_alone: true });
    assert!(matches!(decide("i-0", Role::Manager, &seen), Step::Refuse(_)));
}

#[test]
fn beside_an_open_charter_only_a_marked_swarm_without_others_is_given_up() {
    let mut seen = observed(LocalState::Active);
    let charter = seen.charter.as_mut().unwrap();
    charter.phase = CharterPhase::Open;
    charter.swarm_id = Some("published".into());
    seen.local.swarm_id = Some("another".into());
    seen.local.is_manager = true;
    for (is_ours, is_alone) in [(true, true), (true, false), (false, true), (false, false)] {
        seen.own_swarm = Some(OwnSwarm { is_ours, is_alone });
        let step = decide("i-0", Role::Manager, &seen);
        match (is_ours, is_alone) {
            (true, true) => assert!(matches!(step, Step::Discard { .. }), "{step:?}"),
            _ => assert!(matches!(step, Step::Refuse(_)), "{step:?}"),
        }
    }
}

#[test]
fn a_locked_manager_tries_the_key_of_the_charters_generation() {
    let mut seen = observed(LocalState::Locked);
    let unlocks =
        |role, seen: &Observed| matches!(decide("i-0", role, seen), Step::Unlock { generation: 1 });
    for (phase, expected) in
        [(CharterPhase::Founding, true), (CharterPhase::Open, true), (CharterPhase::Closed, false)]
    {
        seen.charter.as_mut().unwrap().phase = phase;
        assert_eq!(unlocks(Role::Manager, &seen), expected, "{phase:?}");
        assert!(!unlocks(Role::Worker, &seen), "the key is the managers'");
    }
    seen.charter = None;
    assert!(matches!(decide("i-0", Role::Manager, &seen), Step::Refuse(Refusal::Locked)));
}

#[test]
fn a_closed_charter_is_claimed_by_managers_alone() {
    let mut seen = observed(LocalState::Inactive);
    seen.charter.as_mut().unwrap().phase = CharterPhase::Closed;
    assert!(matches!(decide("i-9", Role::Manager, &seen), Step::Claim { .. }));
    assert!(matches!(decide("i-9", Role::Worker, &seen), Step::Wait { .. }));
}
