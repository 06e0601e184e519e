//! The errors of calls to Docker, sorted by their remedy.

use bollard::errors::Error as Docker;
use thiserror::Error;

use crate::common::errors::chain;

/// A failed call to Docker.
#[derive(Debug, Clone, Error)]
#[error("{operation}: {message}")]
pub struct SwarmError {
    /// The operation that failed, such as `list the nodes`.
    pub operation: &'static str,
    /// The kind, from Docker's status and message.
    pub kind: SwarmErrorKind,
    /// Docker's own message, or skep's where Docker sent none.
    pub message: String,
}

/// The kind of a failure, which decides what a caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwarmErrorKind {
    /// No process listens on the socket: Docker does not run (yet).
    Unreachable,
    /// The socket exists, but this user may not use it.
    PermissionDenied,
    /// The engine is older than 20.10.
    TooOld,
    /// The engine no longer accepts the API version that skep uses.
    TooNew,
    /// No answer in time. Docker may have done what skep requested.
    TimedOut,
    /// No such node or container.
    NotFound,
    /// Another write came first: read again, then write.
    Stale,
    /// The swarm has no leader, so it cannot decide anything at present.
    NoLeader,
    /// This node is not a manager (any more).
    NotManager,
    /// A manager cannot leave before it is demoted.
    StillManager,
    /// The change would leave the swarm without a quorum.
    WouldLoseQuorum,
    /// The only manager cannot be demoted.
    LastManager,
    /// The node must be down or demoted before it can be removed.
    NotRemovable,
    /// An object with this name exists.
    NameTaken,
    /// This host is in a swarm already.
    AlreadyInSwarm,
    /// This host is in no swarm.
    NotInSwarm,
    /// `live-restore` is on, which is incompatible with swarm mode.
    LiveRestore,
    /// nftables is the firewall backend, which is incompatible with swarm mode (engine 29).
    NftablesFirewall,
    /// A refusal or failure that no other kind names, such as an answer that cannot be parsed.
    Other,
}

impl SwarmErrorKind {
    /// Recognises Docker's texts, which `docs/decisions/docker-answers.md` lists.
    fn of(status: u16, message: &str) -> Self {
        let says = |text: &str| message.contains(text);
        if says("already part of a swarm") {
            Self::AlreadyInSwarm
        } else if says("not part of a swarm") {
            Self::NotInSwarm
        } else if says("--live-restore daemon configuration is incompatible with swarm mode") {
            Self::LiveRestore
        } else if says("--firewall-backend=nftables is incompatible with swarm mode") {
            Self::NftablesFirewall
        } else if says("update out of sequence") {
            Self::Stale
        } else if says("would result in a loss of quorum") {
            Self::WouldLoseQuorum
        } else if says("demote the last manager") {
            Self::LastManager
        } else if says("does not have a leader") {
            Self::NoLeader
        } else if says("on a node that is participating as a manager") {
            Self::StillManager
        } else if says("not a swarm manager") {
            Self::NotManager
        } else if says("can't be removed") || says("must be demoted to worker before removal") {
            Self::NotRemovable
        } else if says("is too new. Maximum supported API version") {
            Self::TooOld
        } else if says("is too old. Minimum supported API version") {
            Self::TooNew
        } else if status == 409 && (says("already exists") || says("conflicts with an existing")) {
            Self::NameTaken
        } else if status == 404 {
            Self::NotFound
        } else {
            Self::Other
        }
    }

    /// Returns the remedy to append to Docker's message; empty where the message needs none.
    fn remedy(self) -> &'static str {
        match self {
            Self::TooOld => "; install Docker 20.10 or newer",
            Self::TooNew => "; upgrade skep",
            _ => "",
        }
    }
}

impl SwarmError {
    pub(super) fn new(operation: &'static str, error: &Docker) -> Self {
        let (kind, message) = match error {
            Docker::DockerResponseServerError { status_code, message } => {
                let kind = SwarmErrorKind::of(*status_code, message);
                let message = match message.trim() {
                    "" => &format!("status {status_code}"),
                    message => message,
                };
                (kind, format!("{message}{}", kind.remedy()))
            }
            Docker::RequestTimeoutError => (SwarmErrorKind::TimedOut, "no answer in time".into()),
            Docker::SocketNotFoundError(path) => (
                SwarmErrorKind::Unreachable,
                format!("{path} does not exist; is Docker installed and started?"),
            ),
            other => {
                let mut text = chain(other);
                let kind = if text.contains("Permission denied") {
                    text.push_str("; run skep as root, or as a user of the group docker");
                    SwarmErrorKind::PermissionDenied
                } else if text.contains("No such file") || text.contains("onnect") {
                    text.push_str("; is docker.service running?");
                    SwarmErrorKind::Unreachable
                } else {
                    SwarmErrorKind::Other
                };
                (kind, text)
            }
        };
        Self { operation, kind, message }
    }

    /// The error where skep and the engine have no API version in common.
    pub(super) fn version(operation: &'static str, kind: SwarmErrorKind, why: &str) -> Self {
        Self { operation, kind, message: format!("{why}{}", kind.remedy()) }
    }

    /// Whether the engine refused the API version of the request. It has done nothing then.
    pub(super) fn is_of_version(&self) -> bool {
        matches!(self.kind, SwarmErrorKind::TooOld | SwarmErrorKind::TooNew)
    }

    /// The error for an answer to a request that skep made without bollard.
    pub(super) fn answered(operation: &'static str, status_code: u16, body: &[u8]) -> Self {
        #[derive(serde::Deserialize)]
        struct Refusal {
            message: String,
        }
        let message = match serde_json::from_slice::<Refusal>(body) {
            Ok(refusal) => refusal.message,
            Err(_) => format!("status {status_code}"),
        };
        Self::new(operation, &Docker::DockerResponseServerError { status_code, message })
    }

    /// The error for a call whose caller stopped waiting.
    #[must_use]
    pub fn silent(operation: &'static str) -> Self {
        Self { operation, kind: SwarmErrorKind::TimedOut, message: "no answer in time".into() }
    }

    /// Whether no answer came, or Docker's own time limit ended while it waited for a leader. Docker may have done what
    /// skep requested.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        self.kind == SwarmErrorKind::TimedOut || self.message.contains("context deadline exceeded")
    }

    pub(super) fn unexpected(operation: &'static str, message: impl Into<String>) -> Self {
        Self { operation, kind: SwarmErrorKind::Other, message: message.into() }
    }
}
