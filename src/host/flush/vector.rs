//! Waits for Vector, by its own metrics: an `internal_metrics` source with a `prometheus_exporter` sink.
//!
//! | metric of every sink | meaning |
//! |---|---|
//! | `vector_buffer_size_events`; `vector_buffer_events` in older versions, both in some | events in the sink's buffer |
//! | `vector_buffer_max_size_events`; `vector_buffer_max_event_size` in older versions | the buffer's capacity in events: a full one stops the sources |
//! | `vector_component_received_events_total` | events that the sink has taken from its buffer |
//! | `vector_component_sent_events_total` | events that were delivered |
//! | `vector_component_discarded_events_total` | events that were discarded |
//!
//! <https://vector.dev/docs/reference/configuration/sources/internal_metrics/>. Vector counts a buffer every 2 s
//! (`lib/vector-buffers/src/buffer_usage_data.rs`), and collects the metrics once a second (`scrape_interval_secs`).
//! skep ignores the exporter itself, because its numbers always change.
//!
//! Vector publishes a metric only once it has counted something. A sink with a number of received events must also have
//! a number of buffered events, and vice versa: where one is missing, Vector has renamed it again, and skep cannot
//! tell. A sink that has sent or discarded nothing has no metric for it.
//!
//! Assumes that a sink delivers in the order in which it receives. A repeated request while others continue
//! (`request.concurrency` above 1) breaks this order; then newer events count for older ones, and the note of the
//! outcome contains the number of events that were still under way.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Url;

use super::page::Client;
use super::poll::{self, Flow, Look, Rise};
use super::progress::{Progress, Reading};
use crate::common::flush_result::FlushResult;
use crate::common::prometheus::{self, Sample};

/// Greatest age of the numbers: both intervals above, and 1 s for the scrape itself.
pub const OLDEST_READING: Duration = Duration::from_secs(4);
/// From this share of a buffer's capacity on, the sources may have waited for space.
const FULL: f64 = 0.9;

/// Waits until Vector has sent everything. `settle` counts from the last task's end and includes [`OLDEST_READING`].
pub async fn wait(url: &Url, settle: Duration, progress: &Progress) -> Result<FlushResult, String> {
    let client = Client::new()?;
    let mut lost = Rise::default();
    let outcome = poll::until_arrived(progress, settle, async || {
        let page = client.text(url).await?;
        look(&sinks(&page)?, &mut lost)
    })
    .await?;
    progress.nothing_lost(outcome)
}

/// The metrics of one sink; `None` for a missing metric.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sink {
    buffered: Renamed,
    size: Renamed,
    received: Option<u64>,
    sent: Option<u64>,
    discarded: Option<u64>,
}

/// A metric with two names: some versions of Vector publish both.
#[derive(Debug, Default, PartialEq, Eq)]
struct Renamed {
    before: Option<u64>,
    now: Option<u64>,
}

impl Renamed {
    fn count(&self) -> Option<u64> {
        self.now.or(self.before)
    }
}

/// Returns the sinks by their components' ids.
fn sinks(page: &str) -> Result<BTreeMap<String, Sink>, String> {
    let mut sinks: BTreeMap<String, Sink> = BTreeMap::new();
    let (of_a_sink, others): (Vec<_>, Vec<_>) =
        prometheus::samples(page).filter(is_shipping).partition(is_of_a_sink);
    for sample in &of_a_sink {
        if let Some(count) = sinks.entry(id(sample)).or_default().count(&sample.name) {
            add(count, sample)?;
        }
    }
    // The buffer's gauges have the label `component_kind` since 0.31.
    for sample in others.iter().filter(|sample| sample.label("component_kind").is_none()) {
        if let Some(count) = sinks.get_mut(&id(sample)).and_then(|sink| sink.count(&sample.name)) {
            add(count, sample)?;
        }
    }
    sinks.retain(|_, sink| *sink != Sink::default());
    if sinks.is_empty() { Err("the answer has no metrics of a sink".to_owned()) } else { Ok(sinks) }
}

impl Sink {
    /// Returns the field for a metric; a buffer has one series for each of its stages.
    fn count(&mut self, metric: &str) -> Option<&mut Option<u64>> {
        Some(match metric.strip_prefix("vector_")? {
            "buffer_events" => &mut self.buffered.before,
            "buffer_size_events" => &mut self.buffered.now,
            "buffer_max_event_size" => &mut self.size.before,
            "buffer_max_size_events" => &mut self.size.now,
            "component_received_events_total" => &mut self.received,
            "component_sent_events_total" => &mut self.sent,
            "component_discarded_events_total" => &mut self.discarded,
            _ => return None,
        })
    }
}

fn look(sinks: &BTreeMap<String, Sink>, lost: &mut Rise) -> Result<Look, String> {
    let mut look = Look { is_empty: true, ..Look::default() };
    let (mut all_sent, mut all_discarded, mut all_unsent) = (0, 0, 0);
    for (name, sink) in sinks {
        let missing = |metric: &str| format!("the sink {name} shows no vector_{metric}");
        let (buffered, taken) = match (sink.buffered.count(), sink.received) {
            (Some(buffered), Some(taken)) => (buffered, taken),
            // Nothing has come in yet: only the buffer's capacity is known.
            (None, None) if sink.sent.is_none() && sink.discarded.is_none() => continue,
            (None, _) => return Err(missing("buffer_size_events")),
            (_, None) => return Err(missing("component_received_events_total")),
        };
        let (sent, discarded) = (sink.sent.unwrap_or(0), sink.discarded.unwrap_or(0));
        let (received, finished) = (buffered + taken, sent + discarded);
        all_sent += sent;
        all_discarded += discarded;
        all_unsent += buffered + taken.saturating_sub(finished);
        look.is_full |= sink.size.count().is_some_and(|size| buffered as f64 >= size as f64 * FULL);
        look.counters.extend([taken, sent, discarded]);
        look.flows.push(Flow { name: name.clone(), received, finished });
    }
    if look.flows.is_empty() {
        return Err("no sink has a number of received events".to_owned());
    }
    look.is_empty = all_unsent == 0;
    look.reading = Reading {
        sent: Some(all_sent),
        unsent: Some(all_unsent),
        lost: lost.to(all_discarded),
        detail: None,
    };
    Ok(look)
}

fn id(sample: &Sample) -> String {
    sample.label("component_id").unwrap_or_default().to_owned()
}

/// Whether the sample is of anything but the exporter that skep reads.
fn is_shipping(sample: &Sample) -> bool {
    !matches!(sample.label("component_type"), Some("prometheus_exporter" | "prometheus"))
}

fn is_of_a_sink(sample: &Sample) -> bool {
    sample.label("component_kind") == Some("sink")
}

/// Adds a sample to a count. Vector's gauge has been below 0 at times: such a number is refused.
fn add(count: &mut Option<u64>, sample: &Sample) -> Result<(), String> {
    if !sample.value.is_finite() || sample.value < 0.0 {
        return Err(format!("{} is {}", sample.name, sample.value));
    }
    // Counts are whole, and far below 2^53.
    *count = Some(count.unwrap_or(0) + sample.value as u64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: &str = r#"component_id="out",component_kind="sink",component_type="loki""#;

    /// A page of metrics of one sink.
    fn page(metrics: &[(&str, i64)]) -> String {
        metrics.iter().map(|(name, value)| format!("vector_{name}{{{OUT}}} {value}\n")).collect()
    }

    fn looked(page: &str) -> Result<Look, String> {
        look(&sinks(page)?, &mut Rise::default())
    }

    fn unsent(metrics: &[(&str, i64)]) -> Result<Option<u64>, String> {
        looked(&page(metrics)).map(|look| look.reading.unsent)
    }

    #[test]
    fn a_buffer_is_read_by_both_of_its_names_and_counted_once() {
        let received = ("component_received_events_total", 10);
        let sent = ("component_sent_events_total", 10);
        let (before, now) = (("buffer_events", 500), ("buffer_size_events", 500));
        assert_eq!(unsent(&[before, received, sent]), Ok(Some(500)));
        assert_eq!(unsent(&[now, received, sent]), Ok(Some(500)));
        assert_eq!(unsent(&[before, now, received, sent]), Ok(Some(500)));
        for size in ["buffer_max_event_size", "buffer_max_size_events"] {
            assert!(looked(&page(&[now, (size, 500), received])).unwrap().is_full);
            assert!(!looked(&page(&[now, (size, 5000), received])).unwrap().is_full);
        }
    }

    #[test]
    fn a_metric_that_is_missing_is_not_0() {
        let buffered = ("buffer_size_events", 0);
        let received = ("component_received_events_total", 10);
        let sent = ("component_sent_events_total", 10);
        assert_eq!(unsent(&[buffered, received, sent]), Ok(Some(0)));
        assert_eq!(unsent(&[buffered, received]), Ok(Some(10)), "nothing was sent yet");
        for (metrics, missing) in [
            (&[received, sent], "no vector_buffer_size_events"),
            (&[buffered, sent], "no vector_component_received_events_total"),
        ] {
            let problem = unsent(metrics).unwrap_err();
            assert!(
                problem.starts_with("the sink out shows") && problem.contains(missing),
                "{problem}"
            );
        }
        assert!(unsent(&[("buffer_size_events", -3), received]).unwrap_err().contains("is -3"));
    }

    #[test]
    fn a_sink_that_nothing_has_reached_is_left_out() {
        let other =
            r#"vector_buffer_max_size_events{component_id="idle",component_kind="sink"} 500"#;
        let busy = page(&[("buffer_size_events", 2), ("component_received_events_total", 3)]);
        let look = looked(&format!("{busy}{other}\n")).unwrap();
        assert_eq!((look.reading.unsent, look.flows.len()), (Some(5), 1));
        assert!(looked(other).unwrap_err().contains("no sink has"));
    }
}
