//! Chooses what a boot looks up besides the charter and Docker's state, which it always reads: only what these two
//! leave open. Pure: no clock, no I/O, no memory.
//!
//! Three stages, because each depends on the answers of the one before: this node's row and certificate, then its
//! attempt to join, then the rest.

use std::time::Duration;

use super::belonging::names;
use super::decide::NEVER_RECORDED;
use super::demotion_request::is_stuck;
use crate::clients::docker::{LocalNode, LocalState};
use crate::clients::ledger::{Charter, CharterPhase, Member};
use crate::common::fact::Fact;
use crate::common::instance::Role;
use crate::common::timing::{LEADER_WITHIN, NO_LEADER_WITHIN};

/// Whether this node's own row is needed.
pub fn needs_row(local: &LocalNode) -> bool {
    local.state != LocalState::Inactive
}

/// Whether the node certificate is needed. Docker calls no node a manager while it is neither in a swarm nor out of it.
pub fn needs_certificate(local: &LocalNode) -> bool {
    match local.state {
        LocalState::Inactive => false,
        LocalState::Pending | LocalState::Error => true,
        LocalState::Active | LocalState::Locked => {
            local.node_id.is_none() || local.swarm_id.is_none()
        }
    }
}

/// Whether this node's attempt to join is needed; `local` is complete by the certificate.
pub fn needs_attempt(local: &LocalNode, row: Option<&Member>) -> bool {
    let may_be_joining = match local.state {
        LocalState::Pending | LocalState::Error => true,
        LocalState::Active => local.is_manager && !local.is_sound(),
        LocalState::Inactive | LocalState::Locked => false,
    };
    may_be_joining && !names(row, local)
}

/// The facts that the last stage depends on.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    pub me: &'a str,
    pub role: Role,
    pub charter: Option<&'a Charter>,
    /// Complete by the certificate.
    pub local: &'a LocalNode,
    pub member: Option<&'a Member>,
    pub certified: Option<Role>,
    pub is_joining: Fact,
    pub is_moved: bool,
    pub unsettled_for: Duration,
}

/// The lookups of the last stage, in their order.
#[derive(Debug, PartialEq, Eq)]
pub struct Lookups<'a> {
    /// This node's demotion request, and a manager with a leader in the swarm of this charter.
    pub peer_demotion: Option<&'a Charter>,
    pub own_swarm: Option<OwnLookup<'a>>,
    /// No node can join, so no failed search for a manager starts the absence tracker.
    pub starts_tracker: bool,
    pub absence: Option<Rest<'a>>,
    /// A manager with a leader in the swarm of this closed charter.
    pub lives_on: Option<&'a Charter>,
}

/// How to look up the swarm in which this node is a manager.
#[derive(Debug, PartialEq, Eq)]
pub struct OwnLookup<'a> {
    /// The managers from before this charter's generation are read first, from their rows.
    pub former: Option<&'a Charter>,
    /// How long the leader may take to answer.
    pub patience: Duration,
    /// If the leader answers, the rows are read, too: they name the generation.
    pub is_generation_in_rows: bool,
}

/// The managers whose absence is looked up, if that is due.
#[derive(Debug, PartialEq, Eq)]
pub enum Rest<'a> {
    /// Those of the charter's swarm.
    Charter(&'a Charter),
    /// Without a charter, those of any swarm.
    AnySwarm,
    /// Without a charter, those of any swarm but the one that this node is in, once its leader has answered.
    OtherSwarms,
}

impl<'a> Facts<'a> {
    fn open(&self) -> Option<&'a Charter> {
        self.charter.filter(|charter| charter.phase == CharterPhase::Open)
    }

    fn recovery(&self) -> Option<&'a Charter> {
        self.charter.filter(|charter| charter.is_recovery())
    }

    fn is_inactive(&self) -> bool {
        self.local.state == LocalState::Inactive
    }

    /// Whether the open charter names the swarm that Docker is in.
    fn is_named(&self) -> bool {
        let named = self.open().and_then(|charter| charter.swarm_id.as_ref());
        named.is_some() && named == self.local.swarm_id.as_ref()
    }
}

/// Returns what else to look up.
pub fn choose<'a>(facts: &Facts<'a>) -> Lookups<'a> {
    let closed = facts.charter.filter(|charter| charter.phase == CharterPhase::Closed);
    let may_be_demoted = facts.role == Role::Manager && may_need_demotion(facts);
    Lookups {
        peer_demotion: facts.open().filter(|_| may_be_demoted),
        own_swarm: own_swarm(facts),
        starts_tracker: facts.charter.is_none() || facts.recovery().is_some(),
        absence: absence(facts),
        lives_on: closed.filter(|_| facts.is_inactive()),
    }
}

fn may_need_demotion(facts: &Facts) -> bool {
    let Facts { local, certified, is_joining, unsettled_for, .. } = *facts;
    facts.is_moved
        || local.is_certificate_refused()
        || is_stuck(local, certified, is_joining, unsettled_for)
        || local.state == LocalState::Active && !local.is_manager
}

fn own_swarm<'a>(facts: &Facts<'a>) -> Option<OwnLookup<'a>> {
    let is_in_doubt = !facts.is_inactive() && !facts.is_named();
    // Without a row, only the members of raft show whether this manager is from before.
    let recreated = facts.open().filter(|charter| {
        facts.is_named()
            && !names(facts.member, facts.local)
            && charter.fences(facts.me, NEVER_RECORDED)
    });
    let is_asked = facts.local.is_manager && (is_in_doubt || recreated.is_some());
    is_asked.then(|| OwnLookup {
        former: facts.recovery().or(recreated),
        patience: if facts.open().is_some() { NO_LEADER_WITHIN } else { LEADER_WITHIN },
        is_generation_in_rows: facts.charter.is_none(),
    })
}

fn absence<'a>(facts: &Facts<'a>) -> Option<Rest<'a>> {
    if facts.role != Role::Manager {
        // Only managers found or publish.
        return None;
    }
    match facts.charter {
        None if facts.is_inactive() => Some(Rest::AnySwarm),
        None => facts.local.is_manager.then_some(Rest::OtherSwarms),
        Some(_) if facts.is_inactive() => facts.open().or(facts.recovery()).map(Rest::Charter),
        Some(_) => None,
    }
}
