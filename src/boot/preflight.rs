//! What can be known to be wrong before anything is asked of the ledger or the swarm.

use std::net::IpAddr;

use super::decide::Refusal;
use crate::node::Node;

/// AWS refuses requests that are 300 s off; the metadata's Date has whole seconds.
const CLOCK_TOLERANCE_SECONDS: u64 = 240;

/// # Errors
/// The first thing that is wrong.
pub fn check(node: &Node) -> Result<(), Refusal> {
    check_clock(node.imds.clock_offset())?;
    check_address(node.address)
}

/// What was not measured is not refused.
///
/// # Errors
/// The clock is so far off that AWS refuses what it dates.
pub fn check_clock(offset: Option<time::Duration>) -> Result<(), Refusal> {
    let seconds = offset.map_or(0, time::Duration::whole_seconds);
    if seconds.unsigned_abs() > CLOCK_TOLERANCE_SECONDS {
        let direction = if seconds > 0 { "ahead of" } else { "behind" };
        return Err(Refusal::ClockOff { seconds: seconds.unsigned_abs(), direction });
    }
    Ok(())
}

/// # Errors
/// No interface of this host has the address.
pub fn check_address(address: IpAddr) -> Result<(), Refusal> {
    if is_on_host(address) { Ok(()) } else { Err(Refusal::AddressNotHere { address }) }
}

fn is_on_host(address: IpAddr) -> bool {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        // Not being able to look proves nothing; Docker will say.
        return true;
    };
    interfaces
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
        })
        .any(|it| it == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_host_are_here() {
        assert!(is_on_host(IpAddr::from([127, 0, 0, 1])));
        assert!(!is_on_host(IpAddr::from([192, 0, 2, 1])));
    }
}
