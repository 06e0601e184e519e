//! Filebeat, by its HTTP endpoint (`http.enabled: true`): `GET /stats`.
//!
//! | field | what it counts |
//! |---|---|
//! | `libbeat.pipeline.events.active` | events in the queue or at the output that nobody has acknowledged |
//! | `libbeat.pipeline.events.total` | events that inputs have published |
//! | `libbeat.output.events.acked`, `.dropped` | events that the output's server has taken, or that were given up |
//! | `filebeat.events.active` | events whose place in the registry is not written yet |
//!
//! <https://www.elastic.co/docs/reference/beats/filebeat/http-endpoint>, and for the fields
//! <https://www.elastic.co/guide/en/beats/metricbeat/7.17/exported-fields-beat.html>.
//!
//! Assumes that a file is looked at again within `flush.settle`: `filestream` backs off from a file
//! that is silent for up to `backoff.max` (10 s).

use reqwest::Url;
use serde_json::Value;

use super::page::{Client, needed, number};
use super::poll::{self, Look};
use super::progress::{Progress, Reading};
use crate::flushed::Flushed;

pub async fn wait(
    url: &Url,
    settle: std::time::Duration,
    progress: &Progress,
) -> Result<Flushed, String> {
    let client = Client::new()?;
    let stats = url.join("stats").map_err(|error| error.to_string())?;
    let mut dropped_before = None;
    let outcome = poll::until_caught_up(progress, settle, async || {
        let page = client.json(&stats).await?;
        let dropped = number(&page, "/libbeat/output/events/dropped").unwrap_or(0);
        let before = *dropped_before.get_or_insert(dropped);
        judge(&page, dropped.saturating_sub(before))
    })
    .await?;
    progress.nothing_lost(outcome)
}

fn judge(page: &Value, dropped: u64) -> Result<Look, String> {
    let queued = needed(page, "/libbeat/pipeline/events/active")?;
    let acked = needed(page, "/libbeat/output/events/acked")?;
    let unsent = queued.max(number(page, "/filebeat/events/active").unwrap_or(0));
    let total = number(page, "/libbeat/pipeline/events/total").unwrap_or(0);
    Ok(Look {
        caught_up: unsent == 0,
        mark: vec![acked, total],
        reading: Reading { sent: Some(acked), unsent: Some(unsent), lost: dropped, detail: None },
    })
}
