//! Boots this node: founds the swarm, or finds it and joins it.
//!
//! Guarantees: [`boot`] returns a [`Membership`] only for an active node of the charter's swarm with a connected
//! manager; of several founders exactly one is published; skep never touches a swarm that does not bear this cluster's
//! label. Every step can be killed and repeated: each round observes Docker and the ledger again.

mod absence;
mod act;
mod belonging;
mod decide;
mod demotion_request;
mod join;
mod lookups;
mod lost_swarm;
mod observe;
mod preflight;
mod recreate;
#[cfg(test)]
pub(crate) mod tests;
mod types;
mod unsettled;
mod user_data;

use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

use crate::clients::docker::{LocalNode, LocalState, SwarmError, SwarmErrorKind};
use crate::clients::ledger::{Charter, LedgerError};
use crate::clients::secrets::{MalformedToken, SecretsError};
use crate::common::errors::chain;
use crate::common::instance::Membership;
use crate::common::state::Phase;
use crate::lifecycle::notices::Notices;
use crate::node::{Node, NodeError};
use crate::telemetry::metrics::Stopwatch;

pub use absence::Absence;
use act::{Next, Progress};
pub use act::{pause_after, publish};
pub use decide::decide;
use lost_swarm::AbsenceTracker;
pub use preflight::{check_address, check_clock};
pub use types::{ADVERTISE_ANOTHER, Mark, Observed, OwnSwarm, Refusal, Stale, Step};
pub use user_data::{finish_before_the_pool, remember_failed_start};

/// How long skep retries after a refusal, counted from the first one: a permission, a role or a table that was just
/// created may not be visible yet. IAM is eventually consistent: most changes arrive within seconds, and Terraform's
/// AWS provider waits up to two minutes for them. One minute covers the usual case, and a lasting mistake is still
/// reported soon.
const CONSISTENCY_GRACE: Duration = Duration::from_secs(60);

/// Why a boot failed.
#[derive(Debug, Error)]
pub enum BootError {
    /// skep refuses to boot: only the operator can solve the problem.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A request to the ledger failed, or one of its rows cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A request to the token store failed, or a value in it cannot be read.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// Docker did not answer, or answered with an error.
    #[error(transparent)]
    Swarm(#[from] SwarmError),
    /// A join token that Docker returned to this manager does not have the format of a token.
    #[error("Docker returned a malformed join token")]
    Token(#[from] MalformedToken),
    /// The time limit of the boot has passed.
    #[error("not in the swarm within boot.deadline ({deadline:?}); the last step was \"{doing}\"")]
    TooLate {
        /// The setting `boot.deadline`.
        deadline: Duration,
        /// The last step, as `skep status` shows it.
        doing: String,
    },
}

impl From<NodeError> for BootError {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Ledger(error) => Self::Ledger(error),
            NodeError::Secrets(error) => Self::Secrets(error),
            NodeError::Swarm(error) => Self::Swarm(error),
            NodeError::Token(error) => Self::Token(error),
        }
    }
}

/// Whether another round can succeed after a failed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outlook {
    /// The failure may pass: throttling, a timeout, Docker that is still starting.
    Passing,
    /// A change that was just made may not be visible yet.
    MaybeNotYet,
    Final,
}

impl BootError {
    fn outlook(&self) -> Outlook {
        match self {
            Self::Refused(_) | Self::Token(_) | Self::TooLate { .. } => Outlook::Final,
            Self::Ledger(error) if error.is_retryable() => Outlook::Passing,
            Self::Secrets(error) if error.is_retryable() => Outlook::Passing,
            // An operator can repair a token that was stored by hand.
            Self::Ledger(LedgerError::Aws(_)) | Self::Secrets(_) => Outlook::MaybeNotYet,
            Self::Ledger(_) => Outlook::Final,
            Self::Swarm(error) => match error.kind {
                SwarmErrorKind::TooOld
                | SwarmErrorKind::TooNew
                | SwarmErrorKind::PermissionDenied
                | SwarmErrorKind::LiveRestore
                | SwarmErrorKind::NftablesFirewall => Outlook::Final,
                _ => Outlook::Passing,
            },
        }
    }
}

/// Time of the first [`Outlook::MaybeNotYet`] since the last successful round.
#[derive(Debug, Default)]
struct NotVisibleYet {
    since: Option<Instant>,
}

impl NotVisibleYet {
    /// Whether to start another round after a failed one.
    fn may_go_on(&mut self, outlook: Outlook, now: Instant) -> bool {
        match outlook {
            Outlook::Passing => true,
            Outlook::MaybeNotYet => now - *self.since.get_or_insert(now) < CONSISTENCY_GRACE,
            Outlook::Final => false,
        }
    }

    /// Forgets the refusals after a successful round: a later refusal has another cause.
    fn end(&mut self) {
        self.since = None;
    }
}

/// Since when every observation has found Docker neither in a swarm nor out of it, or in one but not sound.
#[derive(Debug, Default)]
struct Unsettled {
    /// Whether Docker is in a swarm, and since when; a change of the former restarts the time.
    since: Option<(bool, Instant)>,
}

impl Unsettled {
    fn see(&mut self, local: &LocalNode, now: Instant) {
        let is_in = local.state == LocalState::Active;
        let is_unsettled = match local.state {
            LocalState::Pending | LocalState::Error => true,
            LocalState::Active => !local.is_sound(),
            LocalState::Inactive | LocalState::Locked => false,
        };
        let before = self.since.filter(|(was_in, _)| *was_in == is_in);
        self.since = is_unsettled.then(|| before.unwrap_or((is_in, now)));
    }

    fn end(&mut self) {
        self.since = None;
    }

    fn lasted(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |(_, since)| now - since)
    }
}

/// Brings this node into the charter's swarm before `deadline`; returns `None` when a notice arrives first. A step that
/// has started always runs to its end, because Docker would continue an abandoned join in the background.
///
/// # Errors
/// When only the operator can solve the problem, or the deadline has passed. [`abandon`] then rolls back the unfinished
/// boot.
pub async fn boot(
    node: &Node,
    notices: &Notices,
    deadline: Instant,
) -> Result<Option<Membership>, BootError> {
    within(node, notices, deadline, async {
        user_data::check(node).await?;
        rounds(node, notices).await
    })
    .await
}

/// Like [`boot`], for a node that was a member and lost its membership; the result of UserData no longer matters.
///
/// # Errors
/// As for [`boot`].
pub async fn boot_again(
    node: &Node,
    notices: &Notices,
    deadline: Instant,
) -> Result<Option<Membership>, BootError> {
    within(node, notices, deadline, rounds(node, notices)).await
}

async fn within(
    node: &Node,
    notices: &Notices,
    deadline: Instant,
    boot: impl Future<Output = Result<Option<Membership>, BootError>>,
) -> Result<Option<Membership>, BootError> {
    preflight::check(node, notices, deadline).await?;
    node.state.enter(Phase::Booting, "looking for the swarm");
    match tokio::time::timeout_at(deadline, boot).await {
        Ok(result) => result,
        Err(_) => Err(BootError::TooLate {
            deadline: node.settings.boot.deadline,
            doing: node.state.now().doing,
        }),
    }
}

async fn rounds(node: &Node, notices: &Notices) -> Result<Option<Membership>, BootError> {
    let mut not_visible_yet = NotVisibleYet::default();
    let mut progress = Progress::default();
    let mut unsettled = Unsettled::default();
    let mut is_departure_known = false;
    let mut stopwatch = Stopwatch::default();
    stopwatch.enter("look");
    while notices.now().is_none() {
        let unsettled_for = unsettled.lasted(Instant::now());
        let round = async {
            // In one round trip. A departure that a crash interrupted resumes before the node joins.
            let (seen, departure) = tokio::try_join!(
                observe::observe(node, unsettled_for, &mut progress.joining.absence_tracker),
                async {
                    if is_departure_known {
                        return Ok(None);
                    }
                    Ok(node.ledger.fetch_departure(node.role, &node.instance.id).await?)
                }
            )?;
            let is_out = seen.local.state == LocalState::Inactive;
            crate::lifecycle::leave::resume(node, notices, departure, is_out).await?;
            is_departure_known = true;
            if notices.now().is_some() {
                return Ok(Next::LookAtOnce);
            }
            unsettled.see(&seen.local, Instant::now());
            let step = decide(&node.instance.id, node.role, &seen);
            stopwatch.enter(step.stage());
            act::act(node, step, &mut progress).await
        };
        let round = round.await;
        if round.is_ok() {
            not_visible_yet.end();
        }
        match round {
            Ok(Next::In(membership)) => return Ok(Some(membership)),
            Ok(Next::LookAtOnce) => progress.moved(),
            Ok(Next::Pause) => progress.pause(notices).await,
            Err(error) => {
                if !not_visible_yet.may_go_on(error.outlook(), Instant::now()) {
                    return Err(error);
                }
                progress.joining.absence_tracker.interrupt();
                // This round may not have read the state of Docker, which may have been sound meanwhile.
                unsettled.end();
                let problem = chain(&error);
                node.state.enter(Phase::Booting, format!("retrying after: {problem}"));
                progress.pause(notices).await;
            }
        }
    }
    Ok(None)
}

/// Continues this node's own claim to re-create the quorum, for a node that is leaving; takes no other step of a boot.
/// Returns `None` when the claim is no longer this node's, or waiting alone does not help. Retries passing failures
/// without a limit: the caller sets one.
pub async fn finish_recovery(node: &Node) -> Option<Membership> {
    let nobody = Notices::default();
    let mut progress = Progress::default();
    loop {
        let round = async {
            let seen =
                observe::observe(node, Duration::ZERO, &mut progress.joining.absence_tracker)
                    .await?;
            let is_claim = |it: &Charter| it.is_recovery() && it.is_claimed_by(&node.instance.id);
            let is_ours = seen.charter.as_ref().is_some_and(is_claim);
            match decide(&node.instance.id, node.role, &seen) {
                Step::Ready(membership) => Ok(Some(Next::In(membership))),
                step @ (Step::Recreate { .. } | Step::Publish { .. } | Step::Wait { .. })
                    if is_ours =>
                {
                    act::act(node, step, &mut progress).await.map(Some)
                }
                step => {
                    tracing::warn!("cannot re-create the quorum on this node: {step:?}");
                    Ok(None)
                }
            }
        };
        match round.await {
            Ok(Some(Next::In(membership))) => return Some(membership),
            Ok(Some(Next::LookAtOnce)) => progress.moved(),
            Ok(Some(Next::Pause)) => progress.pause(&nobody).await,
            Ok(None) => return None,
            Err(error) => {
                let problem = chain(&error);
                if error.outlook() == Outlook::Final {
                    tracing::error!("cannot re-create the quorum on this node: {problem}");
                    return None;
                }
                node.state.enter(Phase::Booting, format!("retrying after: {problem}"));
                progress.pause(&nobody).await;
            }
        }
    }
}

/// Makes this worker leave a swarm in which it reaches none of the managers that its Docker knows, so that it can join
/// again; its tasks get their grace, and `why` is the evidence. Retries every failure, because a boot would take a node
/// that has stopped its tasks but not left for a sound one. Returns `false` when a notice arrives first: the departure
/// then stops the tasks, flushes and leaves.
pub async fn leave_stranded(node: &Node, notices: &Notices, why: &str) -> bool {
    let leave = async {
        let mut progress = Progress::default();
        while let Err(error) = act::leave_stale(node, false, why).await {
            let problem = chain(&error);
            node.state
                .enter(Phase::Booting, format!("retrying to leave the swarm after: {problem}"));
            progress.pause(notices).await;
        }
    };
    tokio::select! {
        biased;
        _ = notices.given() => false,
        () = leave => true,
    }
}

/// Observes once, without acting, and returns the [`Refusal`] if there is one.
///
/// # Errors
/// When the ledger or Docker fails.
pub async fn look(node: &Node) -> Result<Option<Refusal>, BootError> {
    let seen = observe::observe(node, Duration::ZERO, &mut AbsenceTracker::default()).await?;
    Ok(match decide(&node.instance.id, node.role, &seen) {
        Step::Refuse(refusal) => Some(refusal),
        _ => None,
    })
}

/// Rolls back a boot that ended without membership: leaves this node's swarm if it was never published, and releases
/// this node's claim.
///
/// # Errors
/// When the ledger or Docker fails; the claim's lease then expires by itself.
pub async fn abandon(node: &Node) -> Result<(), BootError> {
    let seen = observe::observe(node, types::SETTLE_TIME, &mut AbsenceTracker::default()).await?;
    if seen.charter.as_ref().is_some_and(Charter::is_recovery) {
        // This swarm was published before; the next start of skep continues the re-creation.
        return Ok(());
    }
    if is_never_published(&node.instance.id, &seen) {
        tracing::info!("leaving the swarm that was never published");
        node.swarm.leave(true).await?;
        // This row was written before the charter opens, so no node can have joined.
        node.ledger.delete_member(node.role, &node.instance.id).await?;
    }
    if let Some(claim) = seen.charter.filter(|charter| charter.is_claimed_by(&node.instance.id)) {
        tracing::info!(generation = claim.generation, "releasing the claim to found the swarm");
        node.ledger.release_charter(&claim).await?;
    }
    Ok(())
}

/// Whether this node is alone in a swarm that it founded under the claim that it holds. A missing charter proves
/// nothing: it may have been deleted.
fn is_never_published(me: &str, seen: &Observed) -> bool {
    let claim = seen.charter.as_ref().filter(|charter| charter.is_claimed_by(me));
    claim.zip(seen.own_swarm).is_some_and(|(claim, own)| {
        own.is_ours() && own.is_alone && own.generation == Some(claim.generation)
    })
}
