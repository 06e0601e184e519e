//! Runs the tasks beside the node's lifecycle, from start to end: health port, control socket,
//! the watch on the metadata, the `STATUS=` line, signals.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use time::OffsetDateTime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{RunError, earlier_membership};
use crate::api::control::{self, LeaveRequest};
use crate::api::{departures, findings, health, ui};
use crate::clients::imds::{Imds, TargetState};
use crate::clients::systemd::{self, Shutdown};
use crate::common::errors::chain;
use crate::common::instance::{Departure, Market, Reason};
use crate::common::state::StateHandle;
use crate::config::{Health, Settings};
use crate::doctor;
use crate::host::janitor;
use crate::lifecycle::notices::{self, Notices};
use crate::lifecycle::recover;
use crate::manager;
use crate::node::Node;
use crate::telemetry::notifications::Events;

/// The background tasks; dropping this value ends them all.
pub struct BackgroundTasks {
    /// Sends this node's events to hook scripts and the webhook.
    pub events: Events,
    tasks: JoinSet<()>,
    node: Arc<OnceLock<Node>>,
}

impl BackgroundTasks {
    /// Opens the ports and starts to answer.
    ///
    /// # Errors
    /// When a socket cannot be opened, or another skep runs on this host.
    pub fn start(
        settings: &Settings,
        state: &StateHandle,
        notices: &Notices,
    ) -> Result<Self, RunError> {
        let mut tasks = JoinSet::new();
        let node = Arc::new(OnceLock::<Node>::new());
        let known = Arc::clone(&node);
        const NOT_YET: &str = "the identity of this node is not known yet";
        let control = control::Server::bind(&settings.runtime_dir)?.rotating(move |what| {
            let node = known.get().cloned();
            async move { manager::rotate_on_request(&node.ok_or(NOT_YET)?, what).await }
        });
        let known = Arc::clone(&node);
        let control = control.recovering(move |begins| {
            let node = known.get().cloned();
            async move {
                let node = node.ok_or(NOT_YET)?;
                if begins { recover::begin(&node).await } else { recover::plan(&node).await }
            }
        });
        let (leave, requests) = mpsc::channel(1);
        let known = Arc::clone(&node);
        tasks.spawn(control.serve(state.clone(), leave, move || {
            let node = known.get().cloned();
            async move { manager::view_fleet_and_tasks(&node?).await }
        }));
        tasks.spawn(follow_operator(requests, settings.clone(), state.clone(), notices.clone()));
        if settings.health.enabled {
            let known = Arc::clone(&node);
            let mut routes = departures::router({
                let known = Arc::clone(&known);
                move || known.get().cloned()
            });
            let (of_checks, at_checks) = (settings.clone(), Arc::clone(&known));
            routes = routes.merge(findings::router(
                move || at_checks.get().cloned(),
                move || {
                    let settings = of_checks.clone();
                    Box::pin(async move { doctor::report(&doctor::examine(&settings).await) })
                },
            ));
            if settings.health.ui {
                routes = routes.merge(ui::router(move || known.get().cloned()));
            }
            tasks.spawn(answer_health_checks(settings.health.clone(), state.clone(), routes));
            let (settings, state) = (settings.clone(), state.clone());
            tasks.spawn(async move { match earlier_membership::follow(settings, state).await {} });
        }
        tasks.spawn(systemd::follow(state.clone()));
        let events = Events::start(settings, state, &mut tasks);
        Ok(Self { events, tasks, node })
    }

    /// Gives the node to the tasks that need it: from now on `skep status` shows the fleet, and the janitor runs.
    pub fn attach_node(&mut self, node: &Node) {
        // The lifecycle attaches one node, once; so `set` cannot fail.
        let _ = self.node.set(node.clone());
        if node.settings.janitor.enabled {
            let node = node.clone();
            self.tasks.spawn(async move { match janitor::keep_tidy(&node).await {} });
        }
    }

    /// Starts to watch the metadata; the returned receiver gets the target state after the first poll.
    pub fn watch_metadata(
        &mut self,
        imds: &Imds,
        settings: &Settings,
        market: Market,
        notices: &Notices,
        state: &StateHandle,
    ) -> oneshot::Receiver<Option<TargetState>> {
        let (told, first_look) = oneshot::channel();
        self.tasks.spawn(notices::watch_metadata(
            imds.clone(),
            settings.clone(),
            market,
            notices.clone(),
            state.clone(),
            told,
        ));
        first_look
    }
}

/// Serves the health port. A port that is in use must not keep a node out of the swarm: binding is retried. Until it
/// succeeds, the reason is the node's trouble, with one line in the log.
async fn answer_health_checks(settings: Health, state: StateHandle, routes: Router) {
    /// Name of the trouble that the port is not open.
    const LISTENING: &str = "listening on the health port";
    const RETRY_INTERVAL: Duration = Duration::from_secs(5);
    let mut logged: Option<String> = None;
    loop {
        match health::Server::bind(settings.listen) {
            Ok(server) => {
                state.show_trouble(LISTENING, None);
                if let Some(problem) = logged {
                    tracing::info!("resolved: {problem}");
                }
                match server.serve(state, settings, routes).await {}
            }
            Err(error) => {
                let problem = chain(&error);
                if logged.as_ref() != Some(&problem) {
                    tracing::error!("{problem}");
                }
                state.show_trouble(LISTENING, Some(problem.clone()));
                logged = Some(problem);
            }
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// Turns requests of `skep leave` into notices.
async fn follow_operator(
    mut requests: mpsc::Receiver<LeaveRequest>,
    settings: Settings,
    state: StateHandle,
    notices: Notices,
) {
    while let Some(request) = requests.recv().await {
        let longest = settings.leave.deadline;
        let noticed_at = OffsetDateTime::now_utc();
        let deadline = noticed_at + request.deadline.unwrap_or(longest).min(longest);
        if let Some(why) = request.reason {
            tracing::info!("the operator takes this node out: {why}");
            state.update(|state| state.why = Some(why));
        }
        notices.give(Departure { reason: Reason::Operator, noticed_at, deadline });
    }
}

/// Name of the trouble that systemd does not report why it stops skep.
const STOP: &str = "systemd";
/// How long skep repeats the question why systemd stops it. The rest of the unit's `TimeoutStopSec=` (90 s) remains
/// then, and a departure requests more time.
const DOUBT_PATIENCE: Duration = Duration::from_secs(20);
const DOUBT_INTERVAL: Duration = Duration::from_secs(1);

/// Returns when the service must stop and the node stays: a restart of skep, a reboot, or a stop for which systemd does
/// not report a reason. A power-off becomes a notice instead, and the lifecycle ends by itself.
///
/// # Errors
/// When skep cannot listen for signals.
pub async fn until_stopped(
    settings: &Settings,
    notices: &Notices,
    state: &StateHandle,
) -> Result<(), std::io::Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => {}
        }
        let kind = tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            kind = until_told(state, systemd::shutdown_kind) => kind,
        };
        if kind != Shutdown::PowerOff {
            return Ok(());
        }
        let noticed_at = OffsetDateTime::now_utc();
        let time = settings.leave.shutdown_deadline;
        systemd::extend_timeout(time);
        notices.give(Departure {
            reason: Reason::Shutdown,
            noticed_at,
            deadline: noticed_at + time,
        });
    }
}

/// Asks systemd why it stops skep, until it answers or [`DOUBT_PATIENCE`] is over.
async fn until_told(state: &StateHandle, ask: impl AsyncFn() -> Shutdown) -> Shutdown {
    let give_up = Instant::now() + DOUBT_PATIENCE;
    loop {
        let kind = ask().await;
        let Shutdown::CannotTell { why } = &kind else {
            state.trouble(STOP, None);
            return kind;
        };
        let what = format!(
            "systemd stops skep, and skep cannot tell whether the machine powers off ({why}); without an answer within {DOUBT_PATIENCE:?} the node stays in the swarm"
        );
        state.trouble(STOP, Some(what));
        if Instant::now() >= give_up {
            tracing::error!(
                "stopping without a departure: cannot tell whether the machine powers off ({why}); if it does, its tasks get only Docker's grace and their last log lines are not flushed"
            );
            return kind;
        }
        tokio::time::sleep(DOUBT_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn a_health_port_that_another_program_has_is_a_trouble_until_it_is_free() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = other.local_addr().unwrap();
        let settings = Health { listen, ..Settings::default().health };
        let state = StateHandle::default();
        let task = tokio::spawn(answer_health_checks(settings, state.clone(), Router::new()));
        let until = async |is_it: fn(Option<String>) -> bool| {
            while !is_it(state.now().trouble) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let patience = Duration::from_secs(30);
        tokio::time::timeout(patience, until(|trouble| trouble.is_some())).await.unwrap();
        let trouble = state.now().trouble.unwrap();
        assert!(trouble.starts_with(&format!("cannot listen on {listen}")), "{trouble}");
        assert!(trouble.contains("(health.listen)"), "it names the setting: {trouble}");
        drop(other);
        tokio::time::timeout(patience, until(|trouble| trouble.is_none())).await.unwrap();
        assert!(tokio::net::TcpStream::connect(listen).await.is_ok());
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_that_systemd_does_not_explain_is_asked_about_again_and_then_no_departure() {
        let state = StateHandle::default();
        let doubt = || Shutdown::CannotTell { why: "no answer".to_owned() };
        let looks = Cell::new(0);
        let told = until_told(&state, async || {
            looks.set(looks.get() + 1);
            if looks.get() > 3 { Shutdown::PowerOff } else { doubt() }
        });
        assert_eq!(told.await, Shutdown::PowerOff);
        assert_eq!((looks.get(), state.now().trouble), (4, None));
        let start = Instant::now();
        assert_eq!(until_told(&state, async || doubt()).await, doubt());
        let took = start.elapsed();
        assert!(took >= DOUBT_PATIENCE && took < DOUBT_PATIENCE + 2 * DOUBT_INTERVAL, "{took:?}");
        let trouble = state.now().trouble.unwrap();
        assert!(trouble.contains("cannot tell") && trouble.contains("no answer"), "{trouble}");
    }
}
