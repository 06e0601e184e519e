//! One instance, and the pool of the subnet's addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, ensure};
use time::OffsetDateTime;

use super::lifecycle::Lifecycle;
use crate::cloud::specs::{Maintenance, Market};

/// Number of addresses that AWS reserves at the start of every subnet: network, router, DNS, future use.
const RESERVED_AT_START: u32 = 4;

/// The credentials that the metadata hands out for the instance's role.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub role_name: String,
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: String,
}

#[derive(Clone, Debug)]
pub(crate) struct SpotNotice {
    pub action: String,
    /// The time of the interruption: in elapsed time here, and in `time` as the metadata shows it.
    pub due: Duration,
    pub time: OffsetDateTime,
}

#[derive(Clone, Debug)]
pub(crate) struct ScheduledEvent {
    pub id: String,
    pub maintenance: Maintenance,
    pub not_before: OffsetDateTime,
}

/// No `Debug`: it holds credentials.
#[derive(Clone)]
pub(crate) struct Instance {
    pub id: String,
    pub group: String,
    /// Position in the order of launches; scale-in takes the oldest instance first.
    pub sequence: u64,
    pub zone: String,
    pub address: Ipv4Addr,
    pub launched: Duration,
    pub instance_type: String,
    pub image_id: String,
    pub market: Market,
    pub user_data: Option<String>,
    pub credentials: Option<Credentials>,
    pub tags: BTreeMap<String, String>,
    pub metadata_tags: bool,
    pub lifecycle: Lifecycle,
    pub healthy: bool,
    /// Whether scale-in leaves it alone.
    pub protected: bool,
    pub spot: Option<SpotNotice>,
    pub rebalance: Option<OffsetDateTime>,
    pub maintenance: Vec<ScheduledEvent>,
    /// Index of its current scaling activity.
    pub activity: usize,
}

/// An instance that no group has any more.
pub(crate) struct Released(pub Box<Instance>);

impl fmt::Debug for Released {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The instance holds credentials.
        f.debug_tuple("Released").field(&self.0.id).finish()
    }
}

/// A subnet's addresses, assigned in turn so that a freed address stays unused for as long as possible: a swarm
/// remembers its peers by address.
#[derive(Clone, Debug)]
pub(crate) struct AddressPool {
    first: u32,
    size: u32,
    cursor: u32,
    used: BTreeSet<Ipv4Addr>,
}

impl AddressPool {
    pub fn new((network, prefix): (Ipv4Addr, u8)) -> anyhow::Result<Self> {
        ensure!(prefix <= 28, "a subnet must be /28 or larger, not /{prefix}");
        let hosts = 1u32
            .checked_shl(u32::from(32 - prefix))
            .context("a subnet cannot be all of the address space")?;
        let base = u32::from(network);
        ensure!(base & (hosts - 1) == 0, "{network}/{prefix} is not the address of a network");
        Ok(Self {
            first: base + RESERVED_AT_START,
            size: hosts - RESERVED_AT_START - 1,
            cursor: 0,
            used: BTreeSet::new(),
        })
    }

    pub fn take(&mut self) -> Option<Ipv4Addr> {
        for _ in 0..self.size {
            let address = Ipv4Addr::from(self.first + self.cursor);
            self.cursor = (self.cursor + 1) % self.size;
            if self.used.insert(address) {
                return Some(address);
            }
        }
        None
    }

    pub fn free(&mut self, address: Ipv4Addr) {
        self.used.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_rest_before_they_come_back() {
        let mut pool = AddressPool::new((Ipv4Addr::new(10, 78, 0, 0), 28)).unwrap();
        let first = pool.take().unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 78, 0, 4));
        pool.free(first);
        let rest: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(rest.len(), 11);
        assert_eq!(rest[0], Ipv4Addr::new(10, 78, 0, 5));
        assert_eq!(rest[10], first, "the freed address comes last");
        assert!(AddressPool::new((Ipv4Addr::new(10, 78, 0, 1), 24)).is_err());
        assert!(AddressPool::new((Ipv4Addr::new(10, 78, 0, 0), 30)).is_err());
    }
}
