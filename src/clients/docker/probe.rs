//! Finds a manager that listens: a dead address must cost milliseconds and not Docker's 20 s.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::TcpStream;

use super::SWARM_PORT;

/// Time limit of one probe. A manager in the same region answers within milliseconds; this limit is for dropped
/// packets.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Number of managers that are probed at once. More than seven managers are of no use to a swarm.
const PROBED_AT_ONCE: usize = 8;

/// Returns the first address that accepts a connection on [`SWARM_PORT`]. Probes one batch after another: the ledger
/// may still have rows of managers that died, and any number of them must not hide a live one.
pub async fn first_listening(addresses: &[IpAddr]) -> Option<IpAddr> {
    for batch in addresses.chunks(PROBED_AT_ONCE) {
        let found = probe_batch(batch).await;
        if found.is_some() {
            return found;
        }
    }
    None
}

/// Probes all addresses at once, the preferred ones a little earlier.
async fn probe_batch(addresses: &[IpAddr]) -> Option<IpAddr> {
    const HEAD_START: Duration = Duration::from_millis(20);
    let mut probes: FuturesUnordered<_> = addresses
        .iter()
        .zip(0u32..)
        .map(|(address, rank)| async move {
            tokio::time::sleep(HEAD_START * rank).await;
            let connect = TcpStream::connect(SocketAddr::new(*address, SWARM_PORT));
            matches!(tokio::time::timeout(PROBE_TIMEOUT, connect).await, Ok(Ok(_)))
                .then_some(*address)
        })
        .collect();
    while let Some(outcome) = probes.next().await {
        if outcome.is_some() {
            return outcome;
        }
    }
    None
}
