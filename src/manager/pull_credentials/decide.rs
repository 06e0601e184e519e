//! Decides whether a service gets new pull credentials now. Pure.

use bollard::models::TaskState;
use time::{Duration, OffsetDateTime};

use crate::clients::docker::ServiceTask;
use crate::clients::ledger::RegistryAuth;

/// Time after a change of a service in which `docker service rollback` must lead back to the state before the change:
/// an operator notices a bad change within this time, and a roll-back after new credentials would only undo those.
pub const ROLLBACK_GRACE: Duration = Duration::hours(1);

/// Pause after a roll-back. It may be the service's own, of the last update that gave it credentials: each further
/// update would be rolled back as well, and restart tasks each time.
pub const PAUSE_AFTER_ROLLBACK: Duration = Duration::minutes(30);
/// The same where tasks are rejected, and after an update of credentials alone that was paused.
pub const PAUSE_IN_NEED: Duration = Duration::minutes(2);
/// The longest pull of an image that new credentials do not begin anew.
pub const PULL_TAKES: Duration = Duration::hours(1);

/// Observation of a service whose image is in one of ECR's registries.
#[derive(Clone, Debug)]
pub struct Seen {
    pub registry: String,
    pub is_job: bool,
    /// Docker's state of an update that is under way or paused.
    pub unfinished_update: Option<String>,
    pub change: Change,
    pub updated_at: OffsetDateTime,
    /// Credentials that the service was given, by the ledger.
    pub given: Option<RegistryAuth>,
}

/// Change of a service since it was last given credentials, an update that leaves nothing to roll back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    None,
    /// There is another spec to roll back to.
    Changed,
    /// It has its former credentials again, too.
    RolledBack,
}

/// Decision about a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its credentials last for long enough.
    Fresh,
    /// It needs new credentials, and can get them if its tasks allow it.
    Due,
    /// An update would do more than give it credentials.
    LeaveAlone(Because),
}

/// Reason why a service that needs credentials does not get them now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Because {
    Job,
    UnfinishedUpdate(String),
    /// It was changed within [`ROLLBACK_GRACE`].
    Rollback,
    /// It was rolled back a short time ago, by an operator or by itself.
    RolledBack,
    /// Its tasks would start to pull again.
    Pulling,
    /// Its tasks have ended, and would run again.
    Ended,
}

impl Because {
    /// Whether an operator must act.
    #[must_use]
    pub fn needs_somebody(&self) -> bool {
        matches!(self, Self::UnfinishedUpdate(state) if state.ends_with("paused"))
    }

    /// Returns the reason as text, with the remedy where waiting does not help.
    #[must_use]
    pub fn in_words(&self) -> String {
        const BY_HAND: &str =
            "`docker service update --with-registry-auth` gives it an operator's credentials";
        match self {
            Self::Job => "it is a job, and would run again".into(),
            Self::UnfinishedUpdate(state) => {
                format!("its update is {state}, and would start again; {BY_HAND}")
            }
            Self::Rollback => {
                format!(
                    "it was changed within the last {} min, and may be rolled back",
                    grace_minutes()
                )
            }
            Self::RolledBack => format!(
                "it was rolled back within the last {} min, and may roll back another update; `docker service ps` shows the reason",
                PAUSE_AFTER_ROLLBACK.whole_minutes()
            ),
            Self::Pulling => "its tasks are pulling, and would start again".into(),
            Self::Ended => format!("its tasks have ended, and would run again; {BY_HAND}"),
        }
    }
}

fn grace_minutes() -> i64 {
    ROLLBACK_GRACE.whole_minutes()
}

/// Whether half of the credentials' life is over. They are renewed then, so that ECR may fail for as long again.
#[must_use]
pub fn is_half_over(
    since: OffsetDateTime,
    expires_at: OffsetDateTime,
    now: OffsetDateTime,
) -> bool {
    expires_at - now <= (expires_at - since) / 2
}

/// Whether the credentials are in the first quarter of their life. Only then are they given to further services: a
/// service with older ones would have to be updated again soon.
#[must_use]
pub fn is_new(since: OffsetDateTime, expires_at: OffsetDateTime, now: OffsetDateTime) -> bool {
    expires_at - now > (expires_at - since) * 3 / 4
}

impl Seen {
    /// Whether the service has credentials, by the ledger, of which less than half of the life is over.
    fn has_good_ones(&self, now: OffsetDateTime) -> bool {
        let given = self.given.as_ref().filter(|given| given.registry == self.registry);
        given.is_some_and(|given| !is_half_over(given.since, given.expires_at, now))
    }
}

/// Decides by the service and the ledger.
#[must_use]
pub fn decide(seen: &Seen, now: OffsetDateTime) -> Verdict {
    // A changed service may carry other credentials than those that were given.
    if seen.has_good_ones(now) && seen.change == Change::None {
        return Verdict::Fresh;
    }
    if seen.is_job {
        return Verdict::LeaveAlone(Because::Job);
    }
    match &seen.unfinished_update {
        // An update of credentials alone whose new tasks failed, such as when the registry was down: without new
        // credentials it would stay paused.
        Some(state) if state == "paused" && seen.change == Change::None => Verdict::Due,
        Some(state) => Verdict::LeaveAlone(Because::UnfinishedUpdate(state.clone())),
        None => Verdict::Due,
    }
}

/// Decides about a due service by its tasks.
#[must_use]
pub fn decide_by_tasks(seen: &Seen, tasks: &[ServiceTask], now: OffsetDateTime) -> Verdict {
    if tasks.iter().any(|task| is_pulling(task, now)) {
        return Verdict::LeaveAlone(Because::Pulling);
    }
    if tasks.iter().any(|task| has_ended_for_good(task, tasks)) {
        return Verdict::LeaveAlone(Because::Ended);
    }
    let is_refused = refused_since(tasks, seen.updated_at).is_some();
    let age = now - seen.updated_at;
    if let Some(because) = pause(seen, age, is_refused) {
        return Verdict::LeaveAlone(because);
    }
    // Tasks that cannot be pulled do not wait for that, unless the credentials are good: then the change itself is the
    // reason, and the operator needs the way back from it.
    let is_in_need = !seen.has_good_ones(now) && is_refused;
    let is_of_late = seen.change == Change::Changed && age < ROLLBACK_GRACE;
    if is_of_late && !is_in_need {
        return Verdict::LeaveAlone(Because::Rollback);
    }
    Verdict::Due
}

/// Returns the reason to wait with a service whose last update, possibly one of credentials alone, has failed.
fn pause(seen: &Seen, age: Duration, is_refused: bool) -> Option<Because> {
    if seen.change == Change::RolledBack {
        let pause = if is_refused { PAUSE_IN_NEED } else { PAUSE_AFTER_ROLLBACK };
        return (age < pause).then_some(Because::RolledBack);
    }
    let unfinished = seen.unfinished_update.clone().filter(|_| age < PAUSE_IN_NEED);
    unfinished.map(Because::UnfinishedUpdate)
}

/// Returns the last task since `at` that its node rejected, such as one whose image cannot be pulled.
#[must_use]
pub fn refused_since(tasks: &[ServiceTask], at: OffsetDateTime) -> Option<&ServiceTask> {
    let refused =
        tasks.iter().filter(|task| task.state == Some(TaskState::REJECTED) && task.created_at > at);
    refused.max_by_key(|task| task.created_at)
}

/// Whether the node is preparing the task, by its own word, which counts for [`PULL_TAKES`]. swarmkit keeps a task, from `ready` to `running`, if only its credentials
/// have changed; it would replace one that its node is preparing.
fn is_pulling(task: &ServiceTask, now: OffsetDateTime) -> bool {
    use TaskState::{ACCEPTED, ASSIGNED, PREPARING};
    now - task.created_at < PULL_TAKES
        && is_wanted(task)
        && matches!(task.state, Some(ASSIGNED | ACCEPTED | PREPARING))
}

/// Whether the task is the last of its slot, has run to its end, and is not restarted.
fn has_ended_for_good(task: &ServiceTask, all: &[ServiceTask]) -> bool {
    let is_last = !all.iter().any(|it| it.slot == task.slot && it.created_at > task.created_at);
    is_last
        && !is_wanted(task)
        && matches!(task.state, Some(TaskState::COMPLETE | TaskState::FAILED))
}

fn is_wanted(task: &ServiceTask) -> bool {
    matches!(task.desired, TaskState::READY | TaskState::RUNNING)
}
