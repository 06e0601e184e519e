//! The types of settings that are not in the standard library.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

use crate::common::instance::Role;

/// A setting that is one of a few words.
pub(super) trait Choice: Copy + 'static {
    const ALL: &'static [Self];
    fn word(self) -> &'static str;
}

impl Choice for Role {
    const ALL: &'static [Self] = &Role::ALL;
    fn word(self) -> &'static str {
        self.as_str()
    }
}

/// Store of the join tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenStore {
    /// SecureString parameters of Systems Manager.
    Ssm,
    /// Items of the ledger's own table.
    Dynamodb,
}

impl Choice for TokenStore {
    const ALL: &'static [Self] = &[Self::Ssm, Self::Dynamodb];
    fn word(self) -> &'static str {
        match self {
            Self::Ssm => "ssm",
            Self::Dynamodb => "dynamodb",
        }
    }
}

/// Availability of a node when it joins the swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinAvailability {
    /// It can get tasks at once.
    Active,
    /// A manager activates it together with its first labels.
    Pause,
}

impl Choice for JoinAvailability {
    const ALL: &'static [Self] = &[Self::Active, Self::Pause];
    fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pause => "pause",
        }
    }
}

/// Reaction of a node to EC2's recommendation to replace it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rebalance {
    /// It keeps its tasks and gets new ones.
    Ignore,
    /// It gets no new tasks.
    Pause,
    /// It leaves the swarm.
    Leave,
}

impl Choice for Rebalance {
    const ALL: &'static [Self] = &[Self::Ignore, Self::Pause, Self::Leave];
    fn word(self) -> &'static str {
        match self {
            Self::Ignore => "ignore",
            Self::Pause => "pause",
            Self::Leave => "leave",
        }
    }
}

/// A log shipper whose progress skep can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shipper {
    /// `systemd-journal-upload`; skep reads its state file.
    JournalUpload,
    /// Filebeat; skep polls its HTTP endpoint.
    Filebeat,
    /// Fluent Bit; skep polls its HTTP server.
    FluentBit,
    /// Vector; skep polls its Prometheus exporter.
    Vector,
    /// The CloudWatch agent; skep reads its state files.
    CloudwatchAgent,
}

impl Choice for Shipper {
    const ALL: &'static [Self] = &[
        Self::JournalUpload,
        Self::Filebeat,
        Self::FluentBit,
        Self::Vector,
        Self::CloudwatchAgent,
    ];
    fn word(self) -> &'static str {
        self.as_str()
    }
}

impl Shipper {
    /// Returns the shipper's name in the settings and in `skep status`, such as `fluent-bit`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::JournalUpload => "journal-upload",
            Self::Filebeat => "filebeat",
            Self::FluentBit => "fluent-bit",
            Self::Vector => "vector",
            Self::CloudwatchAgent => "cloudwatch-agent",
        }
    }
}

/// Destination to which skep itself ships logs. Displayed as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A log group.
    Logs(String),
    /// An S3 bucket.
    S3 {
        /// Name of the bucket.
        bucket: String,
        /// Without a slash at either end; may be empty.
        prefix: String,
    },
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Logs(group) => write!(f, "logs:{group}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// Bucket in which backups are stored. Displayed as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupPlace {
    /// Name of the bucket.
    pub bucket: String,
    /// Beginning of the objects' keys, without a slash at either end; may be empty.
    pub prefix: String,
}

impl fmt::Display for BackupPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)
    }
}

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line per event.
    Text,
    /// One JSON object per event.
    Json,
    /// Native journal entries, with separate fields.
    Journal,
}

impl Choice for LogFormat {
    const ALL: &'static [Self] = &[Self::Text, Self::Json, Self::Journal];
    fn word(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
            Self::Journal => "journal",
        }
    }
}

/// Filter of the log: pairs of a target (a module path) and the least severe level that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(pub(super) Vec<(String, LevelFilter)>);

impl LogFilter {
    /// Returns the filter for tracing-subscriber. Other crates log at `warn` and above, unless they are named; the
    /// SDK's credentials at `error`, because skep's own errors name the missing part, once.
    #[must_use]
    pub fn targets(&self) -> Targets {
        Targets::new()
            .with_default(LevelFilter::WARN)
            .with_target("aws_config", LevelFilter::ERROR)
            .with_targets(self.0.iter().cloned())
    }
}

/// The target of a level without a target.
pub(super) const OWN_TARGET: &str = "skep";

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (target, level)) in self.0.iter().enumerate() {
            f.write_str(if n == 0 { "" } else { "," })?;
            if target != OWN_TARGET {
                write!(f, "{target}=")?;
            }
            level.fmt(f)?;
        }
        Ok(())
    }
}

/// Docker's socket on this host. Displayed as `unix:///var/run/docker.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerHost(pub(super) PathBuf);

impl DockerHost {
    /// Returns the absolute path of the socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for DockerHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

/// Whether two ranges have an address in common.
#[must_use]
pub fn overlap(one: &Ipv4Net, other: &Ipv4Net) -> bool {
    one.contains(other) || other.contains(one)
}

/// RFC 6598; EKS and large VPCs use it as a second private range.
const CARRIER_NAT: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10);

/// Whether an address is in 10/8, 172.16/12, 192.168/16, 100.64/10 or fc00::/7.
#[must_use]
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || CARRIER_NAT.contains(&v4),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn ranges_overlap_when_one_holds_the_other() {
        let range = |text: &str| text.parse::<Ipv4Net>().unwrap();
        let ten = range("10.0.0.0/8");
        assert!(overlap(&ten, &range("10.200.0.0/16")));
        assert!(overlap(&range("10.200.0.0/16"), &ten));
        assert!(!overlap(&ten, &range("11.0.0.0/8")));
        assert!(overlap(&range("0.0.0.0/0"), &ten));
        assert!(!overlap(&range("10.0.0.1/32"), &range("10.0.0.2/32")));
    }

    #[test]
    fn other_crates_are_quiet_unless_they_are_named() {
        let filter = LogFilter(vec![(OWN_TARGET.into(), LevelFilter::DEBUG)]).targets();
        assert!(filter.would_enable("skep::lifecycle::boot", &Level::DEBUG));
        assert!(!filter.would_enable("hyper", &Level::INFO));
        assert!(filter.would_enable("hyper", &Level::WARN));
        assert!(!filter.would_enable("aws_config::imds", &Level::WARN));
        let named = LogFilter(vec![("hyper".into(), LevelFilter::TRACE)]).targets();
        assert!(named.would_enable("hyper::client", &Level::TRACE));
    }
}
