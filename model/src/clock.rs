//! Clocks that disagree.

use std::time::Duration;

/// Greatest error of a clock: the most that AWS accepts, and no shorter than any lease.
pub const SKEW: Duration = Duration::from_secs(300);

/// The error of an instance's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Clock {
    Right,
    Ahead,
    Behind,
}

impl Clock {
    pub const ALL: [Self; 3] = [Self::Right, Self::Ahead, Self::Behind];

    /// Returns the time of this clock, in seconds, after so many leases have expired: far enough from the epoch for
    /// every clock.
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

    /// Returns a number of leases that together last longer than the difference between any two clocks.
    #[must_use]
    pub fn expiries_beyond(lease: Duration) -> usize {
        1 + usize::try_from(2 * SKEW.as_secs() / lease.as_secs()).unwrap_or_default()
    }
}
