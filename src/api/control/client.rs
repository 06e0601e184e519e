//! The client of the control socket, in the command line.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;

use super::refusal::Refusal;
use super::server::LeaveBody;
use crate::clients::docker::Rotation;
use crate::common::report::{RecoveryPlan, Rotated, StatusReport};

/// Time limit for an answer: longer than skep's own time limits for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Docker may have to wait for an election before it rotates, and skep retries a store that is down for a minute.
const ROTATED_WITHIN: Duration = Duration::from_secs(150);
/// skep waits half a minute for Docker and Auto Scaling, and retries calls to AWS.
const PLANNED_WITHIN: Duration = Duration::from_secs(120);

/// The request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket does not exist, or no process listens on it.
    #[error("skep is not running: no process listens on {path}; see `systemctl status skep`")]
    NotRunning {
        /// Path of the socket.
        path: PathBuf,
    },

    /// The operating system does not let this user connect to the socket.
    #[error("only root may use skep's socket ({path}); try again with sudo")]
    NotPermitted {
        /// Path of the socket.
        path: PathBuf,
    },

    /// The node is already leaving, and the request would change nothing.
    #[error("this node is {doing}")]
    AlreadyLeaving {
        /// skep's description of the departure; begins with `already leaving`.
        doing: String,
    },

    /// skep answered with another error status than that of a departure in progress.
    #[error("skep refused the request (status {status}): {why}")]
    Refused {
        /// HTTP status of the answer, such as 503.
        status: u16,
        /// skep's reason, or the whole answer if it is not skep's JSON.
        why: String,
    },

    /// The time limit for the answer has passed, or the connection failed in another way.
    #[error("skep did not answer on {path}")]
    NoAnswer {
        /// Path of the socket.
        path: PathBuf,
        /// Error of the HTTP client, without the URL.
        #[source]
        source: reqwest::Error,
    },

    /// The answer is not the expected JSON.
    #[error("cannot parse skep's answer; is this `skep` another version than the running one?")]
    Malformed(#[source] serde_json::Error),
}

/// Sends requests to the skep of this host.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// Returns a client for the socket at `path`, see [`super::socket_path`]. It connects for each request.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Returns the state of the node and of the fleet.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status<N: DeserializeOwned>(&self) -> Result<StatusReport<N>, ClientError> {
        let (_, body) = self.ask(Method::GET, "status", Vec::new(), ANSWER_WITHIN).await?;
        serde_json::from_slice(&body).map_err(ClientError::Malformed)
    }

    /// Returns the state of the node without the fleet: cheap enough for frequent polls.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn node<N: DeserializeOwned>(&self) -> Result<N, ClientError> {
        let (_, body) = self.ask(Method::GET, "node", Vec::new(), ANSWER_WITHIN).await?;
        let report = serde_json::from_slice::<StatusReport<N>>(&body);
        report.map(|report| report.node).map_err(ClientError::Malformed)
    }

    /// Asks the node to leave within `deadline` (whole seconds, rounded up) or the configured time, with the
    /// operator's reason. Returns as soon as skep has accepted the request.
    ///
    /// # Errors
    /// [`ClientError::AlreadyLeaving`] if the departure started earlier, else see [`ClientError`].
    pub async fn leave(
        &self,
        deadline: Option<Duration>,
        reason: Option<&str>,
    ) -> Result<(), ClientError> {
        let deadline_seconds =
            deadline.map(|deadline| deadline.as_secs() + u64::from(deadline.subsec_nanos() > 0));
        let body = LeaveBody { deadline_seconds, reason: reason.map(str::to_owned) };
        let body = serde_json::to_vec(&body).map_err(ClientError::Malformed)?;
        self.ask(Method::POST, "leave", body, ANSWER_WITHIN).await.map(drop)
    }

    /// Asks skep to rotate join tokens or the unlock key; returns when the secret store has the new ones.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the remedy, else see [`ClientError`].
    pub async fn rotate(&self, what: Rotation) -> Result<Rotated, ClientError> {
        let body = serde_json::to_vec(&what).map_err(ClientError::Malformed)?;
        let (_, body) = self.ask(Method::POST, "rotate-tokens", body, ROTATED_WITHIN).await?;
        serde_json::from_slice(&body).map_err(ClientError::Malformed)
    }

    /// Returns the plan of a recovery of the quorum; changes nothing.
    ///
    /// # Errors
    /// [`ClientError::Refused`] if skep cannot make a plan, else see [`ClientError`].
    pub async fn plan_recovery(&self) -> Result<RecoveryPlan, ClientError> {
        let (_, body) = self.ask(Method::GET, "recover", Vec::new(), PLANNED_WITHIN).await?;
        serde_json::from_slice(&body).map_err(ClientError::Malformed)
    }

    /// Starts the recovery, unless the returned plan names a refusal.
    ///
    /// # Errors
    /// As for [`Client::plan_recovery`].
    pub async fn recover(&self) -> Result<RecoveryPlan, ClientError> {
        let (_, body) = self.ask(Method::POST, "recover", Vec::new(), PLANNED_WITHIN).await?;
        serde_json::from_slice(&body).map_err(ClientError::Malformed)
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        answer_within: Duration,
    ) -> Result<(StatusCode, Vec<u8>), ClientError> {
        let exchange = async {
            let http = reqwest::Client::builder()
                .unix_socket(self.path.as_path())
                .timeout(answer_within)
                .build()?;
            // The host name has no effect: the request goes to the socket.
            let request = http.request(method, format!("http://skep/{path}")).body(body);
            let response = request.send().await?;
            Ok((response.status(), response.bytes().await?.to_vec()))
        };
        let (status, body) = exchange.await.map_err(|error| not_answered(&self.path, error))?;
        if status.is_success() {
            return Ok((status, body));
        }
        let why = match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => refusal.error,
            Err(_) => String::from_utf8_lossy(&body).trim().to_owned(),
        };
        Err(match status {
            StatusCode::CONFLICT => ClientError::AlreadyLeaving { doing: why },
            status => ClientError::Refused { status: status.as_u16(), why },
        })
    }
}

fn not_answered(path: &Path, error: reqwest::Error) -> ClientError {
    let path = path.to_owned();
    let mut source = error.source();
    let mut kind = None;
    while let Some(cause) = source {
        kind = cause.downcast_ref::<io::Error>().map(io::Error::kind).or(kind);
        source = cause.source();
    }
    match kind {
        Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            ClientError::NotRunning { path }
        }
        Some(io::ErrorKind::PermissionDenied) => ClientError::NotPermitted { path },
        _ => ClientError::NoAnswer { path, source: error.without_url() },
    }
}
