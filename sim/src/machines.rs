//! Defines the orders to machines: the interface between [`crate::cloud`], which models lifecycles, and
//! [`crate::fleet`] or [`crate::booted`], which run the machines.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// One instance to start, as a launch template and a subnet would describe it.
#[derive(Clone, Debug)]
pub struct Launch {
    /// `i-` and 17 hexadecimal digits.
    pub instance_id: String,
    /// The private address that the cloud assigned; the metadata service identifies the instance by it.
    pub private_address: Ipv4Addr,
    pub zone: String,
    pub group: String,
    pub image_id: String,
    /// Instance tags, `aws:*` ones included.
    pub tags: BTreeMap<String, String>,
}

/// A failure that an operator injects into a machine, or its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disturbance {
    /// Disconnects the machine from the other machines. Metadata and AWS stay reachable.
    Isolate,
    /// Disconnects the machine from everything: metadata and AWS are unreachable, too.
    Cut,
    Slow(SlowLink),
    /// Ends all of the above, and continues stopped programs.
    Mend,
    /// SIGKILL; the supervisor starts the program again, as on a real instance.
    Kill(Program),
    /// SIGSTOP.
    Stop(Program),
    /// SIGCONT.
    Cont(Program),
}

/// A bandwidth limit of a machine's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowLink {
    /// Thousand bits per second, in each direction.
    pub kbit_per_s: u32,
    /// The longest time that a packet waits; a packet that would wait longer is dropped.
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

/// The result of a script.
#[derive(Clone, Debug)]
pub struct Executed {
    /// The exit code; -1 if there is none.
    pub code: i32,
    /// The standard output.
    pub out: String,
}

/// The machines of one run.
///
/// Calls return when the work has started; the cloud never waits for a boot to end.
pub trait Machines: Send + Sync + 'static {
    /// Starts the machine.
    fn launch(&self, launch: Launch);
    /// Shuts the machine down and keeps its disk: it has the same address when it starts again. This method, `start`
    /// and `terminate` ignore unknown ids.
    fn stop(&self, instance_id: &str);
    /// Boots a machine that was stopped.
    fn start(&self, instance_id: &str);
    /// Powers the machine off and deletes it.
    fn terminate(&self, instance_id: &str);
    /// Powers the machine off, deletes its disk and boots it from the image, with the same id and address. When the
    /// machine is on again, or could not be, it calls [`crate::cloud::Cloud::root_volume_is_replaced`]. Machines
    /// without a disk do nothing: their root volume is never replaced.
    fn replace_root_volume(&self, _instance_id: &str, _image_id: &str) {}
    /// Makes an image of the disk of a machine that is off, and reports to the cloud when it is done. Machines without
    /// a disk make no image: it stays pending.
    fn create_image(&self, _instance_id: &str, _image_id: &str) {}
    /// Runs a script as root. `None`: there is no such machine, it is off, or it has nothing that receives commands.
    fn execute(&self, _instance_id: &str, _script: String) -> Option<oneshot::Receiver<Executed>> {
        None
    }
    /// Injects a failure into a machine, or ends it. Blocks for some milliseconds.
    ///
    /// # Errors
    ///
    /// When there is no such machine, when it is off, or when it does not support the failure.
    fn disturb(&self, instance_id: &str, what: Disturbance) -> anyhow::Result<()>;
}
