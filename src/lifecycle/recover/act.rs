//! Returns the plan of a recovery, and claims the charter for it.

use std::time::Duration;

use time::OffsetDateTime;

use super::decide::{Observed, Refusal, decide, plan as plan_of};
use super::error::RecoverError;
use super::observe::{leaving, observe};
use crate::clients::ledger::Charter;
use crate::common::errors::chain;
use crate::common::report::RecoveryPlan;
use crate::common::state::in_utc;
use crate::node::Node;

/// Lease of the claim. A skep that dies in the middle continues within seconds of its restart; after the lease another
/// survivor may take over. Docker needs up to 40 s.
const LEASE: Duration = Duration::from_secs(300);

/// Returns the plan. This takes until it is certain that no leader answers.
///
/// # Errors
/// When the ledger does not answer, as a text.
pub async fn plan(node: &Node) -> Result<RecoveryPlan, String> {
    look(node).await.map(|(_, plan)| plan).map_err(|error| chain(&error))
}

/// Observes again, and starts the recovery, unless the plan has a refusal.
///
/// # Errors
/// When the ledger does not answer, as a text.
pub async fn begin(node: &Node) -> Result<RecoveryPlan, String> {
    claim(node).await.map_err(|error| chain(&error))
}

async fn look(node: &Node) -> Result<(Observed, RecoveryPlan), RecoverError> {
    let seen = observe(node).await?;
    let plan = plan_of(&node.cluster, &seen, decide(&seen));
    Ok((seen, plan))
}

async fn claim(node: &Node) -> Result<RecoveryPlan, RecoverError> {
    let (seen, plan) = look(node).await?;
    let (Some(charter), Some(swarm_id), None) = (&seen.charter, &plan.swarm_id, &plan.refusal)
    else {
        return Ok(plan);
    };
    let me = node.instance.id.as_str();
    let now = OffsetDateTime::now_utc();
    let claimed = node.ledger.claim_recovery(charter, swarm_id, me, now, LEASE).await;
    let holder = match claimed.map_err(RecoverError::Unknown)? {
        Some(claim) => Some(claim),
        // Another manager was first; or the answer to our own write was lost, and the write was repeated.
        None => node.ledger.fetch_charter().await.map_err(RecoverError::Unknown)?,
    };
    let is_ours = |held: &Charter| held.is_recovery() && held.is_claimed_by(me);
    if !holder.as_ref().is_some_and(is_ours) {
        return Ok(RecoveryPlan { refusal: Some(Refusal::Outrun.to_string()), ..plan });
    }
    if leaving(node).is_some_and(|leaving| leaving.recovery_until.is_none()) {
        return Err(RecoverError::LeftMeanwhile { until: in_utc(now + LEASE) });
    }
    tracing::info!(
        swarm_id,
        generation = plan.generation + 1,
        "the operator has the quorum re-created on this node"
    );
    node.recovery_begun.notify_one();
    Ok(plan)
}
