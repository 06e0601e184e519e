//! Creates a [`Node`] from facts and settings: its identity and its clients.

use std::sync::Arc;

use thiserror::Error;

use super::{DepartedLog, DepartureHints, InService, KnownInstances, Node};
use crate::clients::aws::Aws;
use crate::clients::docker::Swarm;
use crate::clients::imds::Imds;
use crate::clients::ledger::Ledger;
use crate::clients::secrets::TokenStore;
use crate::clients::systemd;
use crate::common::instance::Instance;
use crate::common::state::StateHandle;
use crate::config::{Mistakes, Settings, TokenStore as Store, identity::Identity};
use crate::telemetry::notifications::Events;

/// Why a [`Node`] could not be created.
#[derive(Debug, Error)]
pub enum AssembleError {
    /// The cluster or the role is missing or wrong.
    #[error("{0}")]
    Identity(Mistakes),
    /// The kernel's boot id cannot be read from `/proc`.
    #[error("cannot read the machine's boot id")]
    BootId(#[from] std::io::Error),
}

/// Creates the [`Node`] from the settings, the instance and the clients.
///
/// # Errors
/// When neither settings nor tags name the cluster and the role, or the boot id cannot be read.
pub fn assemble(
    settings: &Settings,
    instance: Instance,
    imds: Imds,
    swarm: Swarm,
    aws: &Aws,
    state: &StateHandle,
    events: &Events,
) -> Result<Node, AssembleError> {
    let resolved = Identity::resolve(settings, &instance);
    state.update(|state| state.instance = Some(instance.clone()));
    let Identity { cluster, role } = resolved.map_err(AssembleError::Identity)?;
    state.update(|state| {
        state.cluster = Some(cluster.clone());
        state.role = Some(role);
    });
    tracing::info!(
        instance = instance.id,
        zone = instance.zone,
        address = %instance.private_address,
        cluster,
        %role,
        "this node"
    );
    let ledger = Ledger::new(aws.dynamodb.clone(), &settings.table, &cluster, &instance.arn);
    let tokens = match settings.tokens.store {
        Store::Ssm => TokenStore::Ssm {
            client: aws.ssm.clone(),
            path: format!("{}/{cluster}", settings.tokens.path.trim_end_matches('/')),
            kms_key: settings.tokens.kms_key.clone(),
        },
        Store::Dynamodb => {
            TokenStore::DynamoDb { ledger: ledger.clone(), cluster: cluster.clone() }
        }
    };
    Ok(Node {
        settings: settings.clone(),
        address: settings.swarm.advertise_address.unwrap_or(instance.private_address),
        instance,
        cluster,
        role,
        boot_id: systemd::boot_id()?,
        imds,
        swarm,
        ledger,
        autoscaling: aws.autoscaling.clone(),
        cloudwatch: aws.cloudwatch.clone(),
        ec2: aws.ec2.clone(),
        ecr: aws.ecr.clone(),
        s3: aws.s3.clone(),
        tokens,
        state: state.clone(),
        events: events.clone(),
        known_instances: KnownInstances::default(),
        in_service: InService::default(),
        departure_hints: DepartureHints::default(),
        departed: DepartedLog::default(),
        recovery_begun: Arc::default(),
        row_lost: Arc::default(),
    })
}
