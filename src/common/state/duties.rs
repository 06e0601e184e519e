//! The last success and the last failure of each duty that this manager runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use time::OffsetDateTime;

/// The results of one duty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DutyReport {
    /// End of the last poll without a failure.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_success: Option<OffsetDateTime>,
    /// The last poll with a failure, even if a later one succeeded; `None` if none has failed.
    pub last_failure: Option<DutyFailure>,
}

/// A poll that failed, for all nodes or for one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DutyFailure {
    /// Time when the poll failed.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The error with its causes, in words.
    pub error: String,
}

/// The results of all duties, by their names; clones share them. They are kept apart from the watched state: a duty
/// that succeeds every second must not wake everybody who waits for a change of the node.
#[derive(Clone, Debug, Default)]
pub(super) struct Duties(Arc<Mutex<BTreeMap<&'static str, DutyReport>>>);

impl Duties {
    pub(super) fn note(&self, duty: &'static str, failure: Option<String>, now: OffsetDateTime) {
        let mut all = self.lock();
        let report = all.entry(duty).or_default();
        match failure {
            None => report.last_success = Some(now),
            Some(error) => report.last_failure = Some(DutyFailure { at: now, error }),
        }
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    pub(super) fn now(&self) -> BTreeMap<&'static str, DutyReport> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, DutyReport>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
