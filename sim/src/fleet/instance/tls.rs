//! The AWS endpoint that the programs of an instance use, and the certificates that they trust.
//!
//! With [`super::FleetOptions::tls`], an instance has the machine's own bundle of certificates, as an AMI has one, and
//! in it the cloud's authority: a client reads and parses as much as on EC2.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use anyhow::Context;

use super::{Instance, Site};
use crate::fleet::machine::CERTIFICATES;

/// Name of the file with the cloud's authority, in the run's directory.
const AUTHORITY: &str = "ca.pem";

impl Instance {
    /// The AWS endpoint that processes get when they start.
    pub fn endpoint(&self) -> String {
        self.site.endpoint(self.tls.load(Ordering::Relaxed))
    }

    /// Whether processes that start from now on speak TLS with AWS; at first [`super::FleetOptions::tls`], without
    /// which no instance trusts the cloud's authority.
    pub fn speak_tls(&self, tls: bool) {
        self.tls.store(tls, Ordering::Relaxed);
    }

    /// The file that is the instance's [`CERTIFICATES`] when it is switched on, if the fleet speaks TLS.
    pub fn certificates(&self) -> PathBuf {
        self.dockerd.dir.join("ca-certificates.crt")
    }

    /// Makes [`Instance::certificates`]: the machine's own, and the cloud's authority.
    pub(in crate::fleet) fn trust_the_cloud(&self) -> anyhow::Result<()> {
        let mut certificates = machine_certificates()?;
        certificates.extend_from_slice(&fs::read(self.site.authority_file())?);
        Ok(fs::write(self.certificates(), certificates)?)
    }
}

impl Site {
    /// The AWS endpoint inside the network, with TLS or without.
    pub(in crate::fleet) fn endpoint(&self, tls: bool) -> String {
        let scheme = if tls { "https" } else { "http" };
        format!("{scheme}://{}", self.gateway)
    }

    /// The file with the cloud's authority, in PEM.
    pub(in crate::fleet) fn authority_file(&self) -> PathBuf {
        self.run.record.dir.join(AUTHORITY)
    }
}

/// Reads this machine's bundle.
fn machine_certificates() -> anyhow::Result<Vec<u8>> {
    fs::read(CERTIFICATES)
        .with_context(|| format!("cannot read {CERTIFICATES} (package ca-certificates)"))
}
