//! The asking end, in the command line.

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

/// Longer than skep itself waits for what it needs to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Docker may take an election to rotate, and a store that is down is asked for a minute.
const ROTATED_WITHIN: Duration = Duration::from_secs(150);
/// Docker and Auto Scaling are given half a minute to say something, and AWS is asked again.
const PLANNED_WITHIN: Duration = Duration::from_secs(120);

/// The request did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("skep is not running: nobody listens on {path}; see `systemctl status skep`")]
    NotRunning { path: PathBuf },

    #[error("only root may talk to skep ({path}); try again with sudo")]
    NotPermitted { path: PathBuf },

    /// What it is doing already, in skep's own words.
    #[error("this node is {doing}")]
    AlreadyLeaving { doing: String },

    #[error("skep refused the request (status {status}): {why}")]
    Refused { status: u16, why: String },

    #[error("skep did not answer on {path}")]
    NoAnswer {
        path: PathBuf,
        #[source]
        source: reqwest::Error,
    },

    #[error(
        "skep's answer is not understood; is this `skep` another version than the running one?"
    )]
    Malformed(#[source] serde_json::Error),
}

/// Talks to the skep of this host.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// A client for the socket at `path`, see [`super::socket_path`]. Connects at each request.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// What the node is doing.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status<N: DeserializeOwned>(&self) -> Result<StatusReport<N>, ClientError> {
        let (_, body) = self.ask(Method::GET, "status", Vec::new(), ANSWER_WITHIN).await?;
        serde_json::from_slice(&body).map_err(ClientError::Malformed)
    }

    /// The same without the fleet: cheap, for whoever asks often.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn node<N: DeserializeOwned>(&self) -> Result<N, ClientError> {
        let (_, body) = self.ask(Method::GET, "node", Vec::new(), ANSWER_WITHIN).await?;
        let report = serde_json::from_slice::<StatusReport<N>>(&body);
        report.map(|report| report.node).map_err(ClientError::Malformed)
    }

    /// Asks the node to leave, within `deadline` (whole seconds, rounded up) or what is configured, for a
    /// reason in words. Returns as soon as it has begun.
    ///
    /// # Errors
    /// [`ClientError::AlreadyLeaving`] where it has begun before, else see [`ClientError`].
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

    /// Has join tokens or the unlock key made new; returns when the secret store has them.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with what to do, else see [`ClientError`].
    pub async fn rotate(&self, what: Rotation) -> Result<Rotated, ClientError> {
        let body = serde_json::to_vec(&what).map_err(ClientError::Malformed)?;
        let (_, body) = self.ask(Method::POST, "rotate-tokens", body, ROTATED_WITHIN).await?;
        serde_json::from_slice(&body).map_err(ClientError::Malformed)
    }

    /// What a recovery of the quorum would be; nothing is changed.
    ///
    /// # Errors
    /// [`ClientError::Refused`] where it cannot be looked, else see [`ClientError`].
    pub async fn plan_recovery(&self) -> Result<RecoveryPlan, ClientError> {
        let (_, body) = self.ask(Method::GET, "recover", Vec::new(), PLANNED_WITHIN).await?;
        serde_json::from_slice(&body).map_err(ClientError::Malformed)
    }

    /// Begins with it, unless the plan that comes back names a refusal.
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
            // The host is a formality: the socket is the address.
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
