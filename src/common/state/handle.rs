//! Writes the state, and logs its changes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::Instant;

use super::duties::Duties;
use super::recent_lines::RecentLines;
use super::trouble_log::{Line, TroubleLog};
use super::{NodeState, Phase, Progress};
use crate::common::fact::Fact;
use crate::common::hook_wait::HookWait;
use crate::common::instance::{Departure, SchedulingHold};
use crate::common::outcome::Outcome;

/// Name under which a lost quorum is reported as trouble.
const QUORUM: &str = "quorum";

/// The writing end; cheap to clone.
#[derive(Clone, Debug)]
pub struct StateHandle {
    state: watch::Sender<NodeState>,
    /// The part of a departure that runs the steps of another phase.
    part_of_leaving: Option<&'static str>,
    lines: Arc<Mutex<RecentLines>>,
    troubles: Arc<Mutex<TroubleLog>>,
    duties: Duties,
}

impl Default for StateHandle {
    fn default() -> Self {
        let state = watch::Sender::new(NodeState {
            phase: Phase::Starting,
            since: OffsetDateTime::now_utc(),
            doing: "reading the instance metadata".into(),
            instance: None,
            cluster: None,
            role: None,
            membership: None,
            departure: None,
            is_out_of_traffic: false,
            is_refusal_seen: false,
            hook_wait: HookWait::Unknown,
            failed_departure: None,
            unrecorded_failure: None,
            scheduling_hold: None,
            is_given_up: false,
            is_detached: false,
            flush: Vec::new(),
            why: None,
            progress: None,
            recovery_until: None,
            verdicts: BTreeMap::new(),
            outcome: None,
            killed: Vec::new(),
            grace_unknown: Vec::new(),
            is_still_member: Fact::CannotTell,
            quorum_lost_since: None,
            duties: BTreeMap::new(),
            trouble: None,
            troubles: BTreeMap::new(),
        });
        Self {
            state,
            part_of_leaving: None,
            lines: Arc::default(),
            troubles: Arc::default(),
            duties: Duties::default(),
        }
    }
}

impl StateHandle {
    /// Enters a phase, or updates the text of the present one. Callers call it with every attempt: lines that alternate
    /// are logged once a minute.
    pub fn enter(&self, phase: Phase, doing: impl Into<String>) {
        let (phase, doing) = self.as_part(phase, doing.into());
        if self.is_news(phase, &doing) {
            match phase {
                Phase::Failed => tracing::error!(target: "skep::node", phase = "failed", "{doing}"),
                _ => tracing::info!(target: "skep::node", phase = phase.as_str(), "{doing}"),
            }
        }
        self.state.send_if_modified(|state| {
            if state.phase == phase && state.doing == doing {
                return false;
            }
            if state.phase != phase {
                state.phase = phase;
                state.since = OffsetDateTime::now_utc();
                state.outcome = None;
            }
            state.doing = doing;
            true
        });
    }

    /// Returns a handle for steps that run as part of a departure, such as those of a boot: whatever phase they enter,
    /// the node is shown as leaving.
    #[must_use]
    pub fn while_leaving(&self, part: &'static str) -> Self {
        Self { part_of_leaving: Some(part), ..self.clone() }
    }

    fn as_part(&self, phase: Phase, doing: String) -> (Phase, String) {
        match self.part_of_leaving {
            Some(part) if doing.starts_with(part) => (Phase::Leaving, doing),
            Some(part) => (Phase::Leaving, format!("{part}: {doing}")),
            None => (phase, doing),
        }
    }

    fn is_news(&self, phase: Phase, doing: &str) -> bool {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.note(phase, doing, Instant::now())
    }

    /// Enters the phase `Left` with `outcome`. Adds the names of killed tasks: the log, `skep status` and `skep leave`
    /// must not show that as an ordinary departure.
    pub fn leave(&self, outcome: Outcome) {
        self.state.send_modify(|state| {
            state.phase = Phase::Left;
            state.since = OffsetDateTime::now_utc();
            let killed = state.killed.len();
            state.doing = state.with_killed(outcome.as_str());
            state.outcome = Some(outcome);
            let outcome = outcome.metric_label();
            let phase = Phase::Left.as_str();
            if killed == 0 && state.grace_unknown.is_empty() {
                tracing::info!(target: "skep::node", phase, outcome, killed, "{}", state.doing);
            } else {
                tracing::warn!(target: "skep::node", phase, outcome, killed, "{}", state.doing);
            }
        });
    }

    /// Records a fact beside the phase.
    pub fn update(&self, change: impl FnOnce(&mut NodeState)) {
        self.state.send_modify(change);
    }

    /// Sets why the node gets no tasks although it stays; `None` if it can get tasks (again).
    pub fn hold_scheduling(&self, why: Option<SchedulingHold>) {
        self.state.send_if_modified(|state| {
            if state.scheduling_hold == why {
                return false;
            }
            match why {
                Some(why) => tracing::info!(target: "skep::node", "{}", why.explain()),
                None => tracing::info!(target: "skep::node", "this node can get tasks again"),
            }
            state.scheduling_hold = why;
            true
        });
    }

    /// Sets whether skep has asked Auto Scaling to replace this host.
    pub fn set_given_up(&self, is_given_up: bool) {
        self.state.send_if_modified(|state| {
            std::mem::replace(&mut state.is_given_up, is_given_up) != is_given_up
        });
    }

    /// Sets whether this instance is detached from its group, by the metadata.
    pub fn set_detached(&self, is_detached: bool) {
        self.state.send_if_modified(|state| {
            if state.is_detached == is_detached {
                return false;
            }
            if is_detached {
                tracing::warn!(
                    target: "skep::node",
                    "detached from its Auto Scaling group: the node stays in the swarm, and no group replaces it"
                );
            } else {
                tracing::info!(target: "skep::node", "attached to an Auto Scaling group again");
            }
            state.is_detached = is_detached;
            true
        });
    }

    /// Sets the departure; its deadline may have moved closer.
    pub fn set_departure(&self, departure: &Departure) {
        self.state.send_if_modified(|state| {
            let is_new = state.departure.as_ref() != Some(departure);
            if is_new {
                state.departure = Some(departure.clone());
            }
            is_new
        });
    }

    /// Sets until when the quorum can be re-created here before this node leaves; `None` after that.
    pub fn set_recovery_until(&self, until: Option<OffsetDateTime>) {
        self.state
            .send_if_modified(|state| std::mem::replace(&mut state.recovery_until, until) != until);
    }

    /// Sets the progress of the departure.
    pub fn set_progress(&self, progress: Progress) {
        self.state.send_if_modified(|state| {
            let is_new = state.progress.as_ref() != Some(&progress);
            state.progress = Some(progress);
            is_new
        });
    }

    /// Sets the verdicts about the nodes that look dead.
    pub fn set_verdicts(&self, verdicts: BTreeMap<String, String>) {
        self.state.send_if_modified(|state| {
            let is_new = state.verdicts != verdicts;
            state.verdicts = verdicts;
            is_new
        });
    }

    /// Reports a trouble of the duty `who`, or `None` if it has none (any more). Callers call it with every attempt;
    /// each text is logged once.
    pub fn trouble(&self, who: &'static str, what: Option<String>) {
        let mut log = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        match log.note(who, what.as_deref(), Instant::now()) {
            Some(Line::Trouble(text)) => tracing::warn!(target: "skep::node", "{text}"),
            Some(Line::Resolved(text)) => {
                tracing::info!(target: "skep::node", "resolved: {text}");
            }
            None => {}
        }
        self.show_trouble(who, what);
    }

    /// The same without a log line, for callers that write their own.
    pub fn show_trouble(&self, who: &'static str, what: Option<String>) {
        self.state.send_if_modified(|state| state.set_trouble(who, what));
    }

    /// Records the result of a duty's poll: `failure` is the error in words.
    pub fn report_duty(&self, duty: &'static str, failure: Option<String>) {
        self.duties.note(duty, failure, OffsetDateTime::now_utc());
    }

    /// Forgets the results of all duties, on a node that is no longer a manager.
    pub fn forget_duties(&self) {
        self.duties.clear();
    }

    /// Sets since when the quorum has been lost; `None` if it is not lost (any more), or this node cannot tell. Logs a
    /// line when the loss begins and one when it ends.
    pub fn set_quorum_lost(&self, since: Option<OffsetDateTime>) {
        self.state.send_if_modified(|state| {
            if state.quorum_lost_since.is_some() == since.is_some() {
                return false;
            }
            if let Some(over) = state.quorum_lost() {
                tracing::info!(target: "skep::node", "resolved: {over}");
            }
            state.quorum_lost_since = since;
            let what = state.quorum_lost();
            if let Some(what) = &what {
                tracing::error!(target: "skep::node", "{what}");
            }
            state.set_trouble(QUORUM, what);
            true
        });
    }

    /// Returns a receiver of every change of the state.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<NodeState> {
        self.state.subscribe()
    }

    /// Returns the current state.
    #[must_use]
    pub fn now(&self) -> NodeState {
        let mut now = self.state.borrow().clone();
        now.duties = self.duties.now();
        now
    }
}
