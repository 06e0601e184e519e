//! Measures for how long something has held without a break.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// The time since which each key has held, by the monotonic clock.
#[derive(Debug)]
pub struct HeldSince<K>(BTreeMap<K, Instant>);

impl<K> Default for HeldSince<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> HeldSince<K> {
    /// Takes in a complete observation: exactly these keys hold at `now`.
    pub fn observe(&mut self, keys: impl IntoIterator<Item = K>, now: Instant) {
        let mut before = std::mem::take(&mut self.0);
        self.0 = keys
            .into_iter()
            .map(|key| {
                let since = before.remove(&key).unwrap_or(now);
                (key, since)
            })
            .collect();
    }

    /// Takes in that one key holds. Returns the time since which it has held.
    pub fn begin(&mut self, key: K, now: Instant) -> Instant {
        *self.0.entry(key).or_insert(now)
    }

    /// Takes in that a key does not hold.
    pub fn end<Q: Ord + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.0.remove(key);
    }

    /// Forgets the keys for which `keep` is false.
    pub fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        self.0.retain(|key, _| keep(key));
    }

    /// Returns the time since which a key has held; `None` if it does not.
    pub fn since<Q: Ord + ?Sized>(&self, key: &Q) -> Option<Instant>
    where
        K: Borrow<Q>,
    {
        self.0.get(key).copied()
    }

    /// Returns for how long a key has held at `now`; `None` if it does not.
    pub fn held_for<Q: Ord + ?Sized>(&self, key: &Q, now: Instant) -> Option<Duration>
    where
        K: Borrow<Q>,
    {
        self.since(key).map(|since| now - since)
    }

    /// Returns all keys that hold, with the time since which they have held.
    pub fn iter(&self) -> impl Iterator<Item = (&K, Instant)> {
        self.0.iter().map(|(key, since)| (key, *since))
    }

    /// Whether no key holds.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_break_starts_the_time_anew() {
        let (start, mut held) = (Instant::now(), HeldSince::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        held.observe(["a", "b"], at(0));
        held.observe(["a"], at(10));
        held.observe(["a", "b"], at(20));
        assert_eq!(held.held_for("a", at(20)), Some(Duration::from_secs(20)));
        assert_eq!(held.held_for("b", at(20)), Some(Duration::ZERO));
        assert_eq!(held.begin("b", at(30)), at(20), "it holds already");
        held.end("b");
        assert_eq!(held.since("b"), None);
        held.retain(|_| false);
        assert!(held.is_empty());
    }
}
