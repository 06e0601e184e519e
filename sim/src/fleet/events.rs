//! Records Docker's events of one instance, which show how its containers ended.
//!
//! Every event is written to `docker-events.jsonl`; those of containers are also kept in memory. The last events of a
//! killed daemon are lost.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use bollard::Docker;
use bollard::models::{EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;

/// The number as in Docker's events.
const SIGTERM: i32 = 15;

/// One event of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerEvent {
    /// Nanoseconds since 1970, by the daemon's clock.
    pub nanos: i64,
    /// `start`, `kill`, `die`, `stop`, `oom`, `destroy`, …
    pub action: String,
    pub container: String,
    /// Id of the Swarm task, if the container is one.
    pub task: Option<String>,
    /// Name of the Swarm service, if the container belongs to one.
    pub service: Option<String>,
    /// For `die`: 0 after a stop with grace, 137 after SIGKILL.
    pub exit_code: Option<i32>,
    /// For `kill`: the signal's number.
    pub signal: Option<i32>,
}

impl ContainerEvent {
    /// For `die`: whether the container got SIGTERM before its shell had set the trap, and was then killed only after
    /// its full grace. The kernel drops a signal that a container's first process does not handle.
    pub fn had_its_grace(&self, events: &[ContainerEvent]) -> bool {
        const TRAP_IS_SET_WITHIN: i64 = 2_000_000_000;
        /// Docker's default, and the shortest grace of the tests' services.
        const GRACE: i64 = 10_000_000_000;
        let at = |action: &str, signal: Option<i32>| {
            let is_it = |event: &&ContainerEvent| {
                event.container == self.container
                    && event.action == action
                    && event.signal == signal
            };
            events.iter().find(is_it).map(|event| event.nanos)
        };
        let (started, asked) = (at("start", None), at("kill", Some(SIGTERM)));
        started.zip(asked).is_some_and(|(started, asked)| {
            asked - started < TRAP_IS_SET_WITHIN && self.nanos - asked >= GRACE
        })
    }

    fn of(event: &EventMessage) -> Option<ContainerEvent> {
        if event.typ != Some(EventMessageTypeEnum::CONTAINER) {
            return None;
        }
        let actor = event.actor.clone()?;
        let mut attributes: HashMap<String, String> = actor.attributes.unwrap_or_default();
        Some(ContainerEvent {
            nanos: event.time_nano?,
            action: event.action.clone()?,
            container: actor.id?,
            exit_code: attributes.get("exitCode").and_then(|code| code.parse().ok()),
            signal: attributes.get("signal").and_then(|signal| signal.parse().ok()),
            task: attributes.remove("com.docker.swarm.task.id"),
            service: attributes.remove("com.docker.swarm.service.name"),
        })
    }
}

/// The container events of one instance.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events(Arc<Mutex<Vec<ContainerEvent>>>);

impl Events {
    /// Follows one daemon until it stops answering. `since` is the Unix time of the daemon's start in seconds: the
    /// daemon also sends the events before this call.
    pub(crate) async fn follow(&self, docker: &Docker, since: i64, mut record: File) {
        let options = EventsOptionsBuilder::new().since(&since.to_string()).build();
        let mut events = Box::pin(docker.events(Some(options)));
        while let Some(Ok(event)) = events.next().await {
            if let Ok(line) = serde_json::to_string(&event) {
                writeln!(record, "{line}").ok();
            }
            if let Some(event) = ContainerEvent::of(&event) {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
            }
        }
    }

    pub(crate) fn all(&self) -> Vec<ContainerEvent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
