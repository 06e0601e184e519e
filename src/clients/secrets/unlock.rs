//! The unlock keys of a swarm with autolock.
//!
//! A manager that was down while the key was rotated is unlocked with the key that was current before, so the store
//! keeps the last few keys, newest first, one per line.

use secrecy::{ExposeSecret, SecretString};

/// The prefix of every unlock key.
const PREFIX: &str = "SWMKEY-1-";
/// Number of keys that are kept; a manager that was off during this many rotations or more cannot be
/// unlocked by skep.
const KEPT: usize = 5;

/// The newest key and its predecessors.
#[derive(Clone, Debug, Default)]
pub struct UnlockKeys(Vec<SecretString>);

impl UnlockKeys {
    /// Parses the stored text. `None` if a line is not an unlock key, or if there is no key.
    #[must_use]
    pub fn parse(text: &SecretString) -> Option<Self> {
        let lines = text.expose_secret().lines().map(str::trim).filter(|line| !line.is_empty());
        let keys: Vec<&str> = lines.collect();
        let are_keys = !keys.is_empty() && keys.iter().all(|key| key.starts_with(PREFIX));
        are_keys.then(|| Self(keys.into_iter().map(SecretString::from).collect()))
    }

    /// Returns the keys with this one first, without the ones that are too old.
    #[must_use]
    pub fn with(self, newest: SecretString) -> Self {
        let others = self.0.into_iter().filter(|key| !is_same(key, &newest));
        Self(std::iter::once(newest.clone()).chain(others).take(KEPT).collect())
    }

    /// Whether this is the current key.
    #[must_use]
    pub fn begin_with(&self, key: &SecretString) -> bool {
        self.0.first().is_some_and(|newest| is_same(newest, key))
    }

    /// Iterates over the keys, newest first.
    pub fn iter(&self) -> impl Iterator<Item = &SecretString> {
        self.0.iter()
    }

    /// Returns the text to store.
    #[must_use]
    pub fn text(&self) -> SecretString {
        let keys: Vec<&str> = self.0.iter().map(ExposeSecret::expose_secret).collect();
        keys.join("\n").into()
    }
}

/// Whether two secrets are equal.
#[must_use]
pub fn is_same(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret() == other.expose_secret()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> SecretString {
        format!("{PREFIX}{n}").into()
    }

    #[test]
    fn the_newest_is_first_and_the_oldest_go() {
        let mut keys = UnlockKeys::default();
        for n in 0..=KEPT {
            keys = keys.with(key(n));
            assert!(keys.begin_with(&key(n)));
        }
        keys = UnlockKeys::parse(&keys.with(key(KEPT - 1)).text()).unwrap();
        let kept: Vec<&str> = keys.iter().map(ExposeSecret::expose_secret).collect();
        let expected =
            [KEPT - 1, KEPT, KEPT - 2, KEPT - 3, KEPT - 4].map(|n| format!("{PREFIX}{n}"));
        assert_eq!(kept, expected);
    }

    #[test]
    fn what_is_no_key_is_refused_and_nothing_is_shown() {
        for text in ["", " \n", "sesame", "SWMKEY-1-a\nsesame"] {
            assert!(UnlockKeys::parse(&text.into()).is_none(), "{text:?}");
        }
        let keys = UnlockKeys::parse(&" SWMKEY-1-canary\n".into()).unwrap();
        assert!(keys.begin_with(&"SWMKEY-1-canary".into()));
        assert!(!format!("{keys:?}").contains("canary"));
    }
}
