//! Feeds rows of any bytes to every decision of a node about itself.

use std::time::Duration;

use time::OffsetDateTime;

use crate::clients::ledger::fuzz::decoded::{Decoded, WORDS, corpus, decoded, local_node};
use crate::common::fact::Fact;
use crate::common::instance::{Membership, Role};
use crate::fuzz::{Target, choices, run};
use crate::lifecycle::boot::decide::{Observed, Step, decide};
use crate::lifecycle::boot::demotion_request::PeerDemotion;
use crate::lifecycle::boot::lost_swarm::{self, Absence};
use crate::lifecycle::leave::{self, Evidence, Lookup};
use crate::lifecycle::membership::{self, Reach, Records};
use crate::lifecycle::recover;

const ME: &str = "i-0";
const LONG: Duration = Duration::from_secs(600);
/// A time at which no row is fresh.
const LATER: OffsetDateTime = time::macros::datetime!(2026-11-28 18:00 UTC);

#[test]
fn no_row_stops_a_node() {
    let target = Target { name: "rows-of-a-node", corpus: corpus(), words: &WORDS };
    run(&target, |input| {
        let (rows, choices) = (decoded(input), &mut choices(input));
        let role = Role::ALL[choices.usize(..2)];
        let boot = boot(&rows, role, choices);
        (boot, stay(&rows, role, choices), leaves(&rows, choices), recovers(&rows, choices))
    });
}

fn fact(choices: &mut fastrand::Rng) -> Fact {
    [Fact::Yes, Fact::No, Fact::CannotTell][choices.usize(..3)]
}

fn boot(rows: &Decoded, role: Role, choices: &mut fastrand::Rng) -> std::mem::Discriminant<Step> {
    let charter = rows.charter.clone();
    let found = lost_swarm::of_rows(charter.as_ref(), &rows.members, ME, LATER);
    let absence = Absence { is_self_listed: true, lasted: LONG, patience: LONG, ..found };
    assert!(!absence.finding(None).is_empty());
    let request = rows.demotion_requests.rows.first().cloned();
    let seen = Observed {
        charter,
        local: local_node(choices),
        certificate_error: None,
        certified: None,
        member: rows.members.rows.iter().find(|row| row.instance_id == ME).cloned(),
        own_swarm: None,
        has_leader: fact(choices),
        lives_on: None,
        absence: choices.bool().then_some(absence),
        is_joining: fact(choices),
        is_moved: choices.bool(),
        peer_demotion: Some(PeerDemotion { request, is_led: choices.bool() }),
        unsettled_for: LONG,
        lease: Duration::from_secs(30),
        now: LATER,
    };
    let step = decide(ME, role, &seen);
    if let Step::Claim { seen: over, traces } = &step {
        let lease = Duration::from_secs(30);
        let claim = crate::clients::ledger::Charter::claim(over.as_ref(), traces, ME, LATER, lease);
        assert!(claim.generation > traces.highest);
    }
    std::mem::discriminant(&step)
}

fn stay(rows: &Decoded, role: Role, choices: &mut fastrand::Rng) -> String {
    let records = Records {
        charter: rows.charter.clone(),
        row: rows.members.rows.first().cloned(),
        is_manager_there: choices.bool(),
        reach: Reach::Open,
        has_leader: fact(choices),
    };
    let local = local_node(choices);
    let seen = membership::Observed { local, is_moved: choices.bool(), records: Some(records) };
    let (node_id, swarm_id) = ("node-0".to_owned(), "swarm".to_owned());
    let own = Membership { node_id, swarm_id, generation: 1, role };
    let verdict = membership::decide(ME, &own, &seen);
    crate::fuzz::kind(&format!("{verdict:?}"))
}

/// Whether a departing node would be in its own swarm.
fn leaves(rows: &Decoded, choices: &mut fastrand::Rng) -> String {
    let evidence = Evidence {
        charter: rows.charter.clone().map_or(Lookup::Nothing, Lookup::Found),
        row: rows
            .members
            .rows
            .first()
            .map_or(Lookup::Nothing, |row| Lookup::Found(row.node_id.clone())),
        ..Evidence::default()
    };
    format!("{:?}", leave::judge(&local_node(choices), &evidence))
}

fn recovers(rows: &Decoded, choices: &mut fastrand::Rng) -> bool {
    let seen = recover::Observed {
        me: ME.to_owned(),
        charter: rows.charter.clone(),
        local: Some(local_node(choices)),
        row: rows.members.rows.first().cloned(),
        others: rows.members.rows.iter().skip(1).cloned().collect(),
        listed: choices.bool().then(Default::default),
        listening: Default::default(),
        unreadable: rows.members.unreadable.clone(),
        unlock_keys: None,
        has_leader: fact(choices),
        leaves_by: None,
        now: LATER,
    };
    match recover::decide(&seen) {
        Ok(()) => true,
        Err(why) => {
            assert!(!why.to_string().is_empty());
            false
        }
    }
}
