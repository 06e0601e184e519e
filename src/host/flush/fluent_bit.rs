//! Waits for Fluent Bit, by its HTTP server (`http_server on`, `storage.metrics on`).
//!
//! | field | meaning |
//! |---|---|
//! | `/api/v1/storage`: `storage_layer.chunks.total_chunks` | chunks of records that are still buffered; a chunk disappears when every output has sent or dropped it |
//! | `/api/v1/storage`: `input_chunks.<name>.chunks.busy` | chunks that an output is sending, or waits to send again |
//! | `/api/v1/storage`: `input_chunks.<name>.status.overlimit` | the input waits for space |
//! | `/api/v1/metrics`: `input.<name>.records` | records that an input has received |
//! | `/api/v1/metrics`: `filter.<name>.drop_records`, `.add_records` | records that a filter has removed or added |
//! | `/api/v1/metrics`: `output.<name>.proc_records`, `.dropped_records`, `.retries_failed` | records sent; records discarded; chunks discarded, which before 1.9 is the only such number |
//!
//! <https://docs.fluentbit.io/manual/administration/monitoring>. Fluent Bit updates the storage's numbers every 5 s
//! (`flb_storage_metrics_create` in `src/flb_storage.c`), so an answer can be 5 s old.
//!
//! Proof of arrival: no chunk is left. Or, where one output gets every record: as many records are sent as had come in,
//! and a later reading shows no busy chunk, because newer chunks overtake a chunk that is sent again.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::Url;
use serde_json::Value;
use tokio::time::Instant;

use super::page::{Client, needed, number};
use super::poll::{self, Flow, Look, Rise};
use super::progress::{Progress, Reading};
use crate::common::flush_result::FlushResult;

/// Greatest age of the storage's numbers; see above.
pub const OLDEST_READING: Duration = Duration::from_secs(6);

/// Waits until Fluent Bit has sent everything. `settle` counts from the last task's end and includes
/// [`OLDEST_READING`].
pub async fn wait(url: &Url, settle: Duration, progress: &Progress) -> Result<FlushResult, String> {
    let client = Client::new()?;
    let at = |path| url.join(path).map_err(|error| error.to_string());
    let (storage, metrics) = (at("api/v1/storage")?, at("api/v1/metrics")?);
    let mut lost = Rise::default();
    let mut order = Order::default();
    let outcome = poll::until_arrived(progress, settle, async || {
        let asked = Instant::now();
        let storage = client.json(&storage).await.map_err(|problem| match problem {
            problem if problem.ends_with("404 Not Found") => {
                format!("{problem}; set storage.metrics on in its configuration")
            }
            problem => problem,
        })?;
        let metrics = client.json(&metrics).await?;
        judge(&storage, &metrics, asked, &mut order, &mut lost)
    })
    .await?;
    progress.nothing_lost(outcome)
}

fn judge(
    storage: &Value,
    metrics: &Value,
    asked: Instant,
    order: &mut Order,
    lost: &mut Rise,
) -> Result<Look, String> {
    let chunks = needed(storage, "/storage_layer/chunks/total_chunks")?;
    let received = sum(metrics, "/input", "records")?;
    let sent = sum(metrics, "/output", "proc_records")?;
    // Before 1.9 there were no `dropped_records`.
    let dropped = sum(metrics, "/output", "dropped_records").unwrap_or(0);
    let given_up = dropped.max(sum(metrics, "/output", "retries_failed")?);
    let finished = order.finished(sent + dropped, is_busy(storage), asked);
    let adds_up = is_counted_once(metrics);
    let flow = Flow { name: "output".to_owned(), received, finished };
    Ok(Look {
        is_empty: chunks == 0,
        is_full: is_over_limit(storage),
        flows: if adds_up { vec![flow] } else { Vec::new() },
        counters: vec![received, sent, given_up],
        reading: Reading {
            sent: Some(sent),
            unsent: match chunks {
                0 => Some(0),
                _ if adds_up => Some(received.saturating_sub(sent + given_up)),
                _ => None,
            },
            lost: lost.to(given_up),
            detail: (chunks > 0).then(|| format!("{chunks} chunks")),
        },
    })
}

/// Finds how many of the sent records are certainly the oldest ones.
#[derive(Debug, Default)]
struct Order {
    /// Earlier counts of sent records and their times, for as long as the storage's numbers may be older.
    sent: VecDeque<(Instant, u64)>,
    proven: u64,
}

impl Order {
    /// Returns how many records are certainly finished. Where no chunk is busy, the records sent before are the ones
    /// that came in first: chunks that wait for their first turn are newer. "Cannot tell" counts as busy.
    fn finished(&mut self, sent: u64, is_busy: Option<bool>, at: Instant) -> u64 {
        if self.sent.back().is_some_and(|(_, before)| sent < *before) {
            *self = Self::default();
        }
        self.sent.push_back((at, sent));
        while let Some((then, before)) = self.sent.front()
            && at - *then >= OLDEST_READING
        {
            if is_busy == Some(false) {
                self.proven = *before;
            }
            self.sent.pop_front();
        }
        self.proven
    }
}

/// Whether a chunk is busy; `None` where an input does not report it.
fn is_busy(storage: &Value) -> Option<bool> {
    let inputs = storage.pointer("/input_chunks")?.as_object()?;
    let busy: Option<Vec<u64>> =
        inputs.values().map(|input| number(input, "/chunks/busy")).collect();
    Some(busy?.iter().any(|busy| *busy > 0))
}

/// Whether an input waits for space. An input that does not report it has no limit, or reports no busy chunks either,
/// and then its counts prove nothing.
fn is_over_limit(storage: &Value) -> bool {
    let inputs = storage.pointer("/input_chunks").and_then(Value::as_object);
    inputs.is_some_and(|inputs| {
        inputs.values().any(|input| input.pointer("/status/overlimit") == Some(&Value::Bool(true)))
    })
}

/// Whether every record is counted once: one output gets every record, no filter changes the sums, and nothing is left
/// of an earlier process (the input `storage_backlog`).
fn is_counted_once(metrics: &Value) -> bool {
    let plugins = |kind: &str| metrics.pointer(kind).and_then(Value::as_object);
    let changes = |field| match plugins("/filter") {
        Some(filters) if !filters.is_empty() => sum(metrics, "/filter", field) != Ok(0),
        _ => false,
    };
    plugins("/output").is_some_and(|outputs| outputs.len() == 1)
        && plugins("/input")
            .is_some_and(|inputs| !inputs.keys().any(|name| name.starts_with("storage_backlog")))
        && !changes("drop_records")
        && !changes("add_records")
}

/// Adds up a field over all plugins of a kind.
fn sum(metrics: &Value, kind: &str, field: &str) -> Result<u64, String> {
    let plugins = metrics.pointer(kind).and_then(Value::as_object);
    let Some(plugins) = plugins.filter(|plugins| !plugins.is_empty()) else {
        return Err(format!("the answer has no {}", &kind[1..]));
    };
    plugins.values().map(|plugin| needed(plugin, &format!("/{field}"))).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A poll of a shipper that always has chunks.
    fn judged(
        order: &mut Order,
        at: Instant,
        busy: u64,
        records: u64,
        sent: u64,
        filter: &Value,
    ) -> Look {
        let storage = json!({
            "storage_layer": { "chunks": { "total_chunks": 2 } },
            "input_chunks": { "tail.0": { "status": { "overlimit": false }, "chunks": { "busy": busy } } },
        });
        let metrics = json!({
            "input": { "tail.0": { "records": records } },
            "filter": filter,
            "output": { "es.0": { "proc_records": sent, "retries_failed": 0, "dropped_records": 0 } },
        });
        judge(&storage, &metrics, at, order, &mut Rise::default()).unwrap()
    }

    #[test]
    fn a_count_proves_arrival_only_once_no_chunk_is_busy() {
        let mut order = Order::default();
        let start = Instant::now();
        let mut finished = |seconds: u64, busy: u64, sent: u64| {
            let at = start + Duration::from_secs(seconds);
            judged(&mut order, at, busy, 100, sent, &json!({})).flows[0].finished
        };
        assert_eq!(finished(0, 0, 40), 0, "the storage's numbers may be older than the count");
        assert_eq!(finished(6, 1, 70), 0, "the busy chunk may wait to be sent again");
        assert_eq!(finished(12, 0, 90), 70);
        assert_eq!(finished(18, 0, 100), 90);
        assert_eq!(finished(24, 0, 3), 0, "Fluent Bit has restarted");
    }

    #[test]
    fn filters_and_several_outputs_make_counts_that_prove_nothing() {
        let looked = |filter: &Value| {
            judged(&mut Order::default(), Instant::now(), 0, 100, 100, filter).flows.len()
        };
        assert_eq!(looked(&json!({})), 1);
        assert_eq!(looked(&json!({ "grep.0": { "drop_records": 0, "add_records": 0 } })), 1);
        assert_eq!(looked(&json!({ "grep.0": { "drop_records": 4, "add_records": 0 } })), 0);
        assert_eq!(looked(&json!({ "grep.0": {} })), 0, "cannot tell");
        let metrics = |name: &str| json!({ "input": { name: { "records": 1 } }, "output": { "es.0": {} }, "filter": {} });
        assert!(is_counted_once(&metrics("tail.0")));
        assert!(!is_counted_once(&metrics("storage_backlog.1")));
    }
}
