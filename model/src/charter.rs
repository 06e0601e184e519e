//! The part of the charter that matters to a model, and the names in it.

use skep::clients::ledger::{Charter, CharterPhase};
use time::OffsetDateTime;

/// A charter that is small enough for a state: swarms and instances are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    pub is_open: bool,
    pub generation: u64,
    pub founder: u8,
    /// In seconds since the epoch.
    pub lease_expires_at: i64,
    pub swarm: Option<u8>,
    /// The last of the former swarms.
    pub former: Option<u8>,
    /// The swarm whose quorum is or was re-created.
    pub recovers: Option<u8>,
}

impl Row {
    /// Returns the charter as skep reads it.
    #[must_use]
    pub fn charter(self) -> Charter {
        Charter {
            phase: if self.is_open { CharterPhase::Open } else { CharterPhase::Founding },
            generation: self.generation,
            founder: name(self.founder),
            lease_expires_at: at(self.lease_expires_at),
            swarm_id: self.swarm.map(swarm_name),
            ca_digest: None,
            founded_at: None,
            former: self.former.map(swarm_name).into_iter().collect(),
            recovers: self.recovers.map(swarm_name),
            adopts: None,
        }
    }

    /// Converts the charter that skep writes.
    #[must_use]
    pub fn of(charter: &Charter) -> Self {
        Self {
            is_open: charter.phase == CharterPhase::Open,
            generation: charter.generation,
            founder: number(&charter.founder),
            lease_expires_at: charter.lease_expires_at.unix_timestamp(),
            swarm: charter.swarm_id.as_deref().map(number),
            former: charter.former.last().map(|id| number(id)),
            recovers: charter.recovers.as_deref().map(number),
        }
    }

    /// Whether DynamoDB's condition for a claim at `now` holds: the charter was `seen` before, and now `is` there.
    #[must_use]
    pub fn is_as_seen(seen: Option<Self>, is: Option<Self>, now: i64) -> bool {
        match (seen, is) {
            (None, None) => true,
            (Some(seen), Some(is)) if seen.is_open => is == seen,
            (Some(seen), Some(is)) => {
                !is.is_open && is.generation == seen.generation && is.lease_expires_at <= now
            }
            _ => false,
        }
    }

    /// Whether DynamoDB's condition for publishing under this claim holds.
    #[must_use]
    pub fn is_still_claimed(self, is: Option<Self>) -> bool {
        is.is_some_and(|is| {
            !is.is_open && is.founder == self.founder && is.generation == self.generation
        })
    }
}

/// Returns the id of an instance.
#[must_use]
pub fn name(host: u8) -> String {
    format!("i-{host}")
}

/// Returns Docker's id of a swarm.
#[must_use]
pub fn swarm_name(swarm: u8) -> String {
    format!("swarm-{swarm}")
}

/// Returns the number in a name: 3 in `i-3` and in `swarm-3`.
///
/// # Panics
/// If the name is not from a model.
#[must_use]
pub fn number(name: &str) -> u8 {
    name.rsplit('-').next().and_then(|digits| digits.parse().ok()).expect("a name of this model")
}

/// Converts seconds since the epoch.
///
/// # Panics
/// Beyond the year 9999.
#[must_use]
pub fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).expect("seconds of this model")
}
