//! Runs the life of a node: boot → serve → leave.

mod background_tasks;
mod delayed_success;
mod earlier_membership;
mod early_notice;
mod failed_start;
mod identify;
mod standby;
mod stays;
mod termination_hook;
mod warm_pool;

use std::convert::Infallible;
use std::time::Duration;

use thiserror::Error;
use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::Instrument;

use crate::api::control;
use crate::clients::aws::Aws;
use crate::clients::docker::Swarm;
use crate::clients::imds::{Imds, ImdsError};
use crate::clients::systemd;
use crate::common::errors::chain;
use crate::common::event::Event;
use crate::common::instance::{Membership, Reason};
use crate::common::state::{NodeState, Phase, StateHandle};
use crate::config::{Loaded, Mistakes, Settings};
use crate::lifecycle::boot::{self, BootError};
use crate::lifecycle::leave::{self, Outcome};
use crate::lifecycle::membership;
use crate::lifecycle::notices::Notices;
use crate::lifecycle::signals::Announcer;
use crate::manager::{self, Scope};
use crate::node::{AssembleError, Node, assemble};
use crate::telemetry::logging::phase_span;
use crate::telemetry::metrics::metrics;
use crate::telemetry::notifications::Events;

use background_tasks::BackgroundTasks;

/// Time limit for the early connection to Docker; a running Docker answers within milliseconds.
const HEAD_START: Duration = Duration::from_millis(200);

/// How a node's life ended without a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The service was stopped; the node is in the swarm and stays there.
    Stopped,
    /// The node has left, as completely as it could.
    Left(Outcome),
}

/// Why the life of this node ended with a failure.
#[derive(Debug, Error)]
pub enum RunError {
    /// The metadata service is disabled or wrongly configured, or gave no usable answer within `boot.deadline`.
    #[error("cannot read the identity of this machine")]
    Metadata(#[from] ImdsError),
    /// The settings and the metadata name no cluster or no role, or a wrong one.
    #[error("{0}")]
    Identity(Mistakes),
    /// The first boot failed, or a later one after the node fell out of the swarm.
    #[error("this node could not join the swarm")]
    Boot(#[from] BootError),
    /// This node must leave by now, its metadata are not known, and Docker is in a swarm or does not answer.
    #[error(
        "this node must leave ({reason} notice) and cannot: the instance metadata are not known yet, and {docker}"
    )]
    Unidentified {
        /// Reason of the notice.
        reason: Reason,
        /// Docker's state, error or silence, as a clause of the message.
        docker: String,
    },
    /// Another skep runs on this host, or a file of the control socket cannot be opened.
    #[error("cannot open the control socket")]
    Control(#[from] control::ControlError),
    /// A handler for SIGTERM or SIGINT cannot be installed.
    #[error("cannot listen for signals")]
    Signals(#[from] std::io::Error),
    /// The file of the kernel with the boot id cannot be read.
    #[error("cannot read the machine's boot id")]
    BootId(#[source] std::io::Error),
}

impl From<AssembleError> for RunError {
    fn from(error: AssembleError) -> Self {
        match error {
            AssembleError::Identity(mistakes) => Self::Identity(mistakes),
            AssembleError::BootId(error) => Self::BootId(error),
        }
    }
}

/// Runs the whole life of this node.
///
/// # Errors
/// When the node could not join; CloudFormation and Auto Scaling have been notified by then.
pub async fn run(loaded: Loaded) -> Result<Ended, RunError> {
    let started = Instant::now();
    let state = StateHandle::default();
    let notices = Notices::default();
    let mut background = BackgroundTasks::start(&loaded.settings, &state, &notices)
        .inspect_err(|error| state.enter(Phase::Failed, chain(error)))?;
    let ended = tokio::select! {
        ended = lifecycle(&loaded, &state, &notices, &mut background) => ended,
        stopped = background_tasks::until_stopped(&loaded.settings, &notices, &state) => {
            stopped.map(|()| Ended::Stopped).map_err(RunError::from)
        }
    };
    match &ended {
        Ok(Ended::Stopped) if state.now().phase == Phase::Warmed => {
            tracing::info!("stopped; the instance stays in the warm pool");
        }
        Ok(Ended::Stopped) => tracing::info!("stopped; the node stays in the swarm"),
        Ok(Ended::Left(outcome)) => state.leave(*outcome),
        Err(error) => {
            say_failed(&state, &background.events, error);
            boot::remember_failed_start(&loaded.settings);
        }
    }
    if let Err(error) = &ended {
        background.events.settle(loaded.settings.hook_scripts.last_wait).await;
        failed_start::pace(error, started, &loaded.settings, &notices, &state).await;
    }
    systemd::notify_stopping();
    ended
}

/// Reads the identity of this machine; then boots, serves, leaves.
async fn lifecycle(
    loaded: &Loaded,
    state: &StateHandle,
    notices: &Notices,
    background: &mut BackgroundTasks,
) -> Result<Ended, RunError> {
    let settings = &loaded.settings;
    let deadline = Instant::now() + settings.boot.deadline;
    Aws::preload();
    let imds = Imds::from_env()?;
    let docker = Swarm::new(settings.docker.host.to_string());
    let instance = tokio::select! {
        biased;
        ended = early_notice::until_nothing_to_leave(&docker, notices, state) => return ended,
        // In parallel, skep reads Docker's version: every round trip of a boot counts. A Docker that is still
        // starting is not waited for here.
        (instance, _) = async {
            let docker = tokio::time::timeout(HEAD_START, docker.connect());
            tokio::join!(identify::fetch_instance(&imds, settings, state, deadline), docker)
        } => instance?,
    };
    state.trouble(early_notice::WHO, None);
    let first_look = background.watch_metadata(&imds, settings, instance.market, notices, state);
    let aws = Aws::load(settings.region.as_deref(), &instance.region).await;
    let announcer = Announcer::new(&instance, settings, &aws).showing(state);
    let node = match assemble(settings, instance, imds, docker, &aws, state, &background.events) {
        Ok(node) => node,
        Err(error) => {
            let error = RunError::from(error);
            say_failed(state, &background.events, &error);
            announcer.failed().await;
            return Err(error);
        }
    };
    background.attach_node(&node);
    let target = first_look.await.ok().flatten();
    stays::run_stays(&node, &announcer, notices, deadline, target).await
}

/// Joins the swarm and serves, and joins again if the node falls out of the swarm, until a notice comes. `first_boot`
/// is the deadline of the boot, if the node has not been in the swarm before.
async fn boot_and_serve(
    node: &Node,
    announcer: &Announcer,
    notices: &Notices,
    first_boot: Option<Instant>,
) -> Result<(), RunError> {
    let mut began =
        first_boot.and_then(|deadline| deadline.checked_sub(node.settings.boot.deadline));
    let mut membership = match first_boot {
        None => return_to_the_swarm(node, notices).await?,
        Some(deadline) => {
            match boot::boot(node, notices, deadline).instrument(phase_span(Phase::Booting)).await {
                Ok(membership) => membership,
                Err(error) => {
                    return Err(fail(error.into(), node, announcer).await);
                }
            }
        }
    };
    while let Some(member) = &membership {
        let cause = tokio::select! {
            biased;
            _ = notices.given() => return Ok(()),
            never = serve(node, member, announcer, began.take()).instrument(phase_span(Phase::Ready)) => match never {},
            cause = membership::until_out(node, member) => cause,
        };
        membership::stop_showing_trouble(node);
        if cause.is_out() {
            manager::stop_showing_duties(node);
            tracing::warn!("no longer in the cluster's swarm: {cause}");
            earlier_membership::forget(node);
            if matches!(cause, membership::Cause::Stranded { .. })
                && !boot::leave_stranded(node, notices, &cause.to_string()).await
            {
                return Ok(());
            }
        } else {
            tracing::info!("{cause}");
        }
        membership = return_to_the_swarm(node, notices).await?;
    }
    give_up_what_was_begun(node).await;
    Ok(())
}

/// Joins again after the node fell out of the swarm without a notice, or after a notice was withdrawn. CloudFormation
/// and the launch hook received their answer when the node first became Ready; until the node is Ready again, the
/// health port answers 503.
async fn return_to_the_swarm(
    node: &Node,
    notices: &Notices,
) -> Result<Option<Membership>, RunError> {
    node.state.update(|state| state.membership = None);
    let deadline = Instant::now() + node.settings.boot.deadline;
    match boot::boot_again(node, notices, deadline).instrument(phase_span(Phase::Booting)).await {
        Ok(membership) => Ok(membership),
        Err(error) => {
            let error = RunError::from(error);
            doubt(node, &error);
            say_failed(&node.state, &node.events, &error);
            give_up_what_was_begun(node).await;
            Err(error)
        }
    }
}

/// Reports a failed boot. Records the reason and cleans up first: after ABANDON, the machine may end at any time.
async fn fail(error: RunError, node: &Node, announcer: &Announcer) -> RunError {
    doubt(node, &error);
    say_failed(&node.state, &node.events, &error);
    give_up_what_was_begun(node).await;
    announcer.failed().await;
    error
}

/// Removes the record of an earlier membership if the boot was refused: a refusal names a fault of this host, so that
/// an earlier membership proves nothing.
fn doubt(node: &Node, error: &RunError) {
    if matches!(error, RunError::Boot(BootError::Refused(_))) {
        earlier_membership::forget(node);
    }
}

fn say_failed(state: &StateHandle, events: &Events, error: &RunError) {
    let why = chain(error);
    events.tell(Event::Failed, Some(&why));
    state.enter(Phase::Failed, why);
}

/// Reports to CloudFormation and Auto Scaling that the node's configuration has mistakes, with the settings that could
/// be read. Has a time limit.
pub async fn announce_misconfiguration(settings: &Settings) {
    boot::remember_failed_start(settings);
    /// Time limit for the metadata, which answer within milliseconds on an instance.
    const ANSWER_WITHIN: Duration = Duration::from_secs(5);
    let Ok(imds) = Imds::from_env() else { return };
    let Ok(instance) = imds.fetch_instance(Instant::now() + ANSWER_WITHIN).await else { return };
    let aws = Aws::load(settings.region.as_deref(), &instance.region).await;
    Announcer::new(&instance, settings, &aws).failed().await;
}

/// Serves until a notice comes or the node falls out of the swarm: reports Ready, keeps the node's row fresh, and runs
/// the managers' duties. `began` is the start of a first boot.
async fn serve(
    node: &Node,
    member: &Membership,
    announcer: &Announcer,
    began: Option<Instant>,
) -> Infallible {
    node.state.update(|state| state.membership = Some(member.clone()));
    let recorded = membership::record_ready(node, member).await;
    node.state.enter(Phase::Ready, member.to_string());
    node.events.tell(Event::Joined, None);
    systemd::notify_ready();
    // After READY, because writing to the disk takes time.
    earlier_membership::remember(node, &member.node_id);
    let (_, never, _) = tokio::join!(
        standby::announce(node, announcer, began),
        membership::keep_recorded(node, member, recorded),
        manager::run_duties(node, member, Scope::All),
    );
    never
}

/// Leaves, sends heartbeats for the hook meanwhile, and completes it at the end. A manager continues its duties
/// for other nodes as long as it is a manager: all managers may be leaving.
#[tracing::instrument(name = "phase", skip_all, fields(phase = Phase::Leaving.as_str()))]
async fn depart(node: &Node, announcer: &Announcer, notices: &Notices) -> Outcome {
    let departure = notices.given().await;
    leave::forget_failure(node);
    membership::stop_showing_trouble(node);
    node.state.set_departure(&departure);
    node.state.enter(Phase::Leaving, format!("{} notice", departure.reason));
    node.events.tell(Event::Departing, None);
    let outcome = tokio::select! {
        outcome = leave_and_tell(node, notices) => outcome,
        never = termination_hook::keep_alive(node, announcer, notices, &departure) => match never {},
        never = look_after_others(node) => match never {},
    };
    // Before the hook: afterwards the machine may end at any time.
    tracing::info!(reason = %departure.reason, "the departure has ended: {}", outcome.as_str());
    if outcome == Outcome::Stayed {
        announcer.forget_termination_hook();
        node.state.update(NodeState::forget_departure);
        return outcome;
    }
    manager::stop_showing_duties(node);
    termination_hook::complete(node, announcer, &departure, outcome).await;
    announcer.forget_termination_hook();
    leave::record_end(node, outcome).await;
    if outcome == Outcome::Failed {
        notices.forget_failed();
    }
    outcome
}

/// Leaves, then sends the event and waits until it is delivered: afterwards the machine may end.
async fn leave_and_tell(node: &Node, notices: &Notices) -> Outcome {
    let outcome = leave::leave(node, notices).await;
    if let Some(departure) = node.state.now().departure {
        metrics().departure(departure.reason.as_str(), outcome.metric_label());
    }
    if outcome == Outcome::Stayed {
        return outcome;
    }
    let words = node.state.now().with_killed(outcome.as_str());
    let event = if outcome == Outcome::Failed { Event::Failed } else { Event::Left };
    node.events.tell(event, Some(&words));
    node.events.settle(last_wait(node)).await;
    outcome
}

/// Returns how long to wait for the last event: at most until the departure's present deadline.
fn last_wait(node: &Node) -> Duration {
    let deadline = node.state.now().departure.map(|departure| departure.deadline);
    let left = deadline.map(|deadline| deadline - OffsetDateTime::now_utc());
    let left = left.and_then(|left| Duration::try_from(left).ok()).unwrap_or(Duration::ZERO);
    node.settings.hook_scripts.last_wait.min(left)
}

/// Runs a manager's duties during its departure, as soon as the node's id is known: a notice may come earlier.
async fn look_after_others(node: &Node) -> Infallible {
    let mut states = node.state.subscribe();
    loop {
        let member = states.borrow_and_update().membership.clone();
        if let Some(member) = &member {
            return manager::run_duties(node, member, Scope::WhileLeaving).await;
        }
        if states.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Time limit of the clean-up, which only saves time for other nodes or for the next start.
const CLEAN_UP_PATIENCE: Duration = Duration::from_secs(15);
const NOT_ROLLED_BACK: &str =
    "cannot check whether an unfinished boot must be rolled back; the next start checks";

async fn give_up_what_was_begun(node: &Node) {
    match tokio::time::timeout(CLEAN_UP_PATIENCE, boot::abandon(node)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!("{NOT_ROLLED_BACK}: {}", chain(&error));
        }
        Err(_) => tracing::warn!("{NOT_ROLLED_BACK}: no answer within {CLEAN_UP_PATIENCE:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::tests::fake_engine::{FakeEngine, RELEASES};
    use crate::common::instance::Role;

    /// Serves until the node is Ready; returns the calls to AWS until then.
    async fn calls_before_ready(stub: &Stub) -> Vec<String> {
        let engine = FakeEngine::start(RELEASES[0]);
        let mut node = Node::example(engine.swarm(), stub).await;
        let dir = tempfile::tempdir().unwrap();
        dir.path().clone_into(&mut node.settings.state_dir);
        let aws = stub.aws().await;
        let announcer = Announcer::new(&node.instance, &node.settings, &aws);
        let membership = Membership {
            node_id: "n1".to_owned(),
            swarm_id: "s1".to_owned(),
            generation: 1,
            role: Role::Manager,
        };
        let mut states = node.state.subscribe();
        tokio::select! {
            never = serve(&node, &membership, &announcer, None) => match never {},
            ready = states.wait_for(|state| state.phase == Phase::Ready) => drop(ready.unwrap()),
        }
        stub.requests()
    }

    #[tokio::test]
    async fn a_node_is_ready_once_its_row_is_written() {
        let stub = Stub::start().await;
        stub.answer(200, "{}");
        let calls = calls_before_ready(&stub).await;
        assert!(calls.iter().any(|call| call.contains("member#manager#i-0abc")), "{calls:?}");
    }

    #[tokio::test]
    async fn a_ledger_that_is_down_keeps_no_member_from_being_ready() {
        let calls = calls_before_ready(&Stub::start().await).await;
        assert!(calls[0].contains("member#manager#i-0abc"), "the row was not tried: {calls:?}");
    }
}
