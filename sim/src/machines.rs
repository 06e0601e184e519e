//! What Auto Scaling asks of EC2: the seam between [`crate::cloud`], which knows lifecycles, and
//! [`crate::fleet`] or [`crate::booted`], which run the machines.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

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

/// What an operator does to a machine to rehearse trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disturbance {
    /// Cuts it off from the other machines. The metadata and AWS stay within reach.
    Isolate,
    /// Cuts its wire: metadata and AWS are out of reach, too.
    Cut,
    Slow(SlowLink),
    /// Ends all that is above, and continues programs that were stopped.
    Mend,
    /// SIGKILL; the program is started again as on a real instance.
    Kill(Program),
    /// SIGSTOP.
    Stop(Program),
    /// SIGCONT.
    Cont(Program),
}

/// A link that is narrower than it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowLink {
    /// Thousand bits per second, in each direction.
    pub kbit_per_s: u32,
    /// How long a packet may wait for its turn; one that would wait longer is dropped.
    pub queue: Duration,
}

/// A program that a machine runs under supervision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    Skep,
    Dockerd,
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Program::Skep => "skep",
            Program::Dockerd => "dockerd",
        })
    }
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
    /// Makes trouble for a machine, or ends it. Blocks for some milliseconds.
    ///
    /// # Errors
    ///
    /// Says why it cannot be done: there is no such machine, it is off, or it does not support it.
    fn disturb(&self, instance_id: &str, what: Disturbance) -> anyhow::Result<()>;
}
