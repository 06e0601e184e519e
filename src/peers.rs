//! Other managers of the cluster, by their rows and by who listens.

use std::net::IpAddr;
use std::time::Duration;

use time::OffsetDateTime;

use crate::ledger::{Charter, LedgerError, Member, MemberState};
use crate::node::Node;
use crate::swarm::first_listening;

/// A manager writes its row once a minute; one that is older says nothing about its leader now.
const FRESH: Duration = Duration::from_secs(150);

/// Another manager of the charter's own generation that listens, and whose row will do: a place to
/// go to.
///
/// # Errors
/// When the ledger fails.
pub async fn find_manager(
    node: &Node,
    charter: &Charter,
    will_do: impl Fn(&Member) -> bool,
) -> Result<Option<IpAddr>, LedgerError> {
    let mut rows = node.ledger.fetch_managers().await?;
    rows.retain(|row| {
        will_do(row)
            && row.generation == charter.generation
            && row.instance_id != node.instance.id
            && row.state == MemberState::Ready
    });
    let addresses: Vec<IpAddr> = rows.iter().map(|row| row.address).collect();
    Ok(first_listening(&addresses).await)
}

/// Has this manager a leader, by what it has said a moment ago?
#[must_use]
pub fn is_led(row: &Member) -> bool {
    row.has_leader && (OffsetDateTime::now_utc() - row.updated_at).unsigned_abs() < FRESH
}
