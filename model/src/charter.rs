//! The charter as far as it matters to a model, and the names in it.

use skep::clients::ledger::{Charter, CharterPhase};
use time::OffsetDateTime;

/// Small enough for a state; swarms and instances are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    pub is_open: bool,
    pub generation: u64,
    pub founder: u8,
    /// Seconds.
    pub lease_expires_at: i64,
    pub swarm: Option<u8>,
    /// Of the swarms that were given up, the last.
    pub former: Option<u8>,
    /// The swarm whose quorum is or was re-created.
    pub recovers: Option<u8>,
}

impl Row {
    /// As skep reads it.
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
        }
    }

    /// As skep writes it.
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

    /// DynamoDB's condition of a claim at `now` over what was `seen`.
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

    /// DynamoDB's condition of publishing under this claim.
    #[must_use]
    pub fn is_still_claimed(self, is: Option<Self>) -> bool {
        is.is_some_and(|is| {
            !is.is_open && is.founder == self.founder && is.generation == self.generation
        })
    }
}

/// An instance's id.
#[must_use]
pub fn name(host: u8) -> String {
    format!("i-{host}")
}

/// Docker's id of a swarm.
#[must_use]
pub fn swarm_name(swarm: u8) -> String {
    format!("swarm-{swarm}")
}

/// `i-3` and `swarm-3` are 3.
///
/// # Panics
/// On a name that is not of a model.
#[must_use]
pub fn number(name: &str) -> u8 {
    name.rsplit('-').next().and_then(|digits| digits.parse().ok()).expect("a name of this model")
}

/// Seconds since the epoch.
///
/// # Panics
/// Beyond the year 9999.
#[must_use]
pub fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).expect("seconds of this model")
}
