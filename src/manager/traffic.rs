//! Finds out whether a load balancer may send requests to a node.

use std::collections::BTreeSet;
use std::time::Duration;

use time::OffsetDateTime;

use super::error::ManagerError;
use super::observe::{Fleet, lately};
use crate::clients::aws::autoscaling::GroupSettings;
use crate::clients::docker::Service;
use crate::clients::ledger::{DepartureRow, DepartureState, Traffic};

/// Maximum age of Auto Scaling's answer: a group seldom gets another load balancer.
const GROUPS_AGE: Duration = Duration::from_secs(60);

/// Returns the row of a departure, with the answer where the node waits for one. What cannot be found out stays open:
/// the node then waits as one that receives traffic.
///
/// # Errors
/// When Auto Scaling, Docker or DynamoDB fails.
pub(super) async fn note(
    fleet: &Fleet<'_>,
    row: &DepartureRow,
) -> Result<DepartureRow, ManagerError> {
    let mut row = row.clone();
    let is_held = row.state == DepartureState::Requested && row.is_held(OffsetDateTime::now_utc());
    if !is_held || row.traffic.is_some() {
        return Ok(row);
    }
    if let Some(traffic) = find_out(fleet, &row.instance_id).await?
        && fleet.node.ledger.note_traffic(&row, traffic).await?
    {
        row.traffic = Some(traffic);
    }
    Ok(row)
}

/// Returns whether a load balancer may send requests to this instance; `None`: cannot tell.
///
/// # Errors
/// When Auto Scaling or Docker fails.
pub(super) async fn find_out(
    fleet: &Fleet<'_>,
    instance: &str,
) -> Result<Option<Traffic>, ManagerError> {
    let groups = fleet.groups(lately(GROUPS_AGE)).await?;
    let Some(known) = groups.get(instance) else {
        // Groups that nothing names, and instances in no group.
        let (own, ids) = (&fleet.node.instance.id, BTreeSet::from([instance]));
        let survey = fleet.node.autoscaling.survey(own, &ids).await?;
        return Ok(survey.is_gone(instance).then_some(Traffic::None));
    };
    let Some(settings) = known.settings else { return Ok(None) };
    if !settings.has_load_balancer {
        return Ok(Some(Traffic::None));
    }
    let services = fleet.node.swarm.fetch_services().await?;
    let has_ports = services.iter().any(Service::publishes_ports);
    Ok(Some(judge(settings, has_ports)))
}

fn judge(settings: GroupSettings, has_ports: bool) -> Traffic {
    match (settings.has_load_balancer && has_ports, settings.replaces_unhealthy) {
        (false, _) => Traffic::None,
        (true, false) => Traffic::Balanced,
        (true, true) => Traffic::Replacing,
    }
}
