//! Decides which backups are outdated. Pure.

use std::time::Duration;

use time::OffsetDateTime;

use super::store::Key;

/// Number of backups that stay at any age.
const ALWAYS_KEPT: usize = 3;

/// Returns the backups to delete. `keys` are in the order of their time. The newest one of each other swarm than this may
/// not be restored yet.
pub fn outdated<'a>(
    keys: &'a [Key],
    swarm_id: &str,
    keep: Duration,
    now: OffsetDateTime,
) -> Vec<&'a Key> {
    let older = &keys[..keys.len().saturating_sub(ALWAYS_KEPT)];
    let is_last = |key: &Key| {
        let same = keys.iter().filter(|it| it.swarm_id == key.swarm_id);
        key.swarm_id != swarm_id && same.max() == Some(key)
    };
    older.iter().filter(|key| now - key.at > keep && !is_last(key)).collect()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn the_newest_three_and_the_last_of_each_other_swarm_stay() {
        let day = |n: i64| datetime!(2026-12-01 00:00 UTC) + time::Duration::days(n);
        let keys: Vec<Key> = [(0, 1), (1, 1), (2, 2), (3, 2), (4, 2), (5, 2), (6, 2)]
            .map(|(n, generation)| Key::example(day(n), generation))
            .into();
        let deleted = |swarm_id, keep_days: u64, now| {
            let keep = Duration::from_secs(keep_days * 86400);
            let all = outdated(&keys, swarm_id, keep, day(now));
            all.into_iter().map(|key| (key.at - day(0)).whole_days()).collect::<Vec<_>>()
        };
        assert_eq!(deleted("s2", 30, 6), Vec::<i64>::new());
        assert_eq!(deleted("s2", 30, 100), [0, 2, 3], "the last of s1 stays");
        assert_eq!(deleted("s3", 30, 100), [0, 2, 3], "two swarms in a row may be lost");
        assert_eq!(deleted("s1", 30, 100), [0, 1, 2, 3], "this swarm's are not needed");
        assert_eq!(deleted("s2", 4, 6), [0]);
        assert!(outdated(&keys[..3], "s2", Duration::ZERO, day(100)).is_empty());
    }
}
