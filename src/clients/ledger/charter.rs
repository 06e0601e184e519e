//! The charter: the row that names the cluster's swarm and its founder.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::record::{self, Record};
use super::table::Condition;
use super::{Ledger, LedgerError};

pub(super) const ITEM: &str = "charter";
/// Number of former swarms that a charter names. A node that was off during more swarms than these has lost its
/// member row, too, and reports that.
const FORMER_SWARMS: usize = 16;

/// The cluster's swarm, its founder and its generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charter {
    /// Whether the charter is founding, open or closed.
    pub phase: CharterPhase,
    /// The fence: it grows with every claim, and join tokens are stored under it.
    pub generation: u64,
    /// Instance id of the founder.
    pub founder: String,
    /// When another manager may take over an unpublished claim. The lease only saves work: the generation keeps two
    /// founders apart, not this clock.
    #[serde(with = "time::serde::timestamp")]
    pub lease_expires_at: OffsetDateTime,
    /// Docker's id of the swarm, once open.
    #[serde(default)]
    pub swarm_id: Option<String>,
    /// The third field of the join tokens, once open.
    #[serde(default)]
    pub ca_digest: Option<String>,
    /// Time when the charter was opened, or when Docker created the swarm. `None` while founding.
    #[serde(default, with = "time::serde::timestamp::option")]
    pub founded_at: Option<OffsetDateTime>,
    /// Docker's ids of this cluster's former swarms, the latest last: they are lost or closed, and a node in one of
    /// them is free to leave it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<String>,
    /// The swarm whose quorum the founder re-creates, or has re-created, under this generation. Its earlier managers
    /// are fenced out, although the swarm is the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovers: Option<String>,
    /// The swarm that exists, and that the founder adopts under this generation, or has adopted. Nobody founds another
    /// one under this claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopts: Option<String>,
}

/// The swarms and generations that the managers' rows and the history name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// The highest generation that one of them names; 0 if there is none.
    pub highest: u64,
    /// Docker's ids of the swarms.
    pub swarms: BTreeSet<String>,
}

/// A swarm that has a leader and that no charter names, as a manager sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Living {
    /// Docker's id of the swarm.
    pub swarm_id: String,
    /// Generation under which its members have joined.
    pub generation: u64,
    /// Whether its quorum was re-created under that generation, by the swarm's own label.
    pub is_recovered: bool,
    /// The third field of the join tokens.
    pub ca_digest: String,
    /// When the swarm was created, from Docker.
    pub created_at: Option<OffsetDateTime>,
    /// Instance id of the manager that writes the charter.
    pub restored_by: String,
    /// Time when that manager writes the charter, by its clock.
    pub now: OffsetDateTime,
}

/// The state of a charter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CharterPhase {
    /// A manager has claimed the charter and is founding, or re-creating the quorum.
    Founding,
    /// The swarm is running; new nodes join it.
    Open,
    /// The last manager has left and the swarm no longer exists: the next manager founds a new one.
    Closed,
}

impl Charter {
    /// Whether this charter can be claimed at `now`; a missing charter can always be claimed.
    #[must_use]
    pub fn is_claimable(&self, now: OffsetDateTime) -> bool {
        match self.phase {
            CharterPhase::Open => false,
            CharterPhase::Closed => true,
            // Never a recovery: while its founder lives, the founder holds the only remaining state of the swarm.
            CharterPhase::Founding => self.recovers.is_none() && self.lease_expires_at <= now,
        }
    }

    /// Returns the claim of `instance_id` that replaces the charter that was `seen`. The charter may have been
    /// deleted, so the new generation is also higher than every generation in the member rows. Without a charter, the
    /// swarms that the member rows name become former swarms.
    #[must_use]
    pub fn claim(
        seen: Option<&Self>,
        traces: &Traces,
        instance_id: &str,
        now: OffsetDateTime,
        lease: Duration,
    ) -> Self {
        let of_rows = || traces.swarms.iter().cloned().collect();
        let mut former: Vec<String> = seen.map_or_else(of_rows, |seen| seen.former.clone());
        former.extend(seen.and_then(Self::swarm).cloned());
        former.drain(..former.len().saturating_sub(FORMER_SWARMS));
        Self {
            phase: CharterPhase::Founding,
            generation: seen.map_or(0, |charter| charter.generation).max(traces.highest) + 1,
            founder: instance_id.to_owned(),
            lease_expires_at: now + lease,
            swarm_id: None,
            ca_digest: None,
            founded_at: None,
            former,
            recovers: None,
            adopts: None,
        }
    }

    /// Returns the claim of `instance_id` to re-create the quorum of `swarm_id`, which replaces the charter that was
    /// `seen`.
    #[must_use]
    pub fn recovery(
        seen: &Self,
        swarm_id: &str,
        instance_id: &str,
        lease_expires_at: OffsetDateTime,
    ) -> Self {
        Self {
            phase: CharterPhase::Founding,
            generation: seen.generation + 1,
            founder: instance_id.to_owned(),
            lease_expires_at,
            swarm_id: None,
            ca_digest: None,
            founded_at: None,
            recovers: Some(swarm_id.to_owned()),
            adopts: None,
            ..seen.clone()
        }
    }

    /// Returns the open charter of a running swarm that no charter names. `known` is the last open charter that this
    /// process has seen; it is used only if it names the same swarm and generation. Without it, the list of former
    /// swarms is lost.
    #[must_use]
    pub fn restored(known: Option<&Self>, of: &Living) -> Self {
        let known = known.filter(|known| {
            known.swarm_id.as_ref() == Some(&of.swarm_id) && known.generation == of.generation
        });
        Self {
            phase: CharterPhase::Open,
            generation: of.generation,
            founder: known.map_or_else(|| of.restored_by.clone(), |known| known.founder.clone()),
            lease_expires_at: known.map_or(of.now, |known| known.lease_expires_at),
            swarm_id: Some(of.swarm_id.clone()),
            ca_digest: Some(of.ca_digest.clone()),
            founded_at: known.and_then(|known| known.founded_at).or(of.created_at),
            former: known.map_or_else(Vec::new, |known| known.former.clone()),
            recovers: match known {
                Some(known) => known.recovers.clone(),
                None => of.is_recovered.then(|| of.swarm_id.clone()),
            },
            adopts: known.and_then(|known| known.adopts.clone()),
        }
    }

    /// Returns the swarm that this charter names, or whose quorum its founder re-creates.
    #[must_use]
    pub fn swarm(&self) -> Option<&String> {
        self.swarm_id.as_ref().or(self.recovers.as_ref())
    }

    /// Whether the founder is re-creating the quorum of a swarm.
    #[must_use]
    pub fn is_recovery(&self) -> bool {
        self.phase == CharterPhase::Founding && self.recovers.is_some()
    }

    /// Whether a manager that joined under `generation` must stop being a manager: the quorum was re-created without
    /// it, and its raft state is another history of the same swarm.
    #[must_use]
    pub fn fences(&self, instance_id: &str, generation: u64) -> bool {
        self.phase == CharterPhase::Open
            && self.recovers.is_some()
            && self.recovers == self.swarm_id
            && self.founder != instance_id
            && generation < self.generation
    }

    /// Whether `swarm_id` is a former swarm of this cluster.
    #[must_use]
    pub fn has_given_up(&self, swarm_id: Option<&String>) -> bool {
        swarm_id.is_some_and(|id| self.former.contains(id) && self.swarm_id.as_ref() != Some(id))
    }

    /// Whether this charter was closed for the swarm `swarm_id`. If that swarm is running, the last manager's request
    /// to close arrived late, after another manager had joined.
    #[must_use]
    pub fn is_closed_over(&self, swarm_id: &str, generation: u64) -> bool {
        self.phase == CharterPhase::Closed
            && self.generation == generation
            && self.swarm_id.as_deref() == Some(swarm_id)
    }

    /// Whether `instance_id` is founding under this charter.
    #[must_use]
    pub fn is_claimed_by(&self, instance_id: &str) -> bool {
        self.phase == CharterPhase::Founding && self.founder == instance_id
    }
}

impl Record for Charter {
    fn check(&self) -> Result<(), String> {
        record::generation(self.generation)?;
        record::instance("founder", &self.founder)?;
        record::moment("lease_expires_at", self.lease_expires_at)?;
        self.founded_at.map_or(Ok(()), |at| record::moment("founded_at", at))?;
        let ids =
            [("swarm_id", &self.swarm_id), ("recovers", &self.recovers), ("adopts", &self.adopts)];
        for (attribute, id) in ids {
            id.as_ref().map_or(Ok(()), |id| record::docker_id(attribute, id))?;
        }
        for id in &self.former {
            record::docker_id("former", id)?;
        }
        if self.phase != CharterPhase::Founding && self.swarm_id.is_none() {
            return Err("it is open or closed but names no swarm".to_owned());
        }
        Ok(())
    }
}

impl Ledger {
    /// Reads the charter, consistently; `None` before the first claim.
    ///
    /// # Errors
    /// [`LedgerError::OtherSchema`], so that an old skep never acts on a charter that it cannot interpret.
    pub async fn fetch_charter(&self) -> Result<Option<Charter>, LedgerError> {
        self.get(ITEM).await
    }

    /// Claims the right to found, if the charter is still the one that was `seen`. `None` if another node was first.
    /// A claim over an open charter makes its swarm a former swarm: the caller has evidence that it is lost. Without a
    /// charter, the caller has evidence that the swarms of `traces` are lost.
    ///
    /// # Errors
    /// When the outcome is unknown: read the charter again before anything else.
    pub async fn claim_charter(
        &self,
        seen: Option<&Charter>,
        traces: &Traces,
        instance_id: &str,
        now: OffsetDateTime,
        lease: Duration,
    ) -> Result<Option<Charter>, LedgerError> {
        self.put_claim(seen, Charter::claim(seen, traces, instance_id, now, lease), now).await
    }

    /// Claims the right to re-create the quorum of `swarm_id`, if the charter is still the one that was `seen`: open,
    /// or a recovery whose lease has expired. `None` if another node was first.
    ///
    /// # Errors
    /// When the outcome is unknown: read the charter again before anything else.
    pub async fn claim_recovery(
        &self,
        seen: &Charter,
        swarm_id: &str,
        instance_id: &str,
        now: OffsetDateTime,
        lease: Duration,
    ) -> Result<Option<Charter>, LedgerError> {
        let claim = Charter::recovery(seen, swarm_id, instance_id, now + lease);
        self.put_claim(Some(seen), claim, now).await
    }

    /// Claims the right to adopt `swarm_id`, if the charter is still the one that was `seen`: claimable, or missing.
    /// `None` if another node was first.
    ///
    /// # Errors
    /// When the outcome is unknown: read the charter again before anything else.
    pub async fn claim_adoption(
        &self,
        seen: Option<&Charter>,
        traces: &Traces,
        swarm_id: &str,
        instance_id: &str,
        now: OffsetDateTime,
        lease: Duration,
    ) -> Result<Option<Charter>, LedgerError> {
        let claim = Charter::claim(seen, traces, instance_id, now, lease);
        let claim = Charter { adopts: Some(swarm_id.to_owned()), ..claim };
        self.put_claim(seen, claim, now).await
    }

    async fn put_claim(
        &self,
        seen: Option<&Charter>,
        claim: Charter,
        now: OffsetDateTime,
    ) -> Result<Option<Charter>, LedgerError> {
        let condition = match seen {
            None => Condition::new("attribute_not_exists(#item)"),
            Some(seen) if seen.phase == CharterPhase::Founding => Condition::new(
                "#phase = :phase AND #generation = :seen AND #lease_expires_at <= :now",
            )
            .text("phase", "founding")
            .number("seen", seen.generation)
            .number("now", now.unix_timestamp()),
            Some(Charter { phase: CharterPhase::Open, generation, swarm_id, .. }) => {
                Condition::new("#phase = :phase AND #generation = :seen AND #swarm_id = :swarm")
                    .text("phase", "open")
                    .number("seen", generation)
                    .text("swarm", swarm_id.as_deref().unwrap_or_default())
            }
            Some(seen) => Condition::new("#phase = :phase AND #generation = :seen")
                .text("phase", "closed")
                .number("seen", seen.generation),
        };
        Ok(self.put(ITEM, &claim, condition).await?.then_some(claim))
    }

    /// Opens the charter for the swarm that was founded under `claim`. `false` if another node has taken over the
    /// claim: the caller must then leave the swarm that it founded.
    ///
    /// # Errors
    /// When the outcome is unknown: read the charter again.
    pub async fn publish_charter(
        &self,
        claim: &Charter,
        swarm_id: &str,
        ca_digest: &str,
        now: OffsetDateTime,
    ) -> Result<bool, LedgerError> {
        let open = Charter {
            phase: CharterPhase::Open,
            swarm_id: Some(swarm_id.to_owned()),
            ca_digest: Some(ca_digest.to_owned()),
            founded_at: Some(now),
            ..claim.clone()
        };
        self.record_history(&open).await?;
        self.put(ITEM, &open, Self::still_claimed(claim)).await
    }

    /// Releases a claim, so that the next one does not wait for the lease. `false` if the claim was no longer ours.
    ///
    /// # Errors
    /// When DynamoDB fails; the lease then expires by itself.
    pub async fn release_charter(&self, claim: &Charter) -> Result<bool, LedgerError> {
        let released = Charter { lease_expires_at: OffsetDateTime::UNIX_EPOCH, ..claim.clone() };
        self.put(ITEM, &released, Self::still_claimed(claim)).await
    }

    /// Gives a claim up for good: a write that is still under way can no longer publish a swarm under it, because the
    /// generation is another one. The next manager does not wait for the lease. `false` if the claim was no longer ours.
    ///
    /// # Errors
    /// When the outcome is unknown: read the charter again.
    pub async fn withdraw_claim(&self, claim: &Charter) -> Result<bool, LedgerError> {
        let withdrawn = Charter {
            generation: claim.generation + 1,
            lease_expires_at: OffsetDateTime::UNIX_EPOCH,
            adopts: None,
            ..claim.clone()
        };
        self.put(ITEM, &withdrawn, Self::still_claimed(claim)).await
    }

    /// Records that the charter's swarm no longer exists. `false` if the charter has changed since it was read.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn close_charter(&self, open: &Charter) -> Result<bool, LedgerError> {
        // A charter that was read before it was published has no swarm id; writing it would erase the id.
        let Some(swarm_id) = &open.swarm_id else { return Ok(false) };
        let closed = Charter { phase: CharterPhase::Closed, ..open.clone() };
        let condition = Condition::new(
            "#phase = :open AND #generation = :generation AND #swarm_id = :swarm_id",
        )
        .text("open", "open")
        .number("generation", open.generation)
        .text("swarm_id", swarm_id);
        self.put(ITEM, &closed, condition).await
    }

    /// Opens a closed charter again: the caller has seen that the swarm is healthy. `false` if a node has claimed the
    /// charter since.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn reopen_charter(&self, closed: &Charter) -> Result<bool, LedgerError> {
        let Some(swarm_id) = &closed.swarm_id else { return Ok(false) };
        let open = Charter { phase: CharterPhase::Open, ..closed.clone() };
        let condition = Condition::new(
            "#phase = :closed AND #generation = :generation AND #swarm_id = :swarm_id",
        )
        .text("closed", "closed")
        .number("generation", closed.generation)
        .text("swarm_id", swarm_id);
        self.put(ITEM, &open, condition).await
    }

    /// Writes the charter of a running swarm that no charter names: the caller has seen the swarm's leader. `false`
    /// if there is a charter again.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn restore_charter(&self, charter: &Charter) -> Result<bool, LedgerError> {
        self.record_history(charter).await?;
        self.put(ITEM, charter, Condition::new("attribute_not_exists(#item)")).await
    }

    /// Replaces the CA digest, after the swarm's root CA has changed. `false` if the charter is no longer the one that
    /// was `seen`.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn follow_ca(&self, seen: &Charter, ca_digest: &str) -> Result<bool, LedgerError> {
        let (Some(swarm_id), Some(old)) = (&seen.swarm_id, &seen.ca_digest) else {
            return Ok(false);
        };
        let phase = CharterPhase::Open;
        let now = Charter { phase, ca_digest: Some(ca_digest.to_owned()), ..seen.clone() };
        let condition = Condition::new(
            "#phase = :open AND #generation = :generation AND #swarm_id = :swarm_id AND #ca_digest = :old",
        )
        .text("open", "open")
        .number("generation", seen.generation)
        .text("swarm_id", swarm_id)
        .text("old", old);
        self.put(ITEM, &now, condition).await
    }

    fn still_claimed(claim: &Charter) -> Condition {
        Condition::new("#phase = :founding AND #founder = :me AND #generation = :generation")
            .text("founding", "founding")
            .text("me", &claim.founder)
            .number("generation", claim.generation)
    }
}
