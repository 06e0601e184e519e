//! Vector, by its own metrics: an `internal_metrics` source with a `prometheus_exporter` sink.
//!
//! | metric, of every sink | what it counts |
//! |---|---|
//! | `vector_buffer_events` | events in the sink's buffer |
//! | `vector_component_received_events_total` | events that it has taken from there |
//! | `vector_component_sent_events_total` | events that were delivered |
//! | `vector_component_discarded_events_total` | events that were given up |
//!
//! <https://vector.dev/docs/reference/configuration/sources/internal_metrics/>: the metrics are gathered
//! once a second (`scrape_interval_secs`). The exporter itself is left out: it moves all the time.

use std::time::Duration;

use reqwest::Url;

use super::page::Client;
use super::poll::{self, Look};
use super::progress::{Progress, Reading};
use crate::flushed::Flushed;
use crate::prometheus::{self, Sample};

/// Two of the source's own intervals, so that the numbers are younger than the last task.
const OLDEST_READING: Duration = Duration::from_secs(2);

pub async fn wait(url: &Url, settle: Duration, progress: &Progress) -> Result<Flushed, String> {
    let client = Client::new()?;
    let mut lost_before = None;
    let outcome = poll::until_caught_up(progress, settle.max(OLDEST_READING), async || {
        let page = client.text(url).await?;
        let count = Count::of(&page)?;
        let before = *lost_before.get_or_insert(count.discarded);
        Ok(count.look(count.discarded.saturating_sub(before)))
    })
    .await?;
    progress.nothing_lost(outcome)
}

/// Over all sinks.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    buffered: u64,
    received: u64,
    sent: u64,
    discarded: u64,
}

impl Count {
    fn of(page: &str) -> Result<Self, String> {
        let mut count = Self::default();
        let mut found = false;
        for sample in prometheus::samples(page).filter(is_of_a_shipping_sink) {
            let Some(name) = sample.name.strip_prefix("vector_") else { continue };
            let sum = match name {
                "buffer_events" => &mut count.buffered,
                "component_received_events_total" => &mut count.received,
                "component_sent_events_total" => &mut count.sent,
                "component_discarded_events_total" => &mut count.discarded,
                _ => continue,
            };
            found = true;
            // Counts are whole, and far below 2^53.
            *sum += sample.value as u64;
        }
        if found { Ok(count) } else { Err("the answer has no metrics of a sink".to_owned()) }
    }

    fn look(&self, lost: u64) -> Look {
        let taken = self.received.saturating_sub(self.sent + self.discarded);
        let unsent = self.buffered + taken;
        Look {
            caught_up: unsent == 0,
            mark: vec![self.received, self.sent, self.discarded],
            reading: Reading { sent: Some(self.sent), unsent: Some(unsent), lost, detail: None },
        }
    }
}

fn is_of_a_shipping_sink(sample: &Sample) -> bool {
    let is_exporter = |kind: &str| matches!(kind, "prometheus_exporter" | "prometheus");
    match sample.label("component_type") {
        Some(kind) if is_exporter(kind) => false,
        // The buffer's gauge says what kind of component it belongs to since 0.31; before, only sinks
        // had one.
        _ => sample
            .label("component_kind")
            .map_or(sample.name == "vector_buffer_events", |kind| kind == "sink"),
    }
}
