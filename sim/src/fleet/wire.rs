//! Sets the faults of one instance's wire: cut, isolated and slow, independent of each other.
//!
//! Guarantee: setting or ending one fault any number of times, in any order, leaves the others as they are. The wire is
//! always set as a whole, since the faults interact in the kernel: a link that is set down loses the route that an
//! isolated instance needs.

use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use super::netns::Namespace;
use crate::machines::SlowLink;

/// The faults of a wire; by default none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    pub cut: bool,
    /// Only the metadata and AWS are reachable.
    pub isolated: bool,
    pub slow: Option<SlowLink>,
}

#[derive(Debug, Default)]
struct State {
    faults: Faults,
    /// The last change failed, perhaps after a part of it.
    unsure: bool,
}

/// The wire of one instance.
#[derive(Debug)]
pub(crate) struct Wire {
    aws: Namespace,
    instance: Namespace,
    address: Ipv4Addr,
    state: Mutex<State>,
}

impl Wire {
    pub(crate) fn new(aws: &Namespace, instance: &Namespace, address: Ipv4Addr) -> Wire {
        Wire { aws: aws.clone(), instance: instance.clone(), address, state: Mutex::default() }
    }

    /// Changes the faults of the wire. It starts processes and blocks for some milliseconds; without a change it does
    /// nothing.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Faults)) -> anyhow::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, mut wanted) = (state.faults, state.faults);
        change(&mut wanted);
        let link = state.unsure || (wanted.cut, wanted.isolated) != (before.cut, before.isolated);
        let speed = state.unsure || wanted.slow != before.slow;
        state.unsure = true;
        if link {
            self.aws.set_link(self.address, !wanted.cut, wanted.isolated)?;
            // The gateway's MAC address depends on the isolation.
            self.instance.forget_neighbours()?;
        }
        if speed {
            self.aws.set_speed(&self.instance, self.address, wanted.slow)?;
        }
        *state = State { faults: wanted, unsure: false };
        Ok(())
    }
}
