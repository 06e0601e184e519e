//! One node and what it talks to: what every phase is given.

use std::net::IpAddr;

use time::OffsetDateTime;

use crate::autoscaling::AutoScaling;
use crate::config::Settings;
use crate::imds::Imds;
use crate::instance::{Instance, Membership, Role};
use crate::ledger::{Ledger, LedgerError, Member, MemberState};
use crate::secrets::TokenStore;
use crate::state::StateHandle;
use crate::swarm::Swarm;

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
    pub tokens: TokenStore,
    pub state: StateHandle,
}

impl Node {
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
        self.ledger.put_member(&row).await.map(drop)
    }
}
