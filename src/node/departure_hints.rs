//! Collects what nodes say about departures that they have just written to the ledger, so that managers read a request at
//! once and need not poll the ledger every second.
//!
//! A hint proves nothing: anyone in the private network can send one. It only names the rows that are read next, and of
//! these only those of instances that the managers know.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Path of the health port that takes hints; the id of the instance that leaves follows.
pub const DEPARTURES_PATH: &str = "/departures/";
/// Number of hints that are kept: a fleet of 1,000 that leaves at once. Of more the next poll of all requests learns.
const MOST: usize = 1000;
/// An instance id has 19 characters, such as `i-0123456789abcdef0`.
const LONGEST_ID: usize = 32;

/// The instances that have announced a departure since the last read. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct DepartureHints(Arc<Hints>);

#[derive(Debug, Default)]
struct Hints {
    instances: Mutex<BTreeSet<String>>,
    given: Notify,
}

impl DepartureHints {
    /// Adds an instance.
    pub fn give(&self, instance: &str) {
        let mut instances = self.0.instances.lock().unwrap_or_else(PoisonError::into_inner);
        if instance.len() <= LONGEST_ID && instances.len() < MOST {
            instances.insert(instance.to_owned());
            self.0.given.notify_one();
        }
    }

    /// Returns the instances since the last call.
    #[must_use]
    pub fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.0.instances.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns once a hint is given, or at once if one was given since the last call.
    pub async fn given(&self) {
        self.0.given.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_kept_than_a_fleet_can_say() {
        let hints = DepartureHints::default();
        hints.give(&"i".repeat(1 << 20));
        assert!(hints.take().is_empty());
        for n in 0..2 * MOST {
            hints.give(&format!("i-{n:017x}"));
        }
        assert_eq!(hints.take().len(), MOST);
        assert!(hints.take().is_empty(), "each is read once");
    }
}
