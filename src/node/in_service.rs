//! The instances that Auto Scaling has in service, from the last answer that a manager's duties have read: `skep status`
//! shows it without a call of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

/// How long an answer is shown. A manager that is not the leader asks every two minutes.
const SHOWN_FOR: Duration = Duration::from_secs(300);

/// Auto Scaling's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Time of the request.
    pub asked_at: OffsetDateTime,
    /// The group of each instance.
    pub groups: BTreeMap<String, String>,
}

/// Clones share the answer.
#[derive(Clone, Debug, Default)]
pub struct InService(Arc<Mutex<Option<(Instant, Listed)>>>);

impl InService {
    /// Records an answer to a request of this moment.
    pub fn set(&self, listed: Listed) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), listed));
    }

    /// Returns the last answer; `None` if there is none, or only an old one.
    #[must_use]
    pub fn lately(&self) -> Option<Listed> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (set_at, listed) = kept.as_ref()?;
        (set_at.elapsed() < SHOWN_FOR).then(|| listed.clone())
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_old_answer_is_none() {
        let in_service = InService::default();
        assert_eq!(in_service.lately(), None);
        let asked_at = datetime!(2026-11-02 12:00 UTC);
        let listed = Listed { asked_at, groups: [("i-1".into(), "workers".into())].into() };
        in_service.clone().set(listed.clone());
        assert_eq!(in_service.lately(), Some(listed));
        tokio::time::advance(SHOWN_FOR).await;
        assert_eq!(in_service.lately(), None);
    }
}
