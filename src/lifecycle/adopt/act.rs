//! Returns the plan of an adoption, and carries it out.

use std::time::Duration;

use time::OffsetDateTime;

use super::decide::{Refusal, decide, plan};
use super::error::AdoptError;
use super::observe::observe;
use super::types::{Observed, SwarmSeen};
use crate::clients::docker::{ADOPTED_LABEL, CLUSTER_LABEL, GENERATION_LABEL};
use crate::clients::ledger::{Charter, CharterPhase};
use crate::common::errors::chain;
use crate::common::instance::{Membership, Role};
use crate::common::report::AdoptionPlan;
use crate::lifecycle::boot::{self, BootError};
use crate::node::Node;

/// Lease of the claim. After it another manager may found a swarm of its own: an operator whose command was cut off has
/// this time to run it again.
const LEASE: Duration = Duration::from_secs(900);

/// Observes, and returns the plan. Changes nothing.
///
/// # Errors
/// When the ledger or Docker does not answer.
pub async fn look(node: &Node) -> Result<AdoptionPlan, AdoptError> {
    let seen = observe(node).await?;
    Ok(plan(&seen, &decide(&seen)))
}

/// Observes again, and adopts the swarm, unless the plan has a refusal.
///
/// # Errors
/// When a step fails. What was written before is then taken back, where that is possible.
pub async fn carry_out(node: &Node) -> Result<AdoptionPlan, AdoptError> {
    let seen = observe(node).await?;
    let decision = decide(&seen);
    let plan = plan(&seen, &decision);
    let (Some(swarm), Ok(_)) = (&seen.swarm, &decision) else { return Ok(plan) };
    let Some(claim) = claim(node, &seen, &swarm.cluster.id).await? else {
        return Ok(AdoptionPlan {
            refusal: Some(Refusal::Outrun.to_string()),
            generation: None,
            steps: vec![],
            ..plan
        });
    };
    let membership = Membership {
        node_id: seen.local.node_id.clone().unwrap_or_default(),
        swarm_id: swarm.cluster.id.clone(),
        generation: claim.generation,
        role: Role::Manager,
    };
    match boot::publish(node, &claim, &membership).await {
        Ok(_) => confirm(node, &claim, &membership).await?,
        Err(failed) => return Err(take_back(node, &seen, swarm, &claim, failed).await),
    }
    Ok(AdoptionPlan { generation: Some(claim.generation), ..plan })
}

/// Claims the charter. `None` if another manager was first.
async fn claim(
    node: &Node,
    seen: &Observed,
    swarm_id: &str,
) -> Result<Option<Charter>, AdoptError> {
    let me = node.instance.id.as_str();
    if let Some(own) = seen.own_claim() {
        return Ok(Some(own.clone()));
    }
    let now = OffsetDateTime::now_utc();
    let before = seen.charter.as_ref();
    let claimed = node.ledger.claim_adoption(before, &seen.traces, swarm_id, me, now, LEASE);
    match claimed.await.map_err(AdoptError::Unknown)? {
        Some(claim) => Ok(Some(claim)),
        // Another manager was first; or the answer to our own write was lost, and the write was repeated.
        None => {
            let charter = node.ledger.fetch_charter().await.map_err(AdoptError::Unknown)?;
            let is_ours = |charter: &Charter| {
                charter.is_claimed_by(me) && charter.adopts.as_deref() == Some(swarm_id)
            };
            Ok(charter.filter(is_ours))
        }
    }
}

/// Reads whether the charter names this swarm now, under this claim.
async fn confirm(node: &Node, claim: &Charter, membership: &Membership) -> Result<(), AdoptError> {
    let charter = node.ledger.fetch_charter().await.map_err(AdoptError::Unknown)?;
    let is_ours = |charter: &Charter| {
        charter.phase == CharterPhase::Open
            && charter.generation == claim.generation
            && charter.swarm_id.as_ref() == Some(&membership.swarm_id)
    };
    if charter.as_ref().is_some_and(is_ours) { Ok(()) } else { Err(AdoptError::Overtaken) }
}

/// Takes back what was written under the claim: first the claim itself, so that no write that is still under way can
/// open the charter, then the labels and this node's row. The tokens stay in their store, and the swarm in the history:
/// nobody reads those of a generation that was not published.
async fn take_back(
    node: &Node,
    seen: &Observed,
    swarm: &SwarmSeen,
    claim: &Charter,
    failed: BootError,
) -> AdoptError {
    match node.ledger.withdraw_claim(claim).await {
        Ok(true) => {}
        // The last write has arrived, or another manager has taken the claim over: its work is not undone.
        Ok(false) => {
            return AdoptError::HalfDone { why: "the charter has changed".into(), failed };
        }
        Err(error) => return AdoptError::HalfDone { why: chain(&error), failed },
    }
    let undo = async {
        let labels = [CLUSTER_LABEL, GENERATION_LABEL, ADOPTED_LABEL];
        let is_new = |label: &&str| !swarm.cluster.labels.contains_key(*label);
        let new: Vec<&str> = labels.into_iter().filter(is_new).collect();
        if !new.is_empty() {
            node.swarm.unlabel_swarm(&new).await.map_err(|error| chain(&error))?;
        }
        if seen.has_row {
            return Ok(());
        }
        let row = node.ledger.delete_member(node.role, &node.instance.id);
        row.await.map(drop).map_err(|error| chain(&error))
    };
    match undo.await {
        Ok(()) => AdoptError::TakenBack(failed),
        Err(why) => AdoptError::HalfDone { why, failed },
    }
}
