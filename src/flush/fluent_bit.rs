//! Fluent Bit, by its HTTP server (`http_server on`, `storage.metrics on`).
//!
//! | field | what it counts |
//! |---|---|
//! | `/api/v1/storage`: `storage_layer.chunks.total_chunks` | chunks of records that are still buffered; one goes when every output has taken or given it up |
//! | `/api/v1/metrics`: `input.<name>.records` | records that an input has taken in |
//! | `/api/v1/metrics`: `output.<name>.proc_records`, `.dropped_records`, `.retries_failed` | records sent; records, and before 1.9 only chunks, given up |
//!
//! <https://docs.fluentbit.io/manual/administration/monitoring>. The storage's numbers are written anew
//! every 5 s (`flb_storage_metrics_create` in `src/flb_storage.c`), so that one look at them may be as
//! old as that.

use std::time::Duration;

use reqwest::Url;
use serde_json::Value;

use super::page::{Client, needed, number};
use super::poll::{self, Look};
use super::progress::{Progress, Reading};
use crate::flushed::Flushed;

/// No good look is believed before one that is younger than the last task: see above.
const OLDEST_READING: Duration = Duration::from_secs(6);

pub async fn wait(url: &Url, settle: Duration, progress: &Progress) -> Result<Flushed, String> {
    let client = Client::new()?;
    let at = |path| url.join(path).map_err(|error| error.to_string());
    let (storage, metrics) = (at("api/v1/storage")?, at("api/v1/metrics")?);
    let mut lost_before = None;
    let outcome = poll::until_caught_up(progress, settle.max(OLDEST_READING), async || {
        let storage = client.json(&storage).await.map_err(|problem| match problem {
            problem if problem.ends_with("404 Not Found") => {
                format!("{problem}: it needs storage.metrics on")
            }
            problem => problem,
        })?;
        let metrics = client.json(&metrics).await?;
        let lost = given_up(&metrics);
        let before = *lost_before.get_or_insert(lost);
        judge(&storage, &metrics, lost.saturating_sub(before))
    })
    .await?;
    progress.nothing_lost(outcome)
}

fn judge(storage: &Value, metrics: &Value, lost: u64) -> Result<Look, String> {
    let chunks = needed(storage, "/storage_layer/chunks/total_chunks")?;
    let (taken, sent) =
        (sum(metrics, "/input", "records"), sum(metrics, "/output", "proc_records"));
    let Some(sent) = sent else { return Err("the answer has no output".to_owned()) };
    let outputs = metrics["output"].as_object().map_or(0, serde_json::Map::len);
    // Filters and several outputs make other sums; the chunks decide, this is for the operator.
    let unsent = match (chunks, taken) {
        (0, _) => Some(0),
        (_, Some(taken)) if outputs == 1 => Some(taken.saturating_sub(sent + given_up(metrics))),
        _ => None,
    };
    Ok(Look {
        caught_up: chunks == 0,
        mark: vec![sent, taken.unwrap_or(0)],
        reading: Reading {
            sent: Some(sent),
            unsent,
            lost,
            detail: (chunks > 0).then(|| format!("{chunks} chunks")),
        },
    })
}

fn given_up(metrics: &Value) -> u64 {
    let sum = |field| sum(metrics, "/output", field).unwrap_or(0);
    sum("dropped_records").max(sum("retries_failed"))
}

/// Over all plugins of a kind.
fn sum(metrics: &Value, kind: &str, field: &str) -> Option<u64> {
    let plugins = metrics.pointer(kind)?.as_object()?;
    Some(plugins.values().filter_map(|plugin| number(plugin, &format!("/{field}"))).sum())
}
