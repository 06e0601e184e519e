//! The unlock keys of a swarm whose managers lock themselves (autolock).
//!
//! A manager that was down while the key was rotated is opened by the key that it knew, so the last
//! few are kept, newest first, each on a line.

use secrecy::{ExposeSecret, SecretString};

/// What every unlock key begins with.
const PREFIX: &str = "SWMKEY-1-";
/// So many rotations may pass while a manager is switched off.
const KEPT: usize = 5;

/// The newest key and its predecessors.
#[derive(Clone, Debug, Default)]
pub struct UnlockKeys(Vec<SecretString>);

impl UnlockKeys {
    /// What is stored. `None` where a line is no unlock key.
    #[must_use]
    pub fn parse(text: &SecretString) -> Option<Self> {
        let lines = text.expose_secret().lines().map(str::trim).filter(|line| !line.is_empty());
        let keys: Vec<&str> = lines.collect();
        let are_keys = !keys.is_empty() && keys.iter().all(|key| key.starts_with(PREFIX));
        are_keys.then(|| Self(keys.into_iter().map(SecretString::from).collect()))
    }

    /// With this key before the others.
    #[must_use]
    pub fn with(self, newest: SecretString) -> Self {
        let others = self.0.into_iter().filter(|key| !is_same(key, &newest));
        Self(std::iter::once(newest.clone()).chain(others).take(KEPT).collect())
    }

    /// Is this the key that is in force?
    #[must_use]
    pub fn begin_with(&self, key: &SecretString) -> bool {
        self.0.first().is_some_and(|newest| is_same(newest, key))
    }

    /// Newest first.
    pub fn iter(&self) -> impl Iterator<Item = &SecretString> {
        self.0.iter()
    }

    /// What is stored.
    #[must_use]
    pub fn text(&self) -> SecretString {
        let keys: Vec<&str> = self.0.iter().map(ExposeSecret::expose_secret).collect();
        keys.join("\n").into()
    }
}

/// Whether two secrets are one.
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
