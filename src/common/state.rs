//! The current state of this node, shown as the `STATUS=` line, in `skep status`, on the health port and as log fields.
//! Phases write it; everything else only reads it.

mod duties;
mod handle;
mod recent_lines;
mod trouble_log;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::common::fact::Fact;
use crate::common::flush_result::Outcome as FlushOutcome;
use crate::common::hook_wait::HookWait;
use crate::common::instance::{Departure, Instance, Membership, Role, SchedulingHold};
use crate::common::outcome::Outcome;

pub use duties::{DutyFailure, DutyReport};
pub use handle::StateHandle;

/// Phase of the node's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Reads its identity.
    Starting,
    /// Is in a warm pool, and must not join the swarm yet.
    Warmed,
    /// Founds or joins the swarm.
    Booting,
    /// Is an active member of the charter's swarm.
    Ready,
    /// Leaves the swarm.
    Leaving,
    /// Is out of the swarm and has nothing more to do.
    Left,
    /// Has failed; the reason is in [`NodeState::doing`].
    Failed,
}

impl Phase {
    /// Every phase, so that the metrics have a value for each.
    pub const ALL: [Phase; 7] = [
        Phase::Starting,
        Phase::Warmed,
        Phase::Booting,
        Phase::Ready,
        Phase::Leaving,
        Phase::Left,
        Phase::Failed,
    ];

    /// Returns the word in the log, in `skep status` and in the metrics, such as `booting`.
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

/// Progress of a departure, for `skep leave` and `skep status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Until then managers stop the tasks; after that, this node stops them itself.
    #[serde(with = "time::serde::rfc3339")]
    pub drain_until: OffsetDateTime,
    /// Until then logs are flushed; the time after that is reserved for leaving.
    #[serde(with = "time::serde::rfc3339")]
    pub flush_until: OffsetDateTime,
    /// Containers of this host that have not ended.
    pub containers: Vec<Remaining>,
}

/// A container that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remaining {
    /// Docker's name of the container, without the leading slash.
    pub name: String,
    /// Whether it is a task of the swarm; managers stop tasks, this node stops other containers.
    pub is_task: bool,
    /// Seconds between its SIGTERM and its SIGKILL, if the container defines them.
    pub grace_seconds: Option<u64>,
}

/// This node as `skep status` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct NodeState {
    /// Present phase of the node's life.
    pub phase: Phase,
    /// Time when this phase began.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// Present action or wait, in words: `waiting for i-0abc to publish the swarm`.
    pub doing: String,
    /// `None` before the metadata has answered.
    pub instance: Option<Instance>,
    /// Name of the cluster; `None` until skep has read it from the settings or the metadata.
    pub cluster: Option<String>,
    /// Configured role; `None` until skep has read it from the settings or the metadata.
    pub role: Option<Role>,
    /// Proof of boot, while it is valid.
    pub membership: Option<Membership>,
    /// The notice in force; `None` without a notice.
    pub departure: Option<Departure>,
    /// Whether the node, which leaves, answers health checks with 503.
    #[serde(skip)]
    pub is_out_of_traffic: bool,
    /// Whether a health check has had that answer in this departure.
    #[serde(skip)]
    pub is_refusal_seen: bool,
    /// The wait of the termination hook, while the node leaves.
    #[serde(skip)]
    pub hook_wait: HookWait,
    /// Outcome of its last departure, if that failed and the node stays.
    pub failed_departure: Option<String>,
    /// Set while the ledger does not record that the last departure failed: the number of its killed tasks.
    #[serde(skip)]
    pub unrecorded_failure: Option<usize>,
    /// Why it gets no tasks although it stays.
    pub scheduling_hold: Option<SchedulingHold>,
    /// Whether this host cannot recover, and skep has asked Auto Scaling to replace it.
    pub is_given_up: bool,
    /// Whether its group has detached it and does not replace it: it stays in the swarm.
    pub is_detached: bool,
    /// The log flushers of this departure, in the order of their start.
    pub flush: Vec<FlushOutcome>,
    /// The operator's own reason for the departure.
    pub why: Option<String>,
    /// Set while the node leaves.
    pub progress: Option<Progress>,
    /// While the node leaves: end of the time in which the quorum can be re-created here. `None` after that.
    #[serde(skip)]
    pub recovery_until: Option<OffsetDateTime>,
    /// On a manager: why nodes that look dead stay in the node list, by Docker's id. Shown with the fleet.
    #[serde(skip)]
    pub verdicts: BTreeMap<String, String>,
    /// How the last departure of this skep has ended, in the phase `left`.
    pub outcome: Option<Outcome>,
    /// Tasks that were killed without their grace in this departure, by the names of their containers.
    pub killed: Vec<String>,
    /// Tasks for which Docker could not confirm the grace, by the names of their containers.
    pub grace_unknown: Vec<String>,
    /// Whether this node was Ready earlier in the same run of the machine, before skep was restarted, and Docker still
    /// names the same node. Kept until Ready: it is the only known fact until then.
    #[serde(skip)]
    pub is_still_member: Fact,
    /// On a manager: since when its swarm has had no leader, if that is longer than an election.
    #[serde(with = "time::serde::rfc3339::option")]
    pub quorum_lost_since: Option<OffsetDateTime>,
    /// On a manager: the last success and the last failure of each of its duties, by name.
    pub duties: BTreeMap<&'static str, DutyReport>,
    /// What this node cannot do for the swarm at present and keeps trying, in words.
    pub trouble: Option<String>,
    /// The same, by the name of the reporter.
    #[serde(skip)]
    troubles: BTreeMap<&'static str, String>,
}

impl NodeState {
    /// Whether this node can receive traffic: the answer of `GET /` on the health port. A node that was Ready before a
    /// restart of skep can, as far as the local Docker can tell: with a lost quorum or during an outage of AWS it does
    /// not become Ready again, and its replacement by a load balancer would not help.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        let is_member = match &self.departure {
            None => self.is_serving() || self.is_member_again(),
            Some(departure) => {
                let was_member = self.membership.is_some() || self.is_still_member.is_yes();
                was_member && departure.reason.begins_in_traffic() && !self.is_out_of_traffic
            }
        };
        is_member && !self.is_given_up
    }

    /// Whether the group does not count this node any more; it would return through the launch hook.
    #[must_use]
    pub fn is_out_of_its_group(&self) -> bool {
        self.is_detached || self.scheduling_hold == Some(SchedulingHold::Standby)
    }

    /// Whether the node is Ready and not leaving.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.phase == Phase::Ready && self.departure.is_none()
    }

    /// Whether a working node is returning to Ready after a restart of skep.
    fn is_member_again(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Booting | Phase::Failed)
            && self.is_still_member.is_yes()
    }

    /// Returns the present action or wait; if only Docker's answer is known, adds that this is all skep can tell.
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

    /// Returns the sentence about a lost quorum, the same in every place.
    #[must_use]
    pub fn quorum_lost(&self) -> Option<String> {
        self.quorum_lost_since.map(quorum_lost)
    }

    /// Returns the most important fact about this node, in one line.
    #[must_use]
    pub fn headline(&self) -> String {
        self.quorum_lost().unwrap_or_else(|| self.describe())
    }

    /// Returns the outcome of the departure, with the tasks that were or may have been killed without their grace.
    #[must_use]
    pub fn with_killed(&self, outcome: &str) -> String {
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

    /// Sets or clears a trouble. Returns whether that changed anything.
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

    /// Clears the departure of a node that stays.
    pub fn forget_departure(&mut self) {
        self.departure = None;
        self.flush.clear();
        self.killed.clear();
        self.grace_unknown.clear();
        (self.why, self.progress) = (None, None);
        (self.is_out_of_traffic, self.is_refusal_seen) = (false, false);
        self.hook_wait = HookWait::Unknown;
    }
}

/// Returns the sentence about a lost quorum, with the remedy.
#[must_use]
pub fn quorum_lost(since: OffsetDateTime) -> String {
    let since = in_utc(since);
    format!(
        "the quorum is lost since {since}: no leader answers this manager; run `skep recover`, which \
         shows what can be done"
    )
}

/// Formats a time as `2026-11-02 12:00:00 UTC`.
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
        assert!(now.is_healthy(), "a load balancer must not replace managers because of it");
        let shown = serde_json::to_value(&now).unwrap();
        assert_eq!(shown["quorum_lost_since"], "2026-11-02T12:00:00Z");

        state.set_quorum_lost(Some(since + std::time::Duration::from_secs(60)));
        assert_eq!(state.now().quorum_lost_since, Some(since), "the first time stays");
        state.set_quorum_lost(None);
        let now = state.now();
        assert_eq!((now.quorum_lost(), now.headline()), (None, now.doing.clone()));
        assert_eq!(now.trouble.as_deref(), Some("the secret store is down"));
    }
}
