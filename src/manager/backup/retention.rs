//! Decides which backups are outdated. Pure.

use std::time::Duration;

use time::OffsetDateTime;

use super::store::{Key, newest_before};

/// Number of backups that stay at any age.
const ALWAYS_KEPT: usize = 3;

/// Returns the backups to delete. `keys` are in the order of their time, and `generation` is the swarm's: the newest of a
/// generation before it may not be restored yet.
pub fn outdated(keys: &[Key], generation: u64, keep: Duration, now: OffsetDateTime) -> Vec<&Key> {
    let last_of_before = newest_before(keys, generation);
    let older = &keys[..keys.len().saturating_sub(ALWAYS_KEPT)];
    let is_outdated = |key: &&Key| now - key.at > keep && Some(*key) != last_of_before;
    older.iter().filter(is_outdated).collect()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn the_newest_three_and_the_last_of_the_generation_before_stay() {
        let day = |n: i64| datetime!(2026-12-01 00:00 UTC) + time::Duration::days(n);
        let keys: Vec<Key> = [(0, 1), (1, 1), (2, 2), (3, 2), (4, 2), (5, 2), (6, 2)]
            .map(|(n, generation)| Key::example(day(n), generation, "aa"))
            .into();
        let deleted = |generation, keep_days: u64, now| {
            let keep = Duration::from_secs(keep_days * 86400);
            let all = outdated(&keys, generation, keep, day(now));
            all.into_iter().map(|key| (key.at - day(0)).whole_days()).collect::<Vec<_>>()
        };
        assert_eq!(deleted(2, 30, 6), Vec::<i64>::new());
        assert_eq!(deleted(2, 30, 100), [0, 2, 3], "the last of generation 1 stays");
        assert_eq!(deleted(3, 30, 100), [0, 1, 2, 3], "those of generation 2 are the newest three");
        assert_eq!(deleted(2, 4, 6), [0]);
        assert!(outdated(&keys[..3], 2, Duration::ZERO, day(100)).is_empty());
    }
}
