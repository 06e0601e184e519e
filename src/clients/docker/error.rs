//! What Docker refused, sorted by what can be done about it.

use bollard::errors::Error as Docker;
use thiserror::Error;

/// A call that did not succeed.
#[derive(Debug, Clone, Error)]
#[error("{operation}: {message}")]
pub struct SwarmError {
    /// What was tried: `drain node`.
    pub operation: &'static str,
    pub kind: SwarmErrorKind,
    /// Docker's own words, or ours where it had none.
    pub message: String,
}

/// What a caller may do about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwarmErrorKind {
    /// Nobody listens on the socket: Docker is not there (yet).
    Unreachable,
    /// The socket is there, but this user may not use it.
    PermissionDenied,
    /// The engine is older than 20.10.
    TooOld,
    /// The engine no longer takes the API version that was spoken.
    TooNew,
    /// No answer in time. What was asked may have been done.
    TimedOut,
    /// No such node or container.
    NotFound,
    /// Someone else wrote first: read again, then write.
    Stale,
    /// The swarm has no leader: nothing can be decided at present.
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
    /// This host is in a swarm already.
    AlreadyInSwarm,
    /// This host is in no swarm.
    NotInSwarm,
    /// `live-restore` is on, which swarm mode excludes.
    LiveRestore,
    /// nftables is the firewall backend, which swarm mode excludes (engine 29).
    NftablesFirewall,
    Other,
}

impl SwarmErrorKind {
    /// Docker's texts, as `docs/decisions/docker-answers.md` lists them.
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
        } else if status == 404 {
            Self::NotFound
        } else {
            Self::Other
        }
    }

    /// What to append to Docker's words; empty where they say enough.
    fn remedy(self) -> &'static str {
        match self {
            Self::TooOld => ": install Docker 20.10 or newer",
            Self::TooNew => ": upgrade skep",
            _ => "",
        }
    }
}

impl SwarmError {
    pub(super) fn new(operation: &'static str, error: &Docker) -> Self {
        let (kind, message) = match error {
            Docker::DockerResponseServerError { status_code, message } => {
                let kind = SwarmErrorKind::of(*status_code, message);
                (kind, format!("{}{}", message.trim(), kind.remedy()))
            }
            Docker::RequestTimeoutError => (SwarmErrorKind::TimedOut, "no answer in time".into()),
            Docker::SocketNotFoundError(path) => (
                SwarmErrorKind::Unreachable,
                format!("{path} is not there: is Docker installed and started?"),
            ),
            other => {
                let mut text = crate::common::errors::chain(other);
                let kind = if text.contains("Permission denied") {
                    text.push_str(": run skep as root, or as a user of the group docker");
                    SwarmErrorKind::PermissionDenied
                } else if text.contains("No such file") || text.contains("onnect") {
                    text.push_str(": does docker.service run?");
                    SwarmErrorKind::Unreachable
                } else {
                    SwarmErrorKind::Other
                };
                (kind, text)
            }
        };
        Self { operation, kind, message }
    }

    /// No version of the API that both speak.
    pub(super) fn version(operation: &'static str, kind: SwarmErrorKind, why: &str) -> Self {
        Self { operation, kind, message: format!("{why}{}", kind.remedy()) }
    }

    /// The engine does not take the API version that was spoken; it has done nothing.
    pub(super) fn is_of_version(&self) -> bool {
        matches!(self.kind, SwarmErrorKind::TooOld | SwarmErrorKind::TooNew)
    }

    /// An answer to a call of our own making, as Docker words its refusals.
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

    /// A call that its caller has given up.
    #[must_use]
    pub fn silent(operation: &'static str) -> Self {
        Self { operation, kind: SwarmErrorKind::TimedOut, message: "no answer in time".into() }
    }

    /// No answer came, or Docker itself has waited for a leader until its own patience ended: what was asked
    /// may have been done.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        self.kind == SwarmErrorKind::TimedOut || self.message.contains("context deadline exceeded")
    }

    pub(super) fn unexpected(operation: &'static str, message: impl Into<String>) -> Self {
        Self { operation, kind: SwarmErrorKind::Other, message: message.into() }
    }
}
