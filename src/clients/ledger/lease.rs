//! Leases: one node at a time does something, such as changing raft's members.
//!
//! Guarantees: of two skeps whose clocks agree, only one holds the lease at a time. Assumes that Docker keeps the
//! quorum where clocks do not agree, or where a row was edited by hand: it refuses a demotion that would lose the
//! quorum. The lease only prevents needless attempts.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::record::{self, Record};
use super::table::Condition;
use super::{Ledger, LedgerError};

/// A demotion takes less than 10 s; after this time the holder of the lease has died.
const DEMOTION_LEASE: Duration = Duration::from_secs(60);
/// Time between two replacements in a group, so that an operator can notice before all its nodes are replaced.
const REPLACEMENT_LEASE: Duration = Duration::from_secs(600);
/// Time after the end of a lease from which on its holder holds up nobody: a node that is replaced can keep its
/// termination hook open for 48 hours.
const HOLDS_UP: Duration = Duration::from_secs(1800);
/// A lease that ends more than this number of lease times ahead is ignored: no node waits for a clock that is far
/// ahead, or for a row that was edited by hand.
const CREDIBLE_LEASES: u32 = 2;

/// The things for which a lease is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseOf<'a> {
    /// Demoting a manager; any manager may take over the lease for the same node.
    Demotion,
    /// Asking Auto Scaling to replace a node of this group; no node can extend this lease.
    Replacement {
        /// Name of the Auto Scaling group.
        group: &'a str,
    },
}

impl LeaseOf<'_> {
    fn item(self) -> String {
        match self {
            Self::Demotion => "lease#demotion".to_owned(),
            Self::Replacement { group } => format!("lease#replacement#{group}"),
        }
    }

    fn lease(self) -> Duration {
        match self {
            Self::Demotion => DEMOTION_LEASE,
            Self::Replacement { .. } => REPLACEMENT_LEASE,
        }
    }
}

/// A lease: the node that it is for, and its holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The node that is demoted or replaced.
    pub node_id: String,
    /// Instance id of the node whose skep took the lease.
    pub taken_by: String,
    #[serde(with = "time::serde::timestamp")]
    expires_at: OffsetDateTime,
}

impl Lease {
    /// Whether the lease has expired at `now`, by the reader's clock, or ends too far ahead to be believed.
    #[must_use]
    pub fn is_over(&self, of: LeaseOf<'_>, now: OffsetDateTime) -> bool {
        self.expires_at <= now || self.expires_at > now + of.lease() * CREDIBLE_LEASES
    }

    /// Whether the lease has been over for so long that its holder holds up nobody any more.
    #[must_use]
    pub fn is_long_over(&self, now: OffsetDateTime) -> bool {
        now - self.expires_at >= HOLDS_UP
    }
}

impl Record for Lease {
    fn check(&self) -> Result<(), String> {
        record::docker_id("node_id", &self.node_id)?;
        record::instance("taken_by", &self.taken_by)?;
        record::moment("expires_at", self.expires_at)
    }
}

impl Ledger {
    /// Takes the lease for a node; for a demotion, also extends it. `false` while it is taken.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn take_lease(
        &self,
        of: LeaseOf<'_>,
        node_id: &str,
        taken_by: &str,
        now: OffsetDateTime,
    ) -> Result<bool, LedgerError> {
        let lease = Lease {
            node_id: node_id.to_owned(),
            taken_by: taken_by.to_owned(),
            expires_at: now + of.lease(),
        };
        const IS_FREE: &str =
            "attribute_not_exists(#item) OR #expires_at <= :now OR #expires_at > :credible";
        let condition = match of {
            LeaseOf::Demotion => {
                Condition::new(&format!("{IS_FREE} OR #node_id = :node")).text("node", node_id)
            }
            LeaseOf::Replacement { .. } => Condition::new(IS_FREE),
        };
        let credible = now + of.lease() * CREDIBLE_LEASES;
        let condition = condition
            .number("now", now.unix_timestamp())
            .number("credible", credible.unix_timestamp());
        self.put(&of.item(), &lease, condition).await
    }

    /// Reads the present or the last lease, consistently.
    ///
    /// # Errors
    /// When DynamoDB fails, or when the row was edited by hand and cannot be read.
    pub async fn fetch_lease(&self, of: LeaseOf<'_>) -> Result<Option<Lease>, LedgerError> {
        self.get(&of.item()).await
    }

    /// Deletes the lease for a demotion once the node is out of raft; a lease for another node stays.
    ///
    /// # Errors
    /// When DynamoDB fails; the lease then expires by itself.
    pub async fn return_lease(&self, node_id: &str) -> Result<(), LedgerError> {
        let condition = Condition::new("#node_id = :node").text("node", node_id);
        self.delete(&LeaseOf::Demotion.item(), condition).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clients::ledger::fuzz;

    #[test]
    fn a_lease_ends_and_one_that_nobody_can_have_taken_is_not_believed() {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(10_000);
        let ends_in = |seconds: i64| Lease {
            node_id: "node".into(),
            taken_by: "i-1".into(),
            expires_at: now + time::Duration::seconds(seconds),
        };
        let group = LeaseOf::Replacement { group: "workers" };
        assert!(!ends_in(-1799).is_long_over(now) && ends_in(-1800).is_long_over(now));
        for (of, lease) in [(LeaseOf::Demotion, 60), (group, 600)] {
            assert!(!ends_in(1).is_over(of, now) && !ends_in(lease).is_over(of, now));
            assert!(ends_in(0).is_over(of, now) && ends_in(-1).is_over(of, now));
            assert!(
                !ends_in(2 * lease).is_over(of, now) && ends_in(2 * lease + 1).is_over(of, now)
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// With any readable row, no node waits for longer than two lease times.
        #[test]
        fn no_lease_that_can_be_read_lasts(held in fuzz::lease()) {
            let group = LeaseOf::Replacement { group: "workers" };
            for (of, lease) in [(LeaseOf::Demotion, DEMOTION_LEASE), (group, REPLACEMENT_LEASE)] {
                let ahead = held.expires_at - fuzz::NOW;
                let is_credible = ahead.is_positive() && ahead <= lease * CREDIBLE_LEASES;
                prop_assert_eq!(held.is_over(of, fuzz::NOW), !is_credible);
            }
        }
    }
}
