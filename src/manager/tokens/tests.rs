//! Tests several managers that follow Docker at once, each with an **earlier** observation, while secrets are rotated
//! and managers crash between two steps.

use proptest::prelude::*;
use time::OffsetDateTime;

use super::decide::{Step, Stored, Truth, decide, is_rotated};
use crate::clients::docker::{Rotation, SwarmError, SwarmErrorKind};
use crate::clients::ledger::{Charter, CharterPhase};
use crate::clients::secrets::{JoinToken, UnlockKeys};
use crate::common::fact::Fact;
use crate::common::instance::Role;

const MANAGERS: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Event {
    /// Observes and decides; acts later.
    Look(usize),
    /// Carries out the decision.
    Act(usize),
    /// Dies with a pending decision and starts again.
    Crash(usize),
    RotateToken(Role),
    RotateKey,
    RotateCa,
}

struct World {
    truth: Truth,
    charter: Charter,
    stored: Stored,
    /// Observation and pending decision of each manager.
    decided: [Option<(Truth, Charter, Stored, Step)>; MANAGERS],
    /// Counter that makes every secret different.
    count: u64,
    digests: Vec<String>,
}

fn token(ca: u64, secret: u64) -> JoinToken {
    JoinToken::parse(format!("SWMTKN-1-{ca:050}-{secret:025}").into()).unwrap()
}

fn key(n: u64) -> secrecy::SecretString {
    format!("SWMKEY-1-{n}").into()
}

fn charter(swarm_id: &str, ca_digest: &str) -> Charter {
    Charter {
        phase: CharterPhase::Open,
        generation: 1,
        founder: "i-0".into(),
        lease_expires_at: OffsetDateTime::UNIX_EPOCH,
        swarm_id: Some(swarm_id.into()),
        ca_digest: Some(ca_digest.into()),
        founded_at: None,
        former: vec![],
        recovers: None,
        adopts: None,
    }
}

impl World {
    fn new() -> Self {
        let truth = Truth {
            swarm_id: "s".into(),
            worker: token(0, 1),
            manager: token(0, 2),
            unlock_key: Some(key(3)),
        };
        let digest = truth.worker.ca_digest().to_owned();
        Self {
            charter: charter("s", &digest),
            stored: Stored::default(),
            decided: std::array::from_fn(|_| None),
            count: 3,
            digests: vec![digest],
            truth,
        }
    }

    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Look(manager) => {
                let step = decide(&self.truth, Some(&self.charter), &self.stored);
                let seen = (self.truth.clone(), self.charter.clone(), self.stored.clone(), step);
                self.decided[manager] = Some(seen);
            }
            Event::Act(manager) => self.act(manager),
            Event::Crash(manager) => self.decided[manager] = None,
            Event::RotateToken(role) => {
                let new = token(self.digests.len() as u64 - 1, self.next());
                match role {
                    Role::Worker => self.truth.worker = new,
                    Role::Manager => self.truth.manager = new,
                }
            }
            Event::RotateKey => self.truth.unlock_key = Some(key(self.next())),
            Event::RotateCa => {
                let ca = self.digests.len() as u64;
                (self.truth.worker, self.truth.manager) =
                    (token(ca, self.next()), token(ca, self.next()));
                self.digests.push(self.truth.worker.ca_digest().to_owned());
            }
        }
        // A charter that names an older CA again would shut joining nodes out for good.
        let digest = self.charter.ca_digest.clone().unwrap();
        assert!(self.digests.contains(&digest));
    }

    /// Writes as the store and DynamoDB's condition do.
    fn act(&mut self, manager: usize) {
        let Some((truth, seen, stored, step)) = self.decided[manager].take() else { return };
        match step {
            Step::StoreToken(Role::Worker) => self.stored.worker = Some(truth.worker),
            Step::StoreToken(Role::Manager) => self.stored.manager = Some(truth.manager),
            Step::StoreUnlockKey => {
                let key = truth.unlock_key.expect("there is one to store");
                let keys = stored.unlock_keys.unwrap_or_default().with(key);
                self.stored.unlock_keys = Some(keys);
            }
            Step::FollowCa => {
                let new = truth.worker.ca_digest().to_owned();
                if self.charter.ca_digest == seen.ca_digest {
                    let place = |digest| self.digests.iter().position(|it| it == digest);
                    assert!(place(&new) > place(&seen.ca_digest.unwrap()), "an older CA");
                    self.charter.ca_digest = Some(new);
                }
            }
            Step::AllTrue => {}
            Step::NotOurs => panic!("the charter is open for this swarm"),
        }
    }

    fn settle(&mut self) {
        for _ in 0..20 {
            for manager in 0..MANAGERS {
                self.happen(Event::Look(manager));
                self.happen(Event::Act(manager));
            }
        }
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let manager = 0..MANAGERS;
    let event = prop_oneof![
        6 => manager.clone().prop_map(Event::Look),
        6 => manager.clone().prop_map(Event::Act),
        1 => manager.prop_map(Event::Crash),
        1 => prop_oneof![Just(Role::Worker), Just(Role::Manager)].prop_map(Event::RotateToken),
        1 => Just(Event::RotateKey),
        1 => Just(Event::RotateCa),
    ];
    prop::collection::vec(event, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// After all events, once the managers have settled, store and charter match Docker.
    #[test]
    fn any_order_of_looks_writes_and_rotations_ends_in_the_truth(events in events()) {
        let mut world = World::new();
        for event in events {
            world.happen(event);
        }
        world.settle();
        let step = decide(&world.truth, Some(&world.charter), &world.stored);
        prop_assert_eq!(step, Step::AllTrue);
        let digest = world.charter.ca_digest.as_deref();
        prop_assert_eq!(digest, Some(world.truth.worker.ca_digest()));
        let keys = world.stored.unlock_keys.unwrap();
        prop_assert!(keys.begin_with(&world.truth.unlock_key.unwrap()));
    }
}

#[test]
fn only_an_open_charter_of_this_swarm_is_followed() {
    let world = World::new();
    let digest = world.truth.worker.ca_digest();
    let step = |charter: Option<&Charter>| decide(&world.truth, charter, &Stored::default());
    assert_eq!(step(None), Step::NotOurs);
    assert_eq!(step(Some(&charter("another", digest))), Step::NotOurs);
    for phase in [CharterPhase::Founding, CharterPhase::Closed] {
        assert_eq!(step(Some(&Charter { phase, ..charter("s", digest) })), Step::NotOurs);
    }
    assert_ne!(step(Some(&charter("s", digest))), Step::NotOurs);
}

#[test]
fn the_charter_follows_the_tokens_and_an_unlock_key_comes_first() {
    let mut world = World::new();
    world.settle();
    world.happen(Event::RotateCa);
    world.happen(Event::RotateKey);
    let mut steps = vec![];
    loop {
        world.happen(Event::Look(0));
        let step = world.decided[0].as_ref().map(|seen| seen.3).unwrap();
        if step == Step::AllTrue {
            break;
        }
        steps.push(step);
        world.happen(Event::Act(0));
    }
    let tokens = Role::ALL.map(Step::StoreToken);
    assert_eq!(steps, [Step::StoreUnlockKey, tokens[0], tokens[1], Step::FollowCa]);
}

#[test]
fn without_autolock_no_key_is_asked_for() {
    let mut world = World::new();
    world.truth.unlock_key = None;
    world.settle();
    assert!(world.stored.unlock_keys.is_none());
    let keys = UnlockKeys::default().with(key(9));
    assert!(
        !world
            .truth
            .is_same(&Truth { unlock_key: keys.iter().next().cloned(), ..world.truth.clone() })
    );
    assert!(world.truth.is_same(&world.truth.clone()));
}

/// "Nothing was rotated" is reported only where that is certain: Docker applies a write that it has answered with an
/// error once there is a leader again.
#[test]
fn whether_anything_was_rotated_has_three_values() {
    let mut world = World::new();
    let before = world.truth.clone();
    let worker = Rotation { worker_token: true, ..Rotation::default() };
    let both = Rotation { manager_token: true, ..worker };
    world.happen(Event::RotateToken(Role::Worker));
    let after = world.truth.clone();
    let rotated = |kind, what, after| {
        let message = String::new();
        is_rotated(what, &SwarmError { operation: "rotate", kind, message }, &before, after)
    };
    use SwarmErrorKind as Kind;
    for kind in [Kind::NoLeader, Kind::TimedOut, Kind::Unreachable, Kind::Other] {
        assert_eq!(rotated(kind, worker, None), Fact::CannotTell, "{kind:?}");
        assert_eq!(rotated(kind, worker, Some(&before)), Fact::CannotTell, "{kind:?}: not yet");
        assert_eq!(rotated(kind, worker, Some(&after)), Fact::Yes, "{kind:?}");
        assert_eq!(rotated(kind, both, Some(&after)), Fact::CannotTell, "{kind:?}: one of two");
    }
    for kind in [Kind::NotManager, Kind::Stale, Kind::TooNew] {
        assert_eq!(rotated(kind, worker, Some(&before)), Fact::No, "{kind:?}");
    }
}
