//! Whether a service gets new pull credentials now. Pure.

use bollard::models::TaskState;
use time::{Duration, OffsetDateTime};

use crate::clients::docker::ServiceTask;
use crate::clients::ledger::RegistryAuth;

/// After a change of a service, `docker service rollback` must lead back to what was before it: an
/// operator finds out within this time, and new credentials would be what it leads back from.
pub const ROLLBACK_GRACE: Duration = Duration::hours(1);

/// After a roll-back. It may be the service's own, of the last update that gave it credentials: each further
/// one would be rolled back as well, and start tasks anew each time.
pub const PAUSE_AFTER_ROLLBACK: Duration = Duration::minutes(30);
/// The same where tasks are rejected, and after an update of nothing but credentials that was paused.
pub const PAUSE_IN_NEED: Duration = Duration::minutes(2);

/// A service whose image is in one of ECR's registries.
#[derive(Clone, Debug)]
pub struct Seen {
    pub registry: String,
    pub is_job: bool,
    /// Docker's word for an update that is under way or paused.
    pub unfinished_update: Option<String>,
    pub change: Change,
    pub updated_at: OffsetDateTime,
    /// By the ledger.
    pub given: Option<RegistryAuth>,
}

/// What has become of a service since it was last given credentials, which leaves nothing else behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    None,
    /// There is something to roll back to.
    Changed,
    /// Its credentials are those of before, too.
    RolledBack,
}

/// What is to be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has credentials for a good while.
    Fresh,
    /// It needs others, and may have them if its tasks allow it.
    Due,
    /// An update would do more than give it credentials.
    LeaveAlone(Because),
}

/// Why a service that needs credentials does not get them now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Because {
    Job,
    UnfinishedUpdate(String),
    /// It was changed a moment ago.
    Rollback,
    /// It was rolled back a moment ago, by an operator or by itself.
    RolledBack,
    /// Its tasks would begin again to pull.
    Pulling,
    /// Its tasks have come to their end, and would run again.
    Ended,
}

impl Because {
    /// Is it for an operator to see to?
    #[must_use]
    pub fn needs_somebody(&self) -> bool {
        matches!(self, Self::UnfinishedUpdate(state) if state.ends_with("paused"))
    }

    /// In words, and what an operator can do where waiting will not help.
    #[must_use]
    pub fn in_words(&self) -> String {
        const BY_HAND: &str = "`docker service update --with-registry-auth` gives it an operator's";
        match self {
            Self::Job => "it is a job, and would run again".into(),
            Self::UnfinishedUpdate(state) => {
                format!("its update is {state}, and would begin anew; {BY_HAND}")
            }
            Self::Rollback => {
                format!("it was changed within {} min, and may be rolled back", grace_minutes())
            }
            Self::RolledBack => format!(
                "it was rolled back within {} min, and may roll back another update; `docker service ps` tells why",
                PAUSE_AFTER_ROLLBACK.whole_minutes()
            ),
            Self::Pulling => "its tasks are pulling, and would begin again".into(),
            Self::Ended => format!("its tasks have ended, and would run again; {BY_HAND}"),
        }
    }
}

fn grace_minutes() -> i64 {
    ROLLBACK_GRACE.whole_minutes()
}

/// Credentials are renewed when half of their life is over, so that ECR may fail for as long again.
#[must_use]
pub fn is_half_over(
    since: OffsetDateTime,
    expires_at: OffsetDateTime,
    now: OffsetDateTime,
) -> bool {
    expires_at - now <= (expires_at - since) / 2
}

/// Credentials are given to further services in the first quarter of their life: a service that got older
/// ones would have to be updated again soon.
#[must_use]
pub fn is_new(since: OffsetDateTime, expires_at: OffsetDateTime, now: OffsetDateTime) -> bool {
    expires_at - now > (expires_at - since) * 3 / 4
}

impl Seen {
    /// Has it credentials by the ledger, and for how long?
    fn has_good_ones(&self, now: OffsetDateTime) -> bool {
        let given = self.given.as_ref().filter(|given| given.registry == self.registry);
        given.is_some_and(|given| !is_half_over(given.since, given.expires_at, now))
    }
}

/// By what the service and the ledger say.
#[must_use]
pub fn decide(seen: &Seen, now: OffsetDateTime) -> Verdict {
    // What somebody has changed may carry other credentials than those that were given.
    if seen.has_good_ones(now) && seen.change == Change::None {
        return Verdict::Fresh;
    }
    if seen.is_job {
        return Verdict::LeaveAlone(Because::Job);
    }
    match &seen.unfinished_update {
        // One that changed nothing but credentials, and whose new tasks failed, such as when the registry
        // was down: without new ones it would never get out of that.
        Some(state) if state == "paused" && seen.change == Change::None => Verdict::Due,
        Some(state) => Verdict::LeaveAlone(Because::UnfinishedUpdate(state.clone())),
        None => Verdict::Due,
    }
}

/// By what its tasks say of a service that is due.
#[must_use]
pub fn decide_by_tasks(seen: &Seen, tasks: &[ServiceTask], now: OffsetDateTime) -> Verdict {
    if tasks.iter().any(is_pulling) {
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
    // Tasks that cannot be pulled do not wait for that, unless the reason is another: with credentials that
    // are good it is the change itself, and the way back from it is what is needed.
    let is_in_need = !seen.has_good_ones(now) && is_refused;
    let is_of_late = seen.change == Change::Changed && age < ROLLBACK_GRACE;
    if is_of_late && !is_in_need {
        return Verdict::LeaveAlone(Because::Rollback);
    }
    Verdict::Due
}

/// Why a service waits whose last update, maybe one of its credentials alone, has failed.
fn pause(seen: &Seen, age: Duration, is_refused: bool) -> Option<Because> {
    if seen.change == Change::RolledBack {
        let pause = if is_refused { PAUSE_IN_NEED } else { PAUSE_AFTER_ROLLBACK };
        return (age < pause).then_some(Because::RolledBack);
    }
    let unfinished = seen.unfinished_update.clone().filter(|_| age < PAUSE_IN_NEED);
    unfinished.map(Because::UnfinishedUpdate)
}

/// The last task since `at` that was rejected by its node, as one is whose image cannot be pulled.
#[must_use]
pub fn refused_since(tasks: &[ServiceTask], at: OffsetDateTime) -> Option<&ServiceTask> {
    let refused =
        tasks.iter().filter(|task| task.state == TaskState::REJECTED && task.created_at > at);
    refused.max_by_key(|task| task.created_at)
}

/// swarmkit takes a running task for the same when only its credentials are others, from `ready` to
/// `running`. One that its node prepares at present would be replaced.
fn is_pulling(task: &ServiceTask) -> bool {
    use TaskState::{ACCEPTED, ASSIGNED, PREPARING};
    is_wanted(task) && matches!(task.state, ASSIGNED | ACCEPTED | PREPARING)
}

/// The last of its slot has run to its end, and is not restarted.
fn has_ended_for_good(task: &ServiceTask, all: &[ServiceTask]) -> bool {
    let is_last = !all.iter().any(|it| it.slot == task.slot && it.created_at > task.created_at);
    is_last && !is_wanted(task) && matches!(task.state, TaskState::COMPLETE | TaskState::FAILED)
}

fn is_wanted(task: &ServiceTask) -> bool {
    matches!(task.desired, TaskState::READY | TaskState::RUNNING)
}
