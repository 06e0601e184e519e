//! Runs a duty as a series of polls, and reports its last success and its last failure.

use std::time::Duration;

use tracing::Instrument;

use super::complaints::Complaints;
use super::error::ManagerError;
use super::fleet::Fleet;
use crate::clients::docker::SwarmError;
use crate::common::errors::chain;

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
    /// Polls until Docker answers that this node is not a manager, or is locked; pauses for the time that each poll
    /// returns. A failure is logged once, until a poll succeeds or fails in another way. A missing leader is reported
    /// by [`super::quorum`], once for all duties.
    pub(super) async fn run<Memory: Default>(
        self,
        fleet: &Fleet<'_>,
        poll: impl AsyncFn(Poll<'_, Memory>) -> Result<Duration, ManagerError>,
    ) {
        let state = &fleet.node.state;
        let (mut memory, mut complaints) = (Memory::default(), Complaints::default());
        let mut logged = Logged::default();
        let mut pause = self.first;
        loop {
            tokio::time::sleep(pause).await;
            let with = Poll { fleet, memory: &mut memory, complaints: &mut complaints };
            let span = tracing::info_span!("duty", duty = self.name);
            let polled = poll(with).instrument(span).await;
            let failed = complaints.end_poll();
            pause = match polled {
                Ok(pause) => {
                    logged = Logged::default();
                    state.report_duty(self.name, failed);
                    if self.trouble.is_some() {
                        state.trouble(self.name, None);
                    }
                    pause
                }
                Err(error) if error.is_not_manager() => return,
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
        if error.has_no_leader() || (is_silent && is_first) {
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
    use crate::clients::docker::SwarmErrorKind;

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
}
