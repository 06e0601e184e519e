//! Gives booting instances an address by DHCP and DNS names, as a VPC does.
//!
//! One dnsmasq per run, in the AWS namespace. Its DHCP also names the gateway as the router, which leads only to the
//! metadata. It resolves only names of this run and refuses others at once.

use std::fmt::Write;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use nix::sys::signal::Signal;

use crate::cloud::mac_address;
use crate::fleet::dockerd::append;
use crate::fleet::netns::Namespace;
use crate::fleet::process::Bound;

/// DNS name of the AWS gateway.
pub(super) const AWS_NAME: &str = "aws.skep.internal";

/// DHCP and DNS of a run.
#[derive(Debug)]
pub(super) struct Network {
    dir: PathBuf,
    namespace: Namespace,
    gateway: Ipv4Addr,
    dnsmasq: Bound,
}

impl Network {
    /// Starts dnsmasq with its files in `dir`. `names` resolve from the start.
    pub(super) fn start(
        dir: &Path,
        namespace: &Namespace,
        gateway: Ipv4Addr,
        names: &[(String, Ipv4Addr)],
    ) -> anyhow::Result<Network> {
        fs::create_dir_all(dir.join("leases"))?;
        let mut hosts = format!("{gateway} {AWS_NAME}\n");
        for (name, address) in names {
            writeln!(hosts, "{address} {name}")?;
        }
        fs::write(dir.join("hosts"), hosts)?;
        let log = append(&dir.join("dnsmasq.log"))?;
        let mut command = dnsmasq(dir, namespace, gateway);
        command.stdout(log.try_clone()?).stderr(log);
        let dnsmasq = Bound::spawn(command)?;
        Ok(Network { dir: dir.to_owned(), namespace: namespace.clone(), gateway, dnsmasq })
    }

    /// Gives the instance with this address its lease; dnsmasq reads new files by itself.
    pub(super) fn lease(&self, address: Ipv4Addr) -> anyhow::Result<()> {
        let file = self.dir.join("leases").join(address.to_string());
        let host = format!("{},{address},ip-{}\n", mac_address(address), dashed(address));
        fs::write(&file, host).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Switches the answers to DNS queries off, or on again. DHCP continues.
    pub(super) fn answer_names(&self, answer: bool) -> anyhow::Result<()> {
        let action = if answer { "-D" } else { "-I" };
        for protocol in ["udp", "tcp"] {
            let output = self
                .command("iptables")
                .args(["-w", action, "INPUT", "-p", protocol, "--dport", "53", "-j", "DROP"])
                .output()?;
            let error = String::from_utf8_lossy(&output.stderr);
            anyhow::ensure!(output.status.success(), "iptables: {}", error.trim());
        }
        Ok(())
    }

    /// A command in the AWS namespace.
    pub(super) fn command(&self, program: &str) -> Command {
        in_namespace(&self.namespace, program)
    }

    pub(super) fn stop(&self) {
        self.dnsmasq.process.signal(Signal::SIGKILL);
    }

    pub(super) fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }
}

fn in_namespace(namespace: &Namespace, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.path().display())).arg("--").arg(program);
    command.env_clear().env("PATH", crate::fleet::SYSTEM_PATH).stdin(Stdio::null());
    command
}

fn dnsmasq(dir: &Path, namespace: &Namespace, gateway: Ipv4Addr) -> Command {
    let mut command = in_namespace(namespace, "dnsmasq");
    let file = |name: &str| dir.join(name).display().to_string();
    command
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--group=root"])
        .args(["--no-resolv", "--no-hosts", "--pid-file", "--log-facility=-", "--log-dhcp"])
        .args(["--bind-interfaces", "--dhcp-authoritative", "--no-ping"])
        .arg(format!("--listen-address={gateway}"))
        .arg(format!("--addn-hosts={}", file("hosts")))
        .arg(format!("--dhcp-hostsdir={}", file("leases")))
        .arg(format!("--dhcp-leasefile={}", file("leased")))
        .arg(format!("--dhcp-range={gateway},static,1h"));
    command
}

/// `10-78-0-5`.
fn dashed(address: Ipv4Addr) -> String {
    address.to_string().replace('.', "-")
}
