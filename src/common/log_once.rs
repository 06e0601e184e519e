//! Remembers what was logged, so that a caller that repeats itself adds a line only when something has changed.

use std::collections::BTreeMap;

/// The value that was logged last, by the key of what it is about.
#[derive(Debug)]
pub struct LogOnce<K, V>(BTreeMap<K, V>);

impl<K, V> Default for LogOnce<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, V: PartialEq> LogOnce<K, V> {
    /// Stores the value. Returns whether it differs from the one that was logged last.
    pub fn is_news(&mut self, key: K, value: V) -> bool {
        if self.0.get(&key) == Some(&value) {
            return false;
        }
        self.0.insert(key, value);
        true
    }

    /// Forgets the keys for which `keep` is false, so that their next value is news.
    pub fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        self.0.retain(|key, _| keep(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_news_until_it_repeats() {
        let mut logged = LogOnce::default();
        assert!(logged.is_news("i-1", "refused") && !logged.is_news("i-1", "refused"));
        assert!(logged.is_news("i-2", "refused"), "another key");
        assert!(logged.is_news("i-1", "timed out") && logged.is_news("i-1", "refused"));
        logged.retain(|key| *key == "i-2");
        assert!(logged.is_news("i-1", "refused") && !logged.is_news("i-2", "refused"));
    }
}
