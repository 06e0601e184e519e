//! One node and what it talks to: what every phase is given.

use std::net::IpAddr;
use std::sync::Arc;

use time::OffsetDateTime;
use tokio::sync::Notify;

use crate::autoscaling::AutoScaling;
use crate::config::{JoinAvailability, Settings};
use crate::ecr::Ecr;
use crate::events::Events;
use crate::imds::Imds;
use crate::instance::{Instance, Membership, Role};
use crate::labels::{self, Wanted};
use crate::ledger::{Ledger, LedgerError, Member, MemberState};
use crate::secrets::TokenStore;
use crate::state::StateHandle;
use crate::swarm::{Availability, Swarm};

#[derive(Clone, Debug)]
pub struct Node {
    pub settings: Settings,
    pub instance: Instance,
    pub cluster: String,
    /// What this node is to be.
    pub role: Role,
    /// What it advertises: private, always.
    pub address: IpAddr,
    /// Which start of the machine this is.
    pub boot_id: String,
    pub imds: Imds,
    pub swarm: Swarm,
    pub ledger: Ledger,
    pub autoscaling: AutoScaling,
    pub ecr: Ecr,
    pub tokens: TokenStore,
    pub state: StateHandle,
    /// Who tells others what happens to it.
    pub events: Events,
    /// This node has claimed to re-create the quorum: what it serves ends for that. The claim says
    /// it, too, a little later.
    pub recovery_begun: Arc<Notify>,
    /// The ledger has no row of this node, although it serves: to be written again.
    pub row_lost: Arc<Notify>,
}

impl Node {
    /// What Docker is asked to make of this node when it comes into the swarm.
    #[must_use]
    pub fn join_availability(&self) -> Availability {
        match self.settings.swarm.join_availability {
            JoinAvailability::Active => Availability::Active,
            JoinAvailability::Pause => Availability::Pause,
        }
    }

    /// The Auto Scaling group, by the settings or by the instance's tags; `None` where neither says.
    #[must_use]
    pub fn group(&self) -> Option<&String> {
        self.settings.autoscaling.group.as_ref().or(self.instance.group.as_ref())
    }

    /// The labels that managers are to set.
    #[must_use]
    pub fn wanted_labels(&self) -> Wanted {
        let group = self.group().map(String::as_str);
        labels::wanted(&self.instance, group, &self.settings.labels)
    }

    /// Writes this node's own row, as it is now.
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
        row.quiet = self.state.now().quiet;
        row.joined_paused = self.join_availability() == Availability::Pause;
        row.serves_as = Some(membership.role);
        // A node that leaves does not wait for Docker.
        if state == MemberState::Ready {
            let local = self.swarm.fetch_local_node().await.ok();
            row.serves_as = local.as_ref().map(|local| local.role());
            row.has_leader = membership.role == Role::Manager
                && local.is_some_and(|local| local.is_manager && local.is_sound());
        }
        self.ledger.put_member(&row).await.map(drop)
    }
}

#[cfg(test)]
impl Node {
    /// The example instance, a manager of `prod`, with this Docker and these AWS services.
    pub(crate) async fn example(swarm: Swarm, aws: &crate::aws::stub::Stub) -> Self {
        let state = StateHandle::default();
        let settings = Settings {
            cluster: Some("prod".to_owned()),
            role: Some(Role::Manager),
            ..Settings::default()
        };
        crate::agent::introduce(
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
