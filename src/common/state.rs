//! What this node is doing right now: one state, shown as the `STATUS=` line, in `skep status`, on
//! the health port and as log fields. Phases write it, everything else only reads.

mod handle;
mod recent_lines;
mod trouble_log;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::common::fact::Fact;
use crate::common::flush_result::Outcome;
use crate::common::instance::{Departure, Instance, Membership, Role, SchedulingHold};

pub use handle::StateHandle;

/// Where in its life the node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Reading who it is.
    Starting,
    /// In a warm pool: not to be in the swarm yet.
    Warmed,
    /// On the way into the swarm.
    Booting,
    /// An active member of the charter's swarm.
    Ready,
    /// On the way out.
    Leaving,
    /// Out of the swarm, with nothing left to do.
    Left,
    /// Gave up; the reason is in [`NodeState::doing`].
    Failed,
}

impl Phase {
    pub const ALL: [Phase; 7] = [
        Phase::Starting,
        Phase::Warmed,
        Phase::Booting,
        Phase::Ready,
        Phase::Leaving,
        Phase::Left,
        Phase::Failed,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Warmed => "warmed",
            Phase::Booting => "booting",
            Phase::Ready => "ready",
            Phase::Leaving => "leaving",
            Phase::Left => "left",
            Phase::Failed => "failed",
        }
    }
}

/// How far a departure is, for whoever watches it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Until then tasks may end as managers let them; then they are stopped here.
    #[serde(with = "time::serde::rfc3339")]
    pub drain_until: OffsetDateTime,
    /// Until then logs are flushed; what follows is kept for leaving.
    #[serde(with = "time::serde::rfc3339")]
    pub flush_until: OffsetDateTime,
    /// Containers of this host that have not ended.
    pub containers: Vec<Remaining>,
}

/// A container that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remaining {
    pub name: String,
    /// A task of the swarm; managers stop it. Others are stopped by this node.
    pub is_task: bool,
    /// Seconds between its SIGTERM and its SIGKILL, where the container itself says.
    pub grace_seconds: Option<u64>,
}

/// This node as `skep status` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct NodeState {
    pub phase: Phase,
    /// When this phase began.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// What it does or waits for, in words: `waiting for i-0abc to publish the swarm`.
    pub doing: String,
    /// Known once the metadata has answered.
    pub instance: Option<Instance>,
    pub cluster: Option<String>,
    pub role: Option<Role>,
    /// Proof of boot, while it holds.
    pub membership: Option<Membership>,
    pub departure: Option<Departure>,
    /// How its last departure has failed, where the node goes on.
    pub failed_departure: Option<String>,
    /// The ledger does not say so yet: with so many tasks killed.
    #[serde(skip)]
    pub unrecorded_failure: Option<usize>,
    /// Why it is to get no tasks although it stays.
    pub scheduling_hold: Option<SchedulingHold>,
    /// This host is broken for good, and Auto Scaling was asked to replace it.
    pub is_given_up: bool,
    /// Its group has let it go and does not replace it: it stays in the swarm.
    pub is_detached: bool,
    /// The log flushers of this departure, in the order in which they began.
    pub flush: Vec<Outcome>,
    /// Why it leaves, in the operator's own words.
    pub why: Option<String>,
    /// While it leaves.
    pub progress: Option<Progress>,
    /// While it leaves: until when the quorum can still be re-created here. `None` when that is over.
    #[serde(skip)]
    pub recovery_until: Option<OffsetDateTime>,
    /// On a manager: what keeps the nodes on the list that look dead, by Docker's id. Shown with the
    /// fleet.
    #[serde(skip)]
    pub verdicts: BTreeMap<String, String>,
    /// Tasks that were killed without their grace in this departure, by their containers' names.
    pub killed: Vec<String>,
    /// Tasks of which Docker could not say whether they had their grace, by their containers' names.
    pub grace_unknown: Vec<String>,
    /// This machine was Ready at this start of it, before skep was restarted, and Docker still names the
    /// same node. Kept on the way to Ready, where it is all that is known.
    #[serde(skip)]
    pub is_still_member: Fact,
    /// On a manager: since when its swarm has had no leader, once that is more than an election.
    #[serde(with = "time::serde::rfc3339::option")]
    pub quorum_lost_since: Option<OffsetDateTime>,
    /// What this node cannot do for the swarm at present and goes on trying, in words.
    pub trouble: Option<String>,
    /// The same, by who says so.
    #[serde(skip)]
    troubles: BTreeMap<&'static str, String>,
}

impl NodeState {
    /// Is this node worth sending traffic to? What `GET /` on the health port answers. One that was Ready
    /// before a restart of skep is, as far as Docker here can tell: with the quorum lost or AWS away it
    /// does not become Ready again, and a load balancer that has it replaced would cure nothing.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        (self.is_serving() || self.is_member_again())
            && self.departure.is_none()
            && !self.is_given_up
    }

    /// The group counts this node no more, and takes it in by way of its launch hook should it come back.
    #[must_use]
    pub fn is_out_of_its_group(&self) -> bool {
        self.is_detached || self.scheduling_hold == Some(SchedulingHold::Standby)
    }

    /// It has its place in the swarm, and stays.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.phase == Phase::Ready && self.departure.is_none()
    }

    /// On the way to be Ready once more, after a restart of skep on a node that works.
    fn is_member_again(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Booting | Phase::Failed)
            && self.is_still_member.is_yes()
    }

    /// What it does or waits for, with what cannot be told where only Docker's word is known.
    #[must_use]
    pub fn describe(&self) -> String {
        if !self.is_member_again() {
            return self.doing.clone();
        }
        format!(
            "this node was Ready before skep was restarted, and Docker still names it; cannot tell more yet: {}",
            self.doing
        )
    }

    /// The sentence about a lost quorum, the same wherever it is shown.
    #[must_use]
    pub fn quorum_lost(&self) -> Option<String> {
        self.quorum_lost_since.map(quorum_lost)
    }

    /// What matters most about this node, in one line.
    #[must_use]
    pub fn headline(&self) -> String {
        self.quorum_lost().unwrap_or_else(|| self.describe())
    }

    /// How the departure ended, with the tasks that were killed in it, or may have been.
    #[must_use]
    pub fn outcome(&self, outcome: &str) -> String {
        let killed = match self.killed.as_slice() {
            [] => outcome.to_owned(),
            [one] => format!("{outcome}; 1 task was killed without its grace: {one}"),
            all => format!(
                "{outcome}; {} tasks were killed without their grace: {}",
                all.len(),
                all.join(", ")
            ),
        };
        match self.grace_unknown.as_slice() {
            [] => killed,
            [one] => format!("{killed}; not known whether 1 task had its grace: {one}"),
            all => format!(
                "{killed}; not known whether {} tasks had their grace: {}",
                all.len(),
                all.join(", ")
            ),
        }
    }

    /// Whether that is news.
    fn set_trouble(&mut self, who: &'static str, what: Option<String>) -> bool {
        if self.troubles.get(who) == what.as_ref() {
            return false;
        }
        match what {
            Some(what) => drop(self.troubles.insert(who, what)),
            None => drop(self.troubles.remove(who)),
        }
        let all: Vec<&str> = self.troubles.values().map(String::as_str).collect();
        self.trouble = (!all.is_empty()).then(|| all.join("; "));
        true
    }

    /// The departure is over, and the node is not.
    pub fn forget_departure(&mut self) {
        self.departure = None;
        self.flush.clear();
        self.killed.clear();
        self.grace_unknown.clear();
        (self.why, self.progress) = (None, None);
    }
}

/// `the quorum is lost since …; run `skep recover``
#[must_use]
pub fn quorum_lost(since: OffsetDateTime) -> String {
    let since = in_utc(since);
    format!(
        "the quorum is lost since {since}: no leader answers this manager; run `skep recover`, which \
         shows what can be done"
    )
}

/// `2026-11-02 12:00:00 UTC`
#[must_use]
pub fn in_utc(time: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    let utc = time.to_offset(time::UtcOffset::UTC);
    utc.format(format).unwrap_or_else(|_| utc.to_string())
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_lost_quorum_is_one_state_and_goes_beside_other_troubles() {
        let state = StateHandle::default();
        state.enter(Phase::Ready, "manager n1 of generation 1");
        state.trouble("secrets", Some("the secret store is down".into()));
        let since = datetime!(2026-11-02 12:00:00 UTC);
        state.set_quorum_lost(Some(since));
        let now = state.now();
        let sentence = now.quorum_lost().unwrap();
        assert!(sentence.starts_with("the quorum is lost since 2026-11-02 12:00:00 UTC"));
        assert!(sentence.contains("`skep recover`"), "{sentence}");
        assert_eq!(now.headline(), sentence);
        assert_eq!(now.trouble, Some(format!("{sentence}; the secret store is down")));
        assert!(now.is_healthy(), "a load balancer must not have managers replaced for it");
        let shown = serde_json::to_value(&now).unwrap();
        assert_eq!(shown["quorum_lost_since"], "2026-11-02T12:00:00Z");

        state.set_quorum_lost(Some(since + std::time::Duration::from_secs(60)));
        assert_eq!(state.now().quorum_lost_since, Some(since), "it began once");
        state.set_quorum_lost(None);
        let now = state.now();
        assert_eq!((now.quorum_lost(), now.headline()), (None, now.doing.clone()));
        assert_eq!(now.trouble.as_deref(), Some("the secret store is down"));
    }
}
