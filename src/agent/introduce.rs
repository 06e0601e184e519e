//! From facts and settings to a [`Node`]: who this is, and whom it talks to.

use std::sync::Arc;

use super::RunError;
use crate::aws::Aws;
use crate::config::{Settings, TokenStore as Store, identity::Identity};
use crate::events::Events;
use crate::imds::Imds;
use crate::instance::Instance;
use crate::ledger::Ledger;
use crate::node::Node;
use crate::secrets::TokenStore;
use crate::state::StateHandle;
use crate::swarm::Swarm;
use crate::systemd;

/// # Errors
/// When neither settings nor tags say which cluster this is and what the node is to be.
pub fn introduce(
    settings: &Settings,
    instance: Instance,
    imds: Imds,
    swarm: Swarm,
    aws: &Aws,
    state: &StateHandle,
    events: &Events,
) -> Result<Node, RunError> {
    let resolved = Identity::resolve(settings, &instance);
    state.update(|state| state.instance = Some(instance.clone()));
    let Identity { cluster, role } = resolved.map_err(RunError::Identity)?;
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
    let ledger = Ledger::new(aws.dynamodb.clone(), &settings.table, &cluster);
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
        ecr: aws.ecr.clone(),
        tokens,
        state: state.clone(),
        events: events.clone(),
        recovery_begun: Arc::default(),
        row_lost: Arc::default(),
    })
}
