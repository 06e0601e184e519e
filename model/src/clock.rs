//! Clocks that disagree.

use std::time::Duration;

/// How far a clock may be off: as far as AWS lets it, and no shorter than any lease.
pub const SKEW: Duration = Duration::from_secs(300);

/// How an instance's clock goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Clock {
    Right,
    Ahead,
    Behind,
}

impl Clock {
    /// The three of them.
    pub const ALL: [Self; 3] = [Self::Right, Self::Ahead, Self::Behind];

    /// What it shows in seconds once so many leases have run out. Far enough from the epoch for every
    /// clock.
    #[must_use]
    pub fn now(self, expiries: usize, lease: Duration) -> i64 {
        let skew = SKEW.as_secs().cast_signed();
        let lease = lease.as_secs().cast_signed();
        let right = 2 * skew + i64::try_from(expiries).unwrap_or_default() * (lease + 1);
        match self {
            Self::Right => right,
            Self::Ahead => right + skew,
            Self::Behind => right - skew,
        }
    }

    /// So many leases are longer than any two clocks are apart.
    #[must_use]
    pub fn expiries_beyond(lease: Duration) -> usize {
        1 + usize::try_from(2 * SKEW.as_secs() / lease.as_secs()).unwrap_or_default()
    }
}
