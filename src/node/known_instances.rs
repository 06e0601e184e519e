//! The instances of the cluster that this node has seen on the node list or in Auto Scaling's answer. Rows of workers are
//! read by the instance's id, and the row of an instance that has just left must still be found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long an instance is known after it was last seen: `skep status` shows an ended departure for an hour.
const KNOWN_FOR: Duration = Duration::from_secs(2 * 3600);

/// Clones share the instances.
#[derive(Clone, Debug, Default)]
pub struct KnownInstances(Arc<Mutex<BTreeMap<String, Instant>>>);

impl KnownInstances {
    /// Records that these instances exist.
    pub fn add<'a>(&self, seen: impl Iterator<Item = &'a str>) {
        let now = Instant::now();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for id in seen {
            match known.get_mut(id) {
                Some(at) => *at = now,
                None => drop(known.insert(id.to_owned(), now)),
            }
        }
        known.retain(|_, at| now - *at < KNOWN_FOR);
    }

    /// Returns the ids of all instances that are known.
    #[must_use]
    pub fn all(&self) -> BTreeSet<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_instance_is_known_for_two_hours_after_it_was_last_seen() {
        let known = KnownInstances::default();
        known.add(["i-1", "i-2"].into_iter());
        tokio::time::advance(KNOWN_FOR / 2).await;
        known.add(["i-2"].into_iter());
        tokio::time::advance(KNOWN_FOR / 2).await;
        known.add(["i-3"].into_iter());
        assert_eq!(known.all().into_iter().collect::<Vec<_>>(), ["i-2", "i-3"]);
    }
}
