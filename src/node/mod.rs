//! Defines the node with its settings and clients, which every phase receives.

mod assemble;
mod departed;
mod departure_hints;
mod in_service;
mod known_instances;
mod publish;
mod unlock;

use std::net::IpAddr;
use std::sync::Arc;

use thiserror::Error;
use time::OffsetDateTime;
use tokio::sync::Notify;

use crate::clients::aws::autoscaling::AutoScaling;
use crate::clients::aws::cloudwatch::CloudWatch;
use crate::clients::aws::ec2::Ec2;
use crate::clients::aws::ecr::Ecr;
use crate::clients::aws::s3::S3;
use crate::clients::docker::{Availability, LocalNode, Swarm, SwarmError};
use crate::clients::imds::Imds;
use crate::clients::ledger::{Ledger, LedgerError, Member, MemberState};
use crate::clients::secrets::{MalformedToken, SecretsError, TokenStore};
use crate::common::instance::{Instance, Membership, Role};
use crate::common::labels::{self, Wanted};
use crate::common::state::StateHandle;
use crate::config::{JoinAvailability, Settings};
use crate::telemetry::notifications::Events;

pub use assemble::{AssembleError, assemble};
pub use departed::DepartedLog;
pub use departure_hints::{DEPARTURES_PATH, DepartureHints};
pub use in_service::{InService, Listed};
pub use known_instances::KnownInstances;
pub use publish::{publish_again, store};
pub use unlock::{Unlocking, unlock};

/// An operation on several of a node's clients failed.
#[derive(Debug, Error)]
pub enum NodeError {
    /// A request to the ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A request to the secret store failed.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// A request to Docker failed.
    #[error(transparent)]
    Swarm(#[from] SwarmError),
    /// Docker returned a text that cannot be a join token.
    #[error("Docker returned a malformed join token")]
    Token(#[from] MalformedToken),
}

/// This node with its settings and its clients.
#[derive(Clone, Debug)]
pub struct Node {
    /// For each setting the value in force.
    pub settings: Settings,
    /// Facts of the instance metadata, as skep read them at its start.
    pub instance: Instance,
    /// Name of the cluster, from the settings or the metadata.
    pub cluster: String,
    /// Configured role.
    pub role: Role,
    /// Advertised address; always private.
    pub address: IpAddr,
    /// Identifies this start of the machine.
    pub boot_id: String,
    /// Client of the instance metadata service.
    pub imds: Imds,
    /// Client of Docker on this host.
    pub swarm: Swarm,
    /// Client of the cluster's rows in DynamoDB.
    pub ledger: Ledger,
    /// Client of EC2 Auto Scaling.
    pub autoscaling: AutoScaling,
    /// Client of CloudWatch.
    pub cloudwatch: CloudWatch,
    /// Client of EC2, which knows the addresses of instances.
    pub ec2: Ec2,
    /// Client of Amazon ECR, for the credentials with which Docker pulls.
    pub ecr: Ecr,
    /// Client of S3, for backups.
    pub s3: S3,
    /// Store of the join tokens and the unlock keys, by the setting `tokens.store`.
    pub tokens: TokenStore,
    /// The node's present state, for all who write or watch it.
    pub state: StateHandle,
    /// Sends the node's events to hook scripts and the webhook.
    pub events: Events,
    /// Notified when this node has claimed to re-create the quorum: serving ends then. The claim in the ledger
    /// shows the same a little later.
    pub recovery_begun: Arc<Notify>,
    /// Instances of the cluster that this node has seen, as a manager.
    pub known_instances: KnownInstances,
    /// Instances that Auto Scaling has in service, as this manager's duties have read them last.
    pub in_service: InService,
    /// What other nodes say about departures that they have just requested.
    pub departure_hints: DepartureHints,
    /// The departures of the last day that this node has seen to be over, as a manager.
    pub departed: DepartedLog,
    /// Notified when the ledger has no row of this node although it serves: the row must be written again.
    pub row_lost: Arc<Notify>,
}

impl Node {
    /// Returns the availability with which this node joins the swarm.
    #[must_use]
    pub fn join_availability(&self) -> Availability {
        match self.settings.swarm.join_availability {
            JoinAvailability::Active => Availability::Active,
            JoinAvailability::Pause => Availability::Pause,
        }
    }

    /// Returns the Auto Scaling group from the settings or from the instance's tags; `None` if neither names it.
    #[must_use]
    pub fn group(&self) -> Option<&String> {
        self.settings.autoscaling.group.as_ref().or(self.instance.group.as_ref())
    }

    /// Returns the labels that managers must set.
    #[must_use]
    pub fn wanted_labels(&self) -> Wanted {
        labels::wanted(&self.instance.tags, &self.settings.labels)
    }

    /// Writes this node's own row with its present state.
    ///
    /// # Errors
    /// When the ledger fails.
    pub async fn record_member(
        &self,
        membership: &Membership,
        state: MemberState,
    ) -> Result<(), LedgerError> {
        let now = OffsetDateTime::now_utc();
        let mut row = Member::new(&self.instance, membership, self.role, state, now);
        row.address = self.address;
        row.group = self.group().cloned();
        row.labels = self.wanted_labels().labels;
        row.scheduling_hold = self.state.now().scheduling_hold;
        row.joined_paused = self.join_availability() == Availability::Pause;
        row.serves_as = Some(membership.role);
        // A node that leaves must not wait for Docker.
        if state == MemberState::Ready {
            let local = self.swarm.fetch_local_node().await.ok();
            row.serves_as = local.as_ref().map(LocalNode::role);
            row.has_leader = membership.role == Role::Manager
                && local.is_some_and(|local| local.is_manager && local.is_sound());
        }
        self.ledger.put_member(&row).await.map(drop)
    }
}

#[cfg(test)]
impl Node {
    /// Returns the example instance, a manager of `prod`, with this Docker and these AWS services.
    pub(crate) async fn example(swarm: Swarm, aws: &crate::clients::aws::stub::Stub) -> Self {
        let state = StateHandle::default();
        let settings = Settings {
            cluster: Some("prod".to_owned()),
            role: Some(Role::Manager),
            ..Settings::default()
        };
        assemble(
            &settings,
            Instance::example(),
            Imds::new(&aws.endpoint).unwrap(),
            swarm,
            &aws.aws().await,
            &state,
            &Events::silent(&state),
        )
        .unwrap()
    }
}
