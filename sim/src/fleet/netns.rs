//! Manages named network namespaces, and the wires between them.
//!
//! One "AWS" namespace per run holds the bridge, the metadata address and the AWS endpoint; every
//! instance has a namespace of its own with one veth into that bridge. The root namespace is never
//! changed, so runs with the same subnet can run at the same time.

use std::fs::{self, File};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::cloud::mac_address;
use crate::machines::SlowLink;

/// The directory in which `ip netns` keeps its names.
const NAMES: &str = "/run/netns";
/// The metadata service's address on every EC2 network.
pub const METADATA_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Time after which a connection has failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The bridge of the AWS namespace.
const BRIDGE: &str = "br0";
/// Fixed: otherwise a bridge takes the lowest address of its ports, and instances that have cached an older address
/// lose their connection when an instance is plugged or unplugged.
const BRIDGE_MAC: &str = "02:00:0a:4e:00:01";
/// The only interface of an instance, named as on a Nitro instance.
pub const INTERFACE: &str = "ens5";

/// A named network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Creates the namespace; it exists until [`Namespace::delete`].
    pub(crate) fn create(name: &str) -> anyhow::Result<Namespace> {
        ip(&["netns", "add", name])?;
        Ok(Namespace::named(name))
    }

    /// A namespace by name, whether it exists or not.
    pub(crate) fn named(name: &str) -> Namespace {
        Namespace { name: name.to_owned() }
    }

    /// The namespaces whose name starts with `prefix`.
    pub(crate) fn with_prefix(prefix: &str) -> Vec<Namespace> {
        let Ok(names) = fs::read_dir(NAMES) else { return Vec::new() };
        names
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(prefix))
            .map(|name| Namespace { name })
            .collect()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new(NAMES).join(&self.name)
    }

    /// Removes the name; the kernel drops the namespace with its last process. This does the same as `ip netns del`,
    /// without starting a process. Repeating it does nothing.
    pub(crate) fn delete(&self) -> anyhow::Result<()> {
        let path = self.path();
        if !path.exists() {
            return Ok(());
        }
        umount2(&path, MntFlags::MNT_DETACH).ok();
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// Listens inside the namespace: a short-lived thread enters it and binds, and the socket stays there.
    pub(crate) fn listen(&self, address: SocketAddr) -> anyhow::Result<TcpListener> {
        let file = File::open(self.path())?;
        let bind = move || -> anyhow::Result<TcpListener> {
            setns(file, CloneFlags::CLONE_NEWNET)?;
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        match std::thread::spawn(bind).join() {
            Ok(listener) => {
                listener.with_context(|| format!("cannot listen on {address} in {}", self.name))
            }
            Err(_) => bail!("the thread that listens on {address} in {} panicked", self.name),
        }
    }

    /// Runs a future to its end inside the namespace: on a thread of its own, in an async runtime of its own. The
    /// future ends early when `stop` is cancelled; `None` stands for that.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        stop: CancellationToken,
        future: impl Future<Output = T> + Send + 'static,
    ) -> anyhow::Result<oneshot::Receiver<Option<T>>> {
        let file = File::open(self.path())?;
        let (tell, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = move || -> anyhow::Result<()> {
            setns(file, CloneFlags::CLONE_NEWNET)?;
            // Nobody waits any more when the caller is gone.
            let _ = tell.send(runtime.block_on(stop.run_until_cancelled_owned(future)));
            Ok(())
        };
        let name = self.name.clone();
        std::thread::spawn(move || {
            if let Err(error) = run() {
                tracing::error!("cannot work in {name}: {error:#}");
            }
        });
        Ok(ended)
    }

    /// Connects from inside the namespace: a short-lived thread enters it and connects, and the socket stays there.
    pub(crate) async fn dial(&self, address: SocketAddr) -> anyhow::Result<TcpStream> {
        let file = File::open(self.path())?;
        let connect = move || -> anyhow::Result<std::net::TcpStream> {
            setns(file, CloneFlags::CLONE_NEWNET)?;
            let stream = std::net::TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        let (tell, connected) = oneshot::channel();
        // Not a thread of the runtime's pool: that one must stay where it is.
        std::thread::spawn(move || tell.send(connect()));
        let stream = connected.await.context("the thread that connects panicked")?;
        let context = || format!("cannot connect to {address} in {}", self.name);
        Ok(TcpStream::from_std(stream.with_context(context)?)?)
    }

    /// Makes this the AWS side of a run: bridge, gateway address and metadata address.
    pub(crate) fn become_aws(&self, gateway: Ipv4Addr, prefix: u8) -> anyhow::Result<()> {
        self.ip_batch(&format!(
            "link set lo up\n\
             addr add {METADATA_ADDRESS}/32 dev lo\n\
             link add {BRIDGE} address {BRIDGE_MAC} type bridge\n\
             addr add {gateway}/{prefix} dev {BRIDGE}\n\
             link set {BRIDGE} up\n"
        ))
    }

    /// Adds an address to the AWS side.
    pub(crate) fn add_address(&self, address: Ipv4Addr) -> anyhow::Result<()> {
        self.ip_batch(&format!("addr add {address}/32 dev {BRIDGE}\n"))
    }

    /// Makes this the only computer of its network, with many addresses of its own. A connection to one of them comes
    /// from the same one.
    pub(crate) fn become_host(
        &self,
        addresses: impl Iterator<Item = Ipv4Addr>,
    ) -> anyhow::Result<()> {
        let mut commands = "link set lo up\n".to_owned();
        for address in addresses {
            commands.push_str(&format!("addr add {address}/32 dev lo\n"));
        }
        self.ip_batch(&commands)
    }

    /// Plugs an instance in. There is no default route: a connection to any address outside this run is refused at
    /// once instead of hanging.
    pub(crate) fn plug(
        &self,
        instance: &Namespace,
        address: Ipv4Addr,
        gateway: Ipv4Addr,
        prefix: u8,
    ) -> anyhow::Result<()> {
        self.connect(instance, address)?;
        instance.ip_batch(&format!(
            "link set lo up\n\
             addr add {address}/{prefix} dev {INTERFACE}\n\
             link set {INTERFACE} up\n\
             route add {METADATA_ADDRESS}/32 via {gateway}\n"
        ))
    }

    /// Gives an instance its wire, with the hardware address that the metadata returns. It has no IP address yet: an
    /// instance that boots requests one.
    pub(crate) fn connect(&self, instance: &Namespace, address: Ipv4Addr) -> anyhow::Result<()> {
        let (veth, mac) = (veth(address), mac_address(address));
        self.ip_batch(&format!(
            "link add {veth} type veth peer name {INTERFACE} address {mac} netns {}\n\
             link set {veth} master {BRIDGE} up\n",
            instance.name
        ))
    }

    /// Removes an instance's wire, if it has one.
    pub(crate) fn unplug(&self, address: Ipv4Addr) {
        ip(&["-n", &self.name, "link", "del", &veth(address)]).ok();
    }

    /// Cuts or mends an instance's wire, and connects it with all instances or, isolated, only with the AWS side. The
    /// wire of an isolated instance is not in the bridge: it is a point-to-point link, and this namespace forwards
    /// nothing. Repeating it changes nothing.
    pub(crate) fn set_link(
        &self,
        address: Ipv4Addr,
        up: bool,
        isolated: bool,
    ) -> anyhow::Result<()> {
        let (veth, state) = (veth(address), if up { "up" } else { "down" });
        self.ip_batch(&match (isolated, up) {
            (true, true) => {
                format!(
                    "link set {veth} nomaster up\n\
                     route replace {address}/32 dev {veth}\n"
                )
            }
            // The kernel refuses a route over a link that is down, and removes the routes of a link that is set down.
            (true, false) => format!("link set {veth} nomaster down\n"),
            // `flush`, unlike `del`, succeeds without such a route.
            (false, _) => {
                format!(
                    "route flush exact {address}/32 dev {veth}\n\
                     link set {veth} master {BRIDGE} {state}\n"
                )
            }
        })
    }

    /// Makes an instance's wire slow in both directions, or ends that. Repeating it changes nothing.
    pub(crate) fn set_speed(
        &self,
        instance: &Namespace,
        address: Ipv4Addr,
        slow: Option<SlowLink>,
    ) -> anyhow::Result<()> {
        self.shape(&veth(address), slow)?;
        instance.shape(INTERFACE, slow)
    }

    /// Sets a token bucket that delays and drops the packets that an interface sends. netem could do more (a delay for
    /// every packet, a share of losses), but it is not in every kernel; tbf is.
    fn shape(&self, interface: &str, slow: Option<SlowLink>) -> anyhow::Result<()> {
        let mut arguments = vec!["-n", &self.name, "qdisc", "replace", "dev", interface, "root"];
        let bucket;
        match slow {
            // The default of a veth.
            None => arguments.push("noqueue"),
            Some(link) => {
                bucket = token_bucket(link);
                arguments.extend(bucket.iter().map(String::as_str));
            }
        }
        run("tc", &arguments)
    }

    /// Flushes an instance's neighbour cache, so that it asks for hardware addresses again.
    pub(crate) fn forget_neighbours(&self) -> anyhow::Result<()> {
        ip(&["-n", &self.name, "neigh", "flush", "dev", INTERFACE])
    }

    /// Runs several `ip` commands in one process: its start is most of the cost.
    fn ip_batch(&self, commands: &str) -> anyhow::Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run ip")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(commands.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("ip -n {} -batch: {}\n{commands}", self.name, error.trim());
        }
        Ok(())
    }
}

/// Name of the AWS end of an instance's wire: within the 15 characters of an interface name, unique by address.
fn veth(address: Ipv4Addr) -> String {
    format!("v{:08x}", address.to_bits())
}

/// The arguments of tc for a token bucket.
fn token_bucket(SlowLink { kbit_per_s, queue }: SlowLink) -> [String; 7] {
    // Room for the bytes of 10 ms (the resolution of the kernel's timer), and for at least two packets.
    let burst = (u64::from(kbit_per_s) * 1000 / 8 / 100).max(4096);
    let latency = queue.as_micros();
    [
        "tbf",
        "rate",
        &format!("{kbit_per_s}kbit"),
        "burst",
        &burst.to_string(),
        "latency",
        &format!("{latency}us"),
    ]
    .map(str::to_owned)
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    run("ip", args)
}

fn run(program: &str, args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(args).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}", args.join(" "), error.trim());
    }
    Ok(())
}
