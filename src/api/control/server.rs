//! The server of the control socket, in the skep that runs the node.

use std::fmt;
use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::net::{UnixListener, UnixSocket};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::recover::{Recover, show_plan, take_recovery};
use super::refusal::refuse;
use super::rotate::{Rotate, take_rotation};
use super::socket_path;
use crate::clients::docker::Rotation;
use crate::common::report::{FleetView, RecoveryPlan, Rotated, StatusReport};
use crate::common::state::{NodeState, Phase, StateHandle};

/// Only root may read and write the socket: `POST /leave` takes a node out of service.
const SOCKET_MODE: u32 = 0o600;
/// Mode of the directory, if systemd has not created it.
const DIRECTORY_MODE: u32 = 0o700;
/// Connections that wait to be accepted; there is rarely more than one.
const BACKLOG: u32 = 16;

/// The socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is one node per machine, so there is one skep.
    #[error(
        "another skep is running on this host ({lock} is locked); see `skep status`, or stop it \
         first with `systemctl stop skep`"
    )]
    AlreadyRunning {
        /// Path of the file that the other skep has locked.
        lock: PathBuf,
    },

    /// The directory, the lock file or the socket could not be created or used.
    #[error("cannot {action} {path}")]
    File {
        /// What failed: `create the directory`, `open`, `lock` or `listen on`.
        action: &'static str,
        /// Path of the directory, the lock file or the socket.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
}

/// An operator's request that the node leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaveRequest {
    /// The time within which the node must leave; `None` means the setting.
    pub deadline: Option<Duration>,
    /// The operator's reason; see [`parse_reason`].
    pub reason: Option<String>,
}

/// A reason must fit into a line of the log.
const LONGEST_REASON: usize = 200;

/// Returns a reason that fits into a line: not empty, without line breaks or escapes, and not too long.
///
/// # Errors
/// The mistake, in one line.
pub fn parse_reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    match text.chars().count() {
        0 => Err("it is empty".into()),
        _ if text.contains(char::is_control) => Err("it must be one line of plain text".into()),
        1..=LONGEST_REASON => Ok(text.to_owned()),
        _ => Err(format!("it is longer than {LONGEST_REASON} characters")),
    }
}

/// The open socket; it answers no request before [`Server::serve`] runs. Dropping it closes and
/// removes the socket.
pub struct Server {
    // Dropped in this order: the socket is removed while the lock is still held.
    socket: SocketFile,
    _lock: File,
    rotate: Rotate,
    recover: Recover,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("socket", &self.socket).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct SocketFile {
    listener: Option<UnixListener>,
    path: PathBuf,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Best effort: the next skep replaces a socket that is left behind.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Server {
    /// Opens `skep.sock` in `runtime_dir`, and creates the directory if it does not exist. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// When another skep uses the directory, or skep cannot write to it.
    pub fn bind(runtime_dir: &Path) -> Result<Self, ControlError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| ControlError::File { action, path, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(runtime_dir)
            .map_err(failed("create the directory", runtime_dir))?;
        let lock_path = runtime_dir.join("skep.lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(failed("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(ControlError::AlreadyRunning { lock: lock_path });
            }
            Err(std::fs::TryLockError::Error(source)) => {
                return Err(failed("lock", &lock_path)(source));
            }
        }
        let path = socket_path(runtime_dir);
        let listener = listen(&path).map_err(failed("listen on", &path))?;
        let socket = SocketFile { listener: Some(listener), path };
        const NOT_YET: &str = "the identity of this node is not known yet";
        let rotate: Rotate = Arc::new(|_| Box::pin(async { Err(NOT_YET.into()) }));
        let recover: Recover = Arc::new(|_| Box::pin(async { Err(NOT_YET.into()) }));
        Ok(Self { socket, _lock: lock, rotate, recover })
    }

    /// Sets the function that rotates tokens for the operator.
    #[must_use]
    pub fn rotating<F, Fut>(self, rotate: F) -> Self
    where
        F: Fn(Rotation) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Rotated, String>> + Send + 'static,
    {
        Self { rotate: Arc::new(move |what| Box::pin(rotate(what))), ..self }
    }

    /// Sets the function that returns the plan of a recovery of the quorum, or starts the recovery.
    #[must_use]
    pub fn recovering<F, Fut>(self, recover: F) -> Self
    where
        F: Fn(bool) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<RecoveryPlan, String>> + Send + 'static,
    {
        Self { recover: Arc::new(move |begins| Box::pin(recover(begins))), ..self }
    }

    /// Answers requests until it is dropped: spawn it.
    ///
    /// `leave` receives the requests of operators; with a capacity of 1, a second request is refused while the first
    /// one waits. `fleet` is called for every `GET /status` and has five seconds.
    pub async fn serve<F, Fut>(
        mut self,
        state: StateHandle,
        leave: mpsc::Sender<LeaveRequest>,
        fleet: F,
    ) where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Option<FleetView>> + Send + 'static,
    {
        let Some(listener) = self.socket.listener.take() else { return };
        let desk = Desk { state, leave, fleet: Arc::new(move || Box::pin(fleet())) };
        let not_found = async || refuse(StatusCode::NOT_FOUND, "no such request");
        let app = Router::new()
            .route("/status", get(status))
            .route("/node", get(node))
            .route("/leave", post(take_leave))
            .route("/rotate-tokens", post(take_rotation))
            .route("/recover", get(show_plan).post(take_recovery))
            .layer(Extension(self.rotate.clone()))
            .layer(Extension(self.recover.clone()))
            .fallback(not_found)
            .method_not_allowed_fallback(not_found)
            .with_state(desk);
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!("the control socket has failed: {error}");
        }
    }
}

/// Binds, restricts and only then listens, so that no other user can connect in between.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
    socket.listen(BACKLOG)
}

/// The shared state of the handlers.
#[derive(Clone)]
struct Desk {
    state: StateHandle,
    leave: mpsc::Sender<LeaveRequest>,
    fleet: Arc<dyn Fn() -> BoxFuture<'static, Option<FleetView>> + Send + Sync>,
}

async fn status(State(desk): State<Desk>) -> Response {
    let fleet = FleetView::in_time(&desk.state, (desk.fleet)()).await;
    Json(StatusReport { node: desk.state.now(), fleet }).into_response()
}

/// Answers from this node's state alone, so that frequent polls are cheap.
async fn node(State(desk): State<Desk>) -> Response {
    Json(StatusReport { node: desk.state.now(), fleet: None }).into_response()
}

/// The body of `POST /leave`.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LeaveBody {
    #[serde(default)]
    pub(super) deadline_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

async fn take_leave(State(desk): State<Desk>, body: Bytes) -> Response {
    let body: LeaveBody = match serde_json::from_slice(&body) {
        Ok(body) => body,
        Err(_) if body.is_empty() => LeaveBody::default(),
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let deadline = body.deadline_seconds.map(Duration::from_secs);
    if let Some(why) = is_of_no_use(&desk.state.now(), deadline, OffsetDateTime::now_utc()) {
        return refuse(StatusCode::CONFLICT, &why);
    }
    let reason = match body.reason.as_deref().map(parse_reason).transpose() {
        Ok(reason) => reason,
        Err(problem) => return refuse(StatusCode::BAD_REQUEST, &format!("reason: {problem}")),
    };
    let request = LeaveRequest { deadline, reason };
    match desk.leave.try_send(request) {
        Ok(()) => StatusCode::ACCEPTED.into_response(),
        Err(TrySendError::Full(_)) => refuse(StatusCode::CONFLICT, "already leaving"),
        Err(TrySendError::Closed(_)) => refuse(StatusCode::SERVICE_UNAVAILABLE, "skep is stopping"),
    }
}

/// Returns the refusal of a leave request that would change nothing, because the node is already leaving. A request
/// with a nearer deadline changes something, and so does any request while the notice can be withdrawn: without it,
/// the node could stay.
fn is_of_no_use(state: &NodeState, asked: Option<Duration>, now: OffsetDateTime) -> Option<String> {
    let is_leaving = matches!(state.phase, Phase::Leaving | Phase::Left);
    let doing = format!("already leaving: {}", state.doing);
    let Some(departure) = &state.departure else { return is_leaving.then_some(doing) };
    if departure.reason.may_be_withdrawn() {
        return None;
    }
    let left = Duration::try_from(departure.deadline - now).unwrap_or_default();
    match asked {
        _ if state.phase == Phase::Left => Some(doing),
        Some(asked) if asked < left => None,
        Some(asked) => Some(format!(
            "{doing}; its deadline in {} s stays, because {} s is not nearer",
            left.as_secs(),
            asked.as_secs()
        )),
        None => Some(doing),
    }
}
