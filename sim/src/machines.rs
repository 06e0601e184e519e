//! What Auto Scaling asks of EC2: the seam between [`crate::cloud`], which knows lifecycles, and
//! [`crate::fleet`], which runs the machines.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// One instance to start, as a launch template and a subnet would describe it.
#[derive(Clone, Debug)]
pub struct Launch {
    /// `i-` and 17 hexadecimal digits.
    pub instance_id: String,
    /// The private address that the cloud has given it; also how the metadata service knows it.
    pub private_address: Ipv4Addr,
    pub zone: String,
    pub group: String,
    /// Instance tags, `aws:*` ones included.
    pub tags: BTreeMap<String, String>,
}

/// The machines of one run.
///
/// Calls return once the work is under way; the cloud never waits for a boot to end.
pub trait Machines: Send + Sync + 'static {
    /// Starts the machine.
    fn launch(&self, launch: Launch);
    /// Powers the machine off for good and throws it away. Unknown ids are ignored.
    fn terminate(&self, instance_id: &str);
}
