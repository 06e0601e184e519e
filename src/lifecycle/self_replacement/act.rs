//! Looks up the facts that a verdict needs, and asks for the replacement.

use std::time::Duration;

use thiserror::Error;
use time::OffsetDateTime;

use super::super::membership::MembershipError;
use super::decide::{LookUp, Observed, Verdict, decide};
use crate::clients::aws::AwsError;
use crate::clients::ledger::{CharterPhase, LeaseOf, LedgerError};
use crate::manager::peers::{find_manager, is_led};
use crate::manager::replacements::Asked;
use crate::node::Node;

#[derive(Debug, Error)]
pub enum ReplacementError {
    #[error(transparent)]
    Care(#[from] MembershipError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    AutoScaling(#[from] AwsError),
}

/// How long every observation has found the swarm well; inner `None` if the last one has not.
type WellFor = Result<Option<Duration>, MembershipError>;

/// Returns whether another manager that has a leader answers here.
pub async fn is_swarm_well(node: &Node) -> Result<bool, MembershipError> {
    let charter = node.ledger.fetch_charter().await?;
    let Some(open) = charter.filter(|charter| charter.phase == CharterPhase::Open) else {
        return Ok(false);
    };
    Ok(find_manager(node, &open, is_led).await?.is_some())
}

/// Asks for the replacement, because of `why`, if all facts are for it. Returns the verdict.
pub async fn ask_if_due(
    node: &Node,
    why: &str,
    broken_for: Duration,
    well_for: WellFor,
) -> Result<Verdict, ReplacementError> {
    let verdict = judge(node, broken_for, well_for).await?;
    let me = node.instance.id.as_str();
    if verdict == Verdict::AskManagers {
        node.ledger.request_replacement(me, why, OffsetDateTime::now_utc()).await?;
    }
    let Verdict::Ask { group, is_lease_taken } = &verdict else { return Ok(verdict) };
    let of = LeaseOf::Replacement { group };
    if !is_lease_taken && !node.ledger.take_lease(of, me, me, OffsetDateTime::now_utc()).await? {
        return Ok(Verdict::Stay { why: "another node of the group was first" });
    }
    node.autoscaling.set_unhealthy(me).await?;
    Ok(verdict)
}

/// Decides, and looks up one fact after the other until that is possible.
async fn judge(
    node: &Node,
    broken_for: Duration,
    well_for: WellFor,
) -> Result<Verdict, ReplacementError> {
    let (me, settings) = (node.instance.id.as_str(), &node.settings.autoscaling);
    let known = settings.group.as_ref().or(node.instance.group.as_ref());
    let mut seen = Observed {
        me: me.to_owned(),
        role: Some(node.role),
        broken_for,
        patience: settings.replace_after,
        group: known.map(|group| Some(group.clone())),
        ..Observed::default()
    };
    let mut well_for = Some(well_for);
    loop {
        match decide(&seen) {
            Ok(verdict) => return Ok(verdict),
            Err(LookUp::Swarm) => seen.well_for = well_for.take().transpose()?,
            Err(LookUp::Row) => {
                let row = node.ledger.fetch_member(node.role, me).await?;
                seen.row = Some(row.map(|row| row.state));
            }
            Err(LookUp::Group) => {
                let own = node.autoscaling.fetch_instance(me).await?;
                seen.group = Some(own.map(|own| own.group));
            }
            Err(LookUp::Lease { group }) => {
                let of = LeaseOf::Replacement { group: &group };
                let lease = node.ledger.fetch_lease(of).await?;
                seen.last = Some(Asked::of(lease, &group, OffsetDateTime::now_utc()));
            }
            Err(LookUp::Listed { other }) => {
                let other = other.as_deref().unwrap_or(me);
                seen.listed = Some(node.autoscaling.fetch_listed(&[me, other]).await?);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::aws::autoscaling::tests::{described, list};
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::Swarm;
    use crate::common::timing::MANAGER_ROW_IS_FRESH;

    /// Returns the verdict and the calls to AWS, in their order.
    async fn ask(stub: &Stub, broken_for: Duration, well_for: WellFor) -> (String, Vec<String>) {
        let node = Node::example(Swarm::new("unix:///nowhere".to_owned()), stub).await;
        let verdict = ask_if_due(&node, "Docker hangs", broken_for, well_for).await;
        let call = |body: &String| {
            let words = [
                ("member#manager#i-0abc", "row"),
                ("ConditionExpression", "take lease"),
                ("lease#replacement#workers", "lease"),
                ("DescribeAutoScalingInstances", "describe"),
                ("SetInstanceHealth", "unhealthy"),
            ];
            words.into_iter().find(|(part, _)| body.contains(part)).map_or("?", |it| it.1).into()
        };
        (format!("{verdict:?}"), stub.requests().iter().map(call).collect())
    }

    #[tokio::test]
    async fn each_fact_is_read_once_and_only_when_all_before_it_are_for_asking() {
        let row = serde_json::json!({ "Item": {
            "item": { "S": "member#manager#i-0abc" }, "schema": { "N": "2" }, "instance_id": { "S": "i-0abc" }, "role": { "S": "manager" },
            "node_id": { "S": "n1" }, "address": { "S": "10.0.0.1" }, "zone": { "S": "a" },
            "generation": { "N": "1" }, "state": { "S": "ready" }, "updated_at": { "N": "1" },
        }});
        let listed = described(&list(&[("i-0abc", "InService")]), "");
        let (long, well) = (Duration::from_secs(3600), Ok(Some(MANAGER_ROW_IS_FRESH)));
        let stub = Stub::start().await;
        assert_eq!(ask(&stub, Duration::ZERO, Ok(None)).await, ("Ok(Wait)".into(), vec![]));
        let unclear = Err(LedgerError::WrongKeys { table: "skep".into() }.into());
        let (verdict, calls) = ask(&stub, long, unclear).await;
        assert!(verdict.starts_with("Err(Care(") && calls.is_empty(), "{verdict} {calls:?}");
        stub.answer(200, &row.to_string());
        let (verdict, calls) = ask(&stub, long, Ok(None)).await;
        assert!(verdict.contains("no other manager") && calls == ["row"], "{verdict} {calls:?}");
        let stub = Stub::start().await;
        for answer in
            [&row.to_string(), &listed, "{}", &listed, "{}", "<SetInstanceHealthResponse/>"]
        {
            stub.answer(200, answer);
        }
        let (verdict, calls) = ask(&stub, long, well).await;
        assert!(verdict.starts_with("Ok(Ask"), "{verdict}");
        assert_eq!(calls, ["row", "describe", "lease", "describe", "take lease", "unhealthy"]);
    }
}
