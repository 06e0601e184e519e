//! Checks whether a worker's Docker can reach a manager of its swarm. Docker connects to the managers that it knows,
//! and learns of others only from those.
//!
//! Guarantees: [`Reach::Replaced`] needs four findings of one check. No manager that Docker knows accepts a connection
//! from this host; no manager at such an address has written its row lately; every manager's row can be read; and
//! another manager of the charter's generation accepts a connection and has a leader. A manager that only this host
//! cannot reach writes its row: the network may heal, and until then this node's tasks may serve. Without a leader no
//! node can join.
//!
//! Assumes that managers have managers' rows: a worker is not allowed to read the row of another worker that was
//! promoted by hand.

use std::collections::BTreeSet;
use std::net::IpAddr;

use time::OffsetDateTime;

use crate::clients::docker::LocalNode;
use crate::clients::ledger::{Charter, Ledger, LedgerError, Member, MemberState};
use crate::common::timing::MANAGER_ROW_IS_FRESH;
use crate::manager::peers::{is_led, is_ready_in};

/// Managers that a worker reaches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Not checked, or Docker lists no managers, or one whose address cannot be read.
    #[default]
    NotKnown,
    /// A manager that Docker knows listens.
    Open,
    /// None of `known` listens. This check cannot tell whether these managers are gone.
    Silent {
        /// Addresses of the managers that Docker on this host knows.
        known: BTreeSet<IpAddr>,
        /// Why skep does not count them as replaced.
        why: String,
    },
    /// None of `known` listens or has written its row lately, and another manager that has a leader listens.
    Replaced {
        /// Addresses of the managers that Docker on this host knows.
        known: BTreeSet<IpAddr>,
        /// Address of another manager that listens and has a leader.
        listening: IpAddr,
    },
}

/// Checks once. `probe` returns the first of the addresses that accepts a connection.
///
/// # Errors
/// When the ledger fails.
pub async fn look(
    ledger: &Ledger,
    me: &str,
    charter: &Charter,
    local: &LocalNode,
    probe: impl AsyncFn(&[IpAddr]) -> Option<IpAddr>,
) -> Result<Reach, LedgerError> {
    if local.is_manager || local.managers.is_empty() {
        return Ok(Reach::NotKnown);
    }
    if probe(&local.managers).await.is_some() {
        return Ok(Reach::Open);
    }
    let known: BTreeSet<IpAddr> = local.managers.iter().copied().collect();
    let now = OffsetDateTime::now_utc();
    let managers = ledger.survey_managers().await?;
    // A row that cannot be read may be any manager's.
    let unreadable = managers.unreadable.first().map(|item| format!("{item} cannot be read"));
    if let Some(why) = find_life(&managers.rows, charter, &known, now).or(unreadable) {
        return Ok(Reach::Silent { known, why });
    }
    let is_other = |row: &&Member| {
        let is_own = row.instance_id == me || known.contains(&row.address);
        !is_own && is_ready_in(row, charter) && is_led(row)
    };
    let others = managers.rows.iter().filter(is_other).map(|row| row.address);
    let others: Vec<IpAddr> = others.collect();
    Ok(match probe(&others).await {
        Some(listening) => Reach::Replaced { known, listening },
        None => {
            let why = "no other manager that has a leader listens".to_owned();
            Reach::Silent { known, why }
        }
    })
}

/// Names the manager that may be alive at one of the addresses that Docker knows, by a row that was written lately.
fn find_life(
    rows: &[Member],
    charter: &Charter,
    known: &BTreeSet<IpAddr>,
    now: OffsetDateTime,
) -> Option<String> {
    let may_manage = |row: &&Member| row.state != MemberState::Removed && row.may_be_in(charter);
    let is_fresh = |row: &&Member| now - row.updated_at < MANAGER_ROW_IS_FRESH;
    let mut living = rows.iter().filter(may_manage).filter(|row| known.contains(&row.address));
    let row = living.find(is_fresh)?;
    Some(format!(
        "{} at {} wrote its row within {MANAGER_ROW_IS_FRESH:?}",
        row.instance_id, row.address
    ))
}
