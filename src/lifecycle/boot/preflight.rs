//! Checks the clock and the address, before skep sends a request to the ledger or the swarm.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::decide::Refusal;
use crate::common::state::Phase;
use crate::lifecycle::notices::Notices;
use crate::node::Node;

/// AWS refuses requests that are 300 s off; the metadata's Date has whole seconds.
const CLOCK_TOLERANCE_SECONDS: u64 = 240;

/// How long a wrong clock may take to be set: chrony and timesyncd do that within about ten seconds of their start,
/// which may be later than skep's, and after a boot without network even later.
const CLOCK_GRACE: Duration = Duration::from_secs(60);
/// Time between two checks of the clock; the watch reads the metadata every `notices.interval`, and each answer has a
/// date.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);

/// Waits for a correct clock, and checks the address. A notice ends the wait; the boot then acts on it.
///
/// # Errors
/// When the clock or the address is wrong.
pub async fn check(node: &Node, notices: &Notices, deadline: Instant) -> Result<(), Refusal> {
    let deadline = deadline.min(Instant::now() + CLOCK_GRACE);
    let offset = || node.imds.clock_offset();
    let say = |doing: String| node.state.enter(Phase::Booting, doing);
    tokio::select! {
        biased;
        _ = notices.given() => {}
        set = await_clock(offset, deadline, say) => set?,
    }
    check_address(node.address)
}

/// Waits until the clock is right.
async fn await_clock(
    offset: impl Fn() -> Option<time::Duration>,
    deadline: Instant,
    say: impl Fn(String),
) -> Result<(), Refusal> {
    let mut is_said = false;
    loop {
        match check_clock(offset()) {
            Ok(()) => return Ok(()),
            Err(refusal) if Instant::now() + CLOCK_INTERVAL >= deadline => return Err(refusal),
            // Reported once, because the number changes.
            Err(refusal) if !is_said => {
                say(format!("waiting for the clock to be set: {refusal}"));
                is_said = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(CLOCK_INTERVAL).await;
    }
}

/// Checks the offset of the clock; an offset that was not measured is accepted.
///
/// # Errors
/// When the clock is so far off that AWS refuses requests with its dates.
pub fn check_clock(offset: Option<time::Duration>) -> Result<(), Refusal> {
    let seconds = offset.map_or(0, time::Duration::whole_seconds);
    if seconds.unsigned_abs() > CLOCK_TOLERANCE_SECONDS {
        let direction = if seconds > 0 { "ahead of" } else { "behind" };
        return Err(Refusal::ClockOff { seconds: seconds.unsigned_abs(), direction });
    }
    Ok(())
}

/// Checks that the address is one of this host's.
///
/// # Errors
/// When no interface of this host has the address.
pub fn check_address(address: IpAddr) -> Result<(), Refusal> {
    if is_on_host(address) { Ok(()) } else { Err(Refusal::AddressNotHere { address }) }
}

fn is_on_host(address: IpAddr) -> bool {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        // A failure to list the interfaces proves nothing; Docker reports a wrong address.
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
    use std::cell::RefCell;

    use super::*;

    /// Waits for a clock that is an hour off for `seconds`. Returns whether it was set, the seconds waited, and the
    /// number of reports.
    async fn clock_off_for(seconds: u64, deadline: Duration) -> (bool, u64, usize) {
        let (started, said) = (Instant::now(), RefCell::new(Vec::new()));
        let offset = || {
            let is_off = started.elapsed() < Duration::from_secs(seconds);
            Some(if is_off { -time::Duration::HOUR } else { time::Duration::ZERO })
        };
        let set = await_clock(offset, started + deadline, |doing| said.borrow_mut().push(doing));
        let is_set = set.await.is_ok();
        assert!(said.borrow().iter().all(|it| it.contains("3600 s behind")), "{said:?}");
        (is_set, started.elapsed().as_secs(), said.take().len())
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_being_set_is_waited_for_and_a_wrong_one_refused() {
        assert_eq!(clock_off_for(0, CLOCK_GRACE).await, (true, 0, 0));
        assert_eq!(clock_off_for(30, CLOCK_GRACE).await, (true, 30, 1));
        assert_eq!(clock_off_for(3600, CLOCK_GRACE).await, (false, 59, 1));
        let near = Duration::from_secs(8);
        assert_eq!(clock_off_for(3600, near).await, (false, 7, 1), "the boot's deadline is nearer");
    }

    #[test]
    fn only_addresses_of_this_host_are_here() {
        assert!(is_on_host(IpAddr::from([127, 0, 0, 1])));
        assert!(!is_on_host(IpAddr::from([192, 0, 2, 1])));
    }
}
