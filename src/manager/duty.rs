//! Runs a duty as a series of polls, and reports its last success and its last failure.

use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument;

use super::complaints::Complaints;
use super::error::ManagerError;
use super::observe::Fleet;
use crate::clients::docker::SwarmError;
use crate::common::errors::chain;
use crate::node::Node;
use crate::telemetry::metrics::metrics;

/// Maximum age of Docker's answer about this host that confirms a refusal; duties that are refused at once share it.
const CONFIRMATION_AGE: Duration = Duration::from_secs(1);

/// How a duty is run.
pub(super) struct Duty {
    /// Name in the log, in `skep status --json` and in the metrics.
    pub name: &'static str,
    /// Pause before the first poll: a duty for which a node waits has none. The others must not all call AWS at once
    /// when all managers boot.
    pub first: Duration,
    /// Pause after a poll that failed.
    pub after_failure: Duration,
    /// Consequence of a failure, as the beginning of a sentence, where a failure is a trouble of this node; else the
    /// failure is only logged.
    pub trouble: Option<&'static str>,
}

/// What a duty has for its polls.
pub(super) struct Poll<'a, Memory> {
    pub fleet: &'a Fleet<'a>,
    /// State that one poll leaves for the next. It starts empty when this node becomes a manager.
    pub memory: &'a mut Memory,
    pub complaints: &'a mut Complaints,
}

impl Duty {
    /// Polls until this node is not a manager; pauses for the time that each poll returns. A failure is logged once,
    /// until a poll succeeds or fails in another way. A missing leader is reported by [`super::quorum`], once for all
    /// duties.
    pub(super) async fn run<Memory: Default>(
        self,
        fleet: &Fleet<'_>,
        poll: impl AsyncFn(Poll<'_, Memory>) -> Result<Duration, ManagerError>,
    ) {
        self.run_paused_by(tokio::time::sleep, fleet, poll).await;
    }

    /// The same, with another kind of pause, which may end earlier.
    pub(super) async fn run_paused_by<Memory: Default, P: Future<Output = ()>>(
        self,
        wait: impl Fn(Duration) -> P,
        fleet: &Fleet<'_>,
        poll: impl AsyncFn(Poll<'_, Memory>) -> Result<Duration, ManagerError>,
    ) {
        let state = &fleet.node.state;
        let (mut memory, mut complaints) = (Memory::default(), Complaints::default());
        let mut logged = Logged::default();
        let mut pause = self.first;
        loop {
            wait(pause).await;
            let with = Poll { fleet, memory: &mut memory, complaints: &mut complaints };
            let span = tracing::info_span!("duty", duty = self.name);
            let begin = Instant::now();
            let polled = poll(with).instrument(span).await;
            metrics().duty_polled(self.name, begin.elapsed());
            let failed = complaints.end_poll();
            pause = match polled {
                Ok(pause) => {
                    logged = Logged::default();
                    // A failure with one of many shows its own trouble.
                    if self.trouble.is_some() && failed.is_none() {
                        state.trouble(self.name, None);
                    }
                    state.report_duty(self.name, failed);
                    pause
                }
                Err(error) if error.is_not_manager() && is_no_manager(fleet.node).await => return,
                Err(error) => {
                    state.report_duty(self.name, Some(chain(&error)));
                    self.complain(fleet, &mut logged, &error);
                    self.after_failure
                }
            };
        }
    }

    fn complain(&self, fleet: &Fleet<'_>, logged: &mut Logged, error: &ManagerError) {
        let Some(complaint) = logged.news(error) else { return };
        match self.trouble {
            // Other duties report what is wrong with Docker.
            Some(_) if error.of_docker().is_some() => tracing::debug!("{}: {complaint}", self.name),
            Some(consequence) => {
                fleet.node.state.trouble(self.name, Some(format!("{consequence}: {complaint}")));
            }
            None => tracing::warn!("{}: {complaint}", self.name),
        }
    }
}

/// Whether Docker on this host confirms that this node is not a manager. A manager whose Docker restarts is refused
/// like a worker; its duties must not forget what they have seen.
async fn is_no_manager(node: &Node) -> bool {
    let local = node.swarm.fetch_local_node_lately(CONFIRMATION_AGE).await;
    local.is_ok_and(|local| local.serves_as_manager().is_no())
}

/// What was logged about polls that failed one after the other.
#[derive(Default)]
struct Logged {
    complaint: String,
    was_silent: bool,
}

impl Logged {
    /// Returns the text to log for this failure, if it is new.
    fn news(&mut self, error: &ManagerError) -> Option<String> {
        // A call that was under way when the leader disappeared gets no answer. The next call shows whether there is a
        // leader.
        let is_silent = error.of_docker().is_some_and(SwarmError::is_silence);
        let is_first = !std::mem::replace(&mut self.was_silent, is_silent);
        // A Docker that restarts answers for a while that this node is not a manager.
        if error.has_no_leader() || error.is_not_manager() || (is_silent && is_first) {
            return None;
        }
        let complaint = chain(error);
        if self.complaint == complaint {
            return None;
        }
        self.complaint.clone_from(&complaint);
        Some(complaint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::SwarmErrorKind;
    use crate::clients::docker::tests::fake_engine::{FakeEngine, Instead, RELEASES};
    use crate::common::instance::Membership;

    fn failed(kind: SwarmErrorKind) -> ManagerError {
        SwarmError { operation: "list the nodes", kind, message: format!("{kind:?}") }.into()
    }

    #[test]
    fn a_leader_that_is_gone_is_no_line_of_each_loop() {
        let (mut logged, mut other) = (Logged::default(), Logged::default());
        let (gone, silent) = (failed(SwarmErrorKind::NoLeader), failed(SwarmErrorKind::TimedOut));
        for error in [&silent, &gone, &gone, &silent, &gone] {
            assert_eq!(logged.news(error), None);
        }
        let first = [&silent, &silent, &silent].map(|error| other.news(error).is_some());
        assert_eq!(first, [false, true, false], "a Docker that hangs is logged once");
        let refused = failed(SwarmErrorKind::Unreachable);
        assert!(logged.news(&refused).is_some() && logged.news(&refused).is_none());
    }

    const DUTY: Duty = Duty {
        name: "labels",
        first: Duration::ZERO,
        after_failure: Duration::from_millis(10),
        trouble: Some("cannot label"),
    };
    const A_WHILE: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn a_trouble_with_one_of_many_stays_shown_after_the_poll() {
        let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
        let node = Node::example(engine.swarm(), &stub).await;
        let membership = Membership::example();
        let fleet = Fleet::new(&node, &membership);
        let run = DUTY.run(&fleet, async |Poll { fleet, complaints, .. }: Poll<'_, ()>| {
            fleet.node.state.trouble("labels", Some("n1 is refused".into()));
            complaints.record("n1 is refused".into());
            Ok(Duration::from_secs(3600))
        });
        assert!(tokio::time::timeout(A_WHILE, run).await.is_err(), "it goes on");
        let state = node.state.now();
        assert_eq!(state.trouble.as_deref(), Some("n1 is refused"));
        let report = &state.duties["labels"];
        assert_eq!(report.last_success, None);
        assert_eq!(report.last_failure.as_ref().unwrap().error, "n1 is refused");
    }

    /// A manager whose Docker restarts is refused like a worker.
    #[tokio::test]
    async fn only_a_node_that_is_no_manager_by_its_own_docker_ends_a_duty() {
        let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
        let node = Node::example(engine.swarm(), &stub).await;
        let membership = Membership::example();
        let fleet = Fleet::new(&node, &membership);
        let refused = async || {
            let poll = async |_: Poll<'_, ()>| Err(failed(SwarmErrorKind::NotManager));
            tokio::time::timeout(A_WHILE, DUTY.run(&fleet, poll)).await
        };
        const STARTS: &str = r#"{ "Swarm": { "LocalNodeState": "pending", "NodeID": "n1" } }"#;
        engine.lock().instead.insert("/info", Instead::Answer(STARTS));
        assert!(refused().await.is_err(), "Docker restarts");
        engine.lock().instead.insert("/info", Instead::Refusal(500, "busy"));
        assert!(refused().await.is_err(), "it cannot tell");
        const WORKER: &str = r#"{ "Swarm": { "LocalNodeState": "active", "NodeID": "n1" } }"#;
        engine.lock().instead.insert("/info", Instead::Answer(WORKER));
        assert!(refused().await.is_ok());
    }
}
