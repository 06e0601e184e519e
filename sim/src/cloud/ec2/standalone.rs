//! One instance, as EC2 shows it.

use std::net::Ipv4Addr;

use crate::cloud::autoscaling::Instance;
use crate::cloud::errors::ApiError;

/// The root device of Debian's images.
pub(super) const ROOT_DEVICE: &str = "/dev/xvda";

/// An instance's state, and the number that EC2 gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    Running,
    Stopping,
    Stopped,
    Terminated,
}

impl Power {
    pub fn describe(self) -> (u8, &'static str) {
        match self {
            Self::Running => (16, "running"),
            Self::Terminated => (48, "terminated"),
            Self::Stopping => (64, "stopping"),
            Self::Stopped => (80, "stopped"),
        }
    }
}

/// An instance that belongs to no group.
pub(super) struct Standalone {
    pub instance: Instance,
    pub power: Power,
    pub key_name: Option<String>,
    pub security_groups: Vec<String>,
}

impl Standalone {
    pub fn has_metadata(&self, address: Ipv4Addr) -> bool {
        self.address() == Some(address)
    }

    /// Returns the address, which EC2 takes back from a terminated instance.
    pub fn address(&self) -> Option<Ipv4Addr> {
        (self.power != Power::Terminated).then_some(self.instance.address)
    }
}

pub(super) fn unknown(id: &str) -> ApiError {
    let message = format!("The instance ID '{id}' does not exist");
    ApiError::new(400, "InvalidInstanceID.NotFound", message)
}
