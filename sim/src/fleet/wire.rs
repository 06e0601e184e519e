//! One instance's wire, and what is wrong with it on purpose: cut, isolated and slow, each by itself.
//!
//! Guarantee: setting or ending one of them any number of times, in any order, leaves the others as
//! they are. The wire is always set as a whole, since the kernel mixes them up: a link that goes
//! down loses the route that an isolated instance needs.

use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use super::netns::Namespace;
use crate::machines::SlowLink;

/// What is wrong with a wire; by default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    pub cut: bool,
    /// Nothing but the metadata and AWS is within reach.
    pub isolated: bool,
    pub slow: Option<SlowLink>,
}

#[derive(Debug, Default)]
struct State {
    faults: Faults,
    /// The last change failed, perhaps half-way.
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

    /// Changes what is wrong with the wire. Starts processes: it blocks for some milliseconds, and
    /// not at all when nothing changes.
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
