//! What Auto Scaling asks of EC2: the seam between [`crate::cloud`], which knows lifecycles, and
//! [`crate::fleet`] or [`crate::booted`], which run the machines.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// One instance to start, as a launch template and a subnet would describe it.
#[derive(Clone, Debug)]
pub struct Launch {
    /// `i-` and 17 hexadecimal digits.
    pub instance_id: String,
    /// The private address that the cloud has given it; also how the metadata service knows it.
    pub private_address: Ipv4Addr,
    pub zone: String,
    pub group: String,
    pub image_id: String,
    /// Instance tags, `aws:*` ones included.
    pub tags: BTreeMap<String, String>,
}

/// A link that is narrower than it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowLink {
    /// Thousand bits per second, in each direction.
    pub kbit_per_s: u32,
    /// How long a packet may wait for its turn; one that would wait longer is dropped.
    pub queue: Duration,
}

/// The machines of one run.
///
/// Calls return once the work is under way; the cloud never waits for a boot to end.
pub trait Machines: Send + Sync + 'static {
    /// Starts the machine.
    fn launch(&self, launch: Launch);
    /// Shuts the machine down and keeps its disk: it has the same address when it starts again.
    /// Unknown ids are ignored, here and below.
    fn stop(&self, instance_id: &str);
    /// Boots a machine that was stopped.
    fn start(&self, instance_id: &str);
    /// Powers the machine off for good and throws it away.
    fn terminate(&self, instance_id: &str);
    /// Keeps the disk of a machine that is off as an image, and tells the cloud when that is done.
    /// Of machines without a disk there is no image: it stays pending.
    fn create_image(&self, _instance_id: &str, _image_id: &str) {}
}
