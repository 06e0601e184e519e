//! Records all that skep logs at `info` and above as events.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value};
use time::OffsetDateTime;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Subscriber, event::Event as Logged};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer};

use super::Event;
use super::ring::Ring;
use crate::telemetry::logging::component;

/// Limit for the text of an event: an error that quotes a whole answer must not push other events out of the file.
const LONGEST_MESSAGE: usize = 2000;

/// Writes log lines into the ring.
#[derive(Debug)]
pub struct Recorder(Mutex<Ring>);

impl Recorder {
    pub(super) fn new(ring: Ring) -> Self {
        Self(Mutex::new(ring))
    }

    /// Returns the filter of log lines that become events, independent of `log.level`.
    #[must_use]
    pub fn targets() -> Targets {
        Targets::new().with_target("skep", LevelFilter::INFO)
    }
}

impl<S: Subscriber> Layer<S> for Recorder {
    fn on_event(&self, logged: &Logged<'_>, _: Context<'_, S>) {
        let mut said = Said::default();
        logged.record(&mut said);
        let event = Event {
            at: OffsetDateTime::now_utc(),
            level: logged.metadata().level().to_string(),
            component: component(logged.metadata().target()).to_owned(),
            message: said.message,
            fields: said.fields,
        };
        if let Ok(line) = serde_json::to_vec(&event) {
            // A full disk must not stop a node; the same line is on standard error.
            let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).append(line);
        }
    }
}

#[derive(Default)]
struct Said {
    message: String,
    fields: Map<String, Value>,
}

impl Said {
    fn set(&mut self, field: &Field, value: Value) {
        self.fields.insert(field.name().to_owned(), value);
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text: String = format!("{value:?}").chars().take(LONGEST_MESSAGE).collect();
        match field.name() {
            "message" => self.message = text,
            _ => self.set(field, text.into()),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let text: String = value.chars().take(LONGEST_MESSAGE).collect();
        match field.name() {
            "message" => self.message = text,
            _ => self.set(field, text.into()),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::super::{read, recorder};
    use super::*;

    #[test]
    fn what_is_said_at_info_is_an_event_with_its_fields() {
        let dir = tempfile::tempdir().unwrap();
        let layer = recorder(dir.path()).unwrap().with_filter(Recorder::targets());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!(target: "skep::node", phase = "ready", generation = 3, "worker {}", "n1");
            tracing::debug!(target: "skep::node", "not of the story");
            tracing::error!(target: "hyper", "not skep's");
            tracing::warn!(target: "skep::lifecycle::leave::act", "a\nb{}", "x".repeat(LONGEST_MESSAGE));
        });
        let events = read(dir.path()).unwrap();
        assert_eq!(events.len(), 2, "{events:?}");
        let said = (events[0].component.as_str(), events[0].level.as_str(), &*events[0].message);
        assert_eq!(said, ("node", "INFO", "worker n1"));
        assert_eq!(
            (&events[0].fields["phase"], &events[0].fields["generation"]),
            (&"ready".into(), &3.into())
        );
        assert_eq!(events[1].message.chars().count(), LONGEST_MESSAGE);
    }
}
