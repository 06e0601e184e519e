//! Decides whether the swarm that this host is a manager of may become this cluster's, and describes what would be
//! written. Pure.

use std::collections::BTreeSet;

use thiserror::Error;

use super::conflicts::{conflicts, describe};
use super::types::{Observed, SwarmSeen};
use crate::clients::docker::{ADOPTED_LABEL, CLUSTER_LABEL, GENERATION_LABEL};
use crate::clients::ledger::CharterPhase;
use crate::common::instance::Role;
use crate::common::report::AdoptionPlan;
use crate::common::state::in_utc;

/// Reason why nothing may be written; each names the remedy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// This node would be a worker, and workers may not write the charter.
    #[error(
        "this instance's role is worker, by its setting `role` or its tags: run this command on a manager, or give this instance the role manager"
    )]
    Worker,
    /// `live-restore` is on.
    #[error(
        "live-restore is on, and swarm mode does not support it: set \"live-restore\": false in /etc/docker/daemon.json and restart Docker"
    )]
    LiveRestore,
    /// Docker is in no swarm.
    #[error(
        "Docker is in no swarm here: run this command on a manager of the swarm; or join it from outside with `skep adopt --join`"
    )]
    InNoSwarm,
    /// Docker is not a manager.
    #[error("this host is not a manager of its swarm: run this command on a manager")]
    NotManager,
    /// No leader answers.
    #[error(
        "no leader of the swarm answers this manager: see `docker node ls`, and repair the quorum first"
    )]
    NoLeader,
    /// The charter names this very swarm.
    #[error(
        "this swarm is the cluster's already, as generation {generation}: start skep on its nodes"
    )]
    Adopted {
        /// The charter's generation.
        generation: u64,
    },
    /// The charter names another swarm.
    #[error(
        "the charter of {cluster} names another swarm, {swarm_id}: give this swarm a cluster name of its own (`--cluster`, or the tag skep:cluster)"
    )]
    OtherSwarm {
        /// Name of the cluster.
        cluster: String,
        /// Docker's id of the charter's swarm.
        swarm_id: String,
    },
    /// The swarm has another cluster's label.
    #[error(
        "this swarm is that of the cluster {cluster}, by its label skep.cluster: use that name, or remove the label if that cluster's skep does not use the swarm any more"
    )]
    OtherCluster {
        /// The label's value.
        cluster: String,
    },
    /// Another manager has claimed the charter.
    #[error(
        "{founder} has claimed the charter of this cluster, until {until}: wait, and run this command again"
    )]
    Claimed {
        /// Its instance id.
        founder: String,
        /// End of its lease, in UTC.
        until: String,
    },
    /// Managers of another swarm of this cluster are alive.
    #[error(
        "managers of another swarm of this cluster have written their rows just now ({ids}), although the charter is missing or closed: they write it again within a minute; see `skep status` there"
    )]
    Rivals {
        /// Their instance ids, separated by commas.
        ids: String,
    },
    /// Swarms that no charter names may live.
    #[error(
        "the ledger has rows of other swarms of this cluster ({swarms}) and no charter: a manager that lives writes the charter again, and if all are lost, a new manager of this cluster founds its next swarm; give this swarm a cluster name of its own"
    )]
    Traces {
        /// Docker's ids of the swarms, separated by commas.
        swarms: String,
    },
    /// Member rows cannot be read.
    #[error(
        "ledger rows cannot be read ({keys}), and may be those of managers of another swarm: repair them, or delete them if nothing needs them, and run this command again"
    )]
    UnreadableRows {
        /// Keys of the rows, separated by commas.
        keys: String,
    },
    /// There are conflicts that must be resolved first.
    #[error("resolve these conflicts first, and run this command again: {nodes}")]
    Conflicts {
        /// What they concern, separated by commas.
        nodes: String,
    },
    /// The claim failed: the charter was changed after it was read.
    #[error("another manager has just claimed the charter: run this command again")]
    Outrun,
}

/// Whether the swarm may be adopted here and now. Returns the generation.
///
/// # Errors
/// The reason against it.
pub fn decide(seen: &Observed) -> Result<u64, Refusal> {
    if seen.local.live_restore {
        return Err(Refusal::LiveRestore);
    }
    if seen.local.node_id.is_none() {
        return Err(Refusal::InNoSwarm);
    }
    if !seen.local.is_manager {
        return Err(Refusal::NotManager);
    }
    if seen.role != Role::Manager {
        return Err(Refusal::Worker);
    }
    let swarm = seen.swarm.as_ref().ok_or(Refusal::NoLeader)?;
    let generation = of_charter(seen, &swarm.cluster.id)?;
    if let Some(cluster) = swarm.cluster.labels.get(CLUSTER_LABEL)
        && *cluster != seen.cluster
    {
        return Err(Refusal::OtherCluster { cluster: cluster.clone() });
    }
    if !seen.unreadable.is_empty() {
        return Err(Refusal::UnreadableRows { keys: joined(&seen.unreadable) });
    }
    if !seen.rivals.is_empty() {
        return Err(Refusal::Rivals { ids: joined(&seen.rivals) });
    }
    // A claim without a charter would give these swarms up, and their nodes would leave them.
    if seen.charter.is_none() && !seen.traces.swarms.is_empty() {
        return Err(Refusal::Traces { swarms: joined(&seen.traces.swarms) });
    }
    let blocking = conflicts(seen, swarm).into_iter().filter(|it| it.blocks);
    let nodes: BTreeSet<String> = blocking.map(|it| it.subject).collect();
    if nodes.is_empty() {
        Ok(generation)
    } else {
        Err(Refusal::Conflicts { nodes: joined(&nodes) })
    }
}

/// Returns the generation under which the charter lets this swarm be published.
fn of_charter(seen: &Observed, swarm_id: &str) -> Result<u64, Refusal> {
    let next = |charter: u64| charter.max(seen.traces.highest) + 1;
    let Some(charter) = &seen.charter else { return Ok(next(0)) };
    match charter.phase {
        CharterPhase::Open if charter.swarm_id.as_deref() == Some(swarm_id) => {
            Err(Refusal::Adopted { generation: charter.generation })
        }
        CharterPhase::Open => Err(Refusal::OtherSwarm {
            cluster: seen.cluster.clone(),
            swarm_id: charter.swarm_id.clone().unwrap_or_default(),
        }),
        // An adoption that was cut off goes on under its own claim.
        CharterPhase::Founding if seen.own_claim().is_some() => Ok(charter.generation),
        _ if charter.is_claimable(seen.now) => Ok(next(charter.generation)),
        _ => Err(Refusal::Claimed {
            founder: charter.founder.clone(),
            until: in_utc(charter.lease_expires_at),
        }),
    }
}

/// Returns the plan, for the operator.
#[must_use]
pub fn plan(seen: &Observed, decision: &Result<u64, Refusal>) -> AdoptionPlan {
    let swarm = seen.swarm.as_ref();
    AdoptionPlan {
        cluster: seen.cluster.clone(),
        instance_id: seen.me.clone(),
        swarm_id: swarm.map(|swarm| swarm.cluster.id.clone()),
        generation: decision.as_ref().ok().copied(),
        nodes: swarm.map_or_else(Vec::new, describe),
        conflicts: swarm.map_or_else(Vec::new, |swarm| conflicts(seen, swarm)),
        refusal: decision.as_ref().err().map(ToString::to_string),
        steps: match (swarm, decision) {
            (Some(swarm), Ok(generation)) => steps(seen, swarm, *generation),
            _ => vec![],
        },
    }
}

fn steps(seen: &Observed, swarm: &SwarmSeen, generation: u64) -> Vec<String> {
    let cluster = &seen.cluster;
    let secrets = if swarm.cluster.is_autolocked {
        "the unlock key and the join tokens"
    } else {
        "the join tokens"
    };
    vec![
        format!("the charter of {cluster} is claimed: no manager founds another swarm meanwhile"),
        format!(
            "the swarm gets the labels {CLUSTER_LABEL}={cluster}, {GENERATION_LABEL}={generation} and {ADOPTED_LABEL}=true"
        ),
        format!("{secrets} are stored in {}, for generation {generation}", seen.token_place),
        format!(
            "the charter opens as generation {generation}: nodes of this swarm take their place in the fleet as soon as skep starts on them, and new instances join"
        ),
        "no node, task, service or certificate is changed, and nobody is demoted".into(),
    ]
}

fn joined(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
