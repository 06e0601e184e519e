//! Waits for Filebeat, by its HTTP endpoint (`http.enabled: true`): `GET /stats`.
//!
//! | field | meaning |
//! |---|---|
//! | `libbeat.pipeline.events.published` | events that the queue has received from the inputs |
//! | `libbeat.pipeline.queue.acked` | events that have left the queue, in its order: acknowledged or discarded |
//! | `libbeat.pipeline.events.active` | events in the queue or at the output that are not acknowledged |
//! | `libbeat.pipeline.queue.max_events` | the queue's capacity: a full queue stops the inputs; 0 or absent where the queue has no such limit |
//! | `libbeat.output.events.acked`, `.dropped` | events that the output's server has accepted; events that were discarded |
//! | `filebeat.events.active` | events whose position in the registry is not written yet |
//!
//! <https://www.elastic.co/docs/reference/beats/filebeat/http-endpoint>, for the fields
//! <https://www.elastic.co/guide/en/beats/metricbeat/7.17/exported-fields-beat.html>, and
//! `libbeat/publisher/pipeline/monitoring.go` of <https://github.com/elastic/beats>.
//!
//! Guarantee: Filebeat acknowledges the queue in its order, so a count proves arrival. Without the queue's capacity,
//! skep cannot tell whether the inputs wait for space; then only a poll with nothing unsent proves arrival.

use std::time::Duration;

use reqwest::Url;
use serde_json::Value;

use super::page::{Client, needed, number};
use super::poll::{self, Flow, Look, Rise};
use super::progress::{Progress, Reading};
use crate::common::flush_result::FlushResult;

/// `filestream` reads a silent file again after up to `backoff.max`, and looks for new files every
/// `prospector.scanner.check_interval`: 10 s each by default. A shorter `flush.settle` is raised to this.
pub const SHORTEST_SETTLE: Duration = Duration::from_secs(11);
/// From this share of the queue's capacity on, its inputs may have waited for space.
const FULL: f64 = 0.9;

/// Waits until Filebeat has sent everything. `settle` counts from the last task's end; at least [`SHORTEST_SETTLE`].
pub async fn wait(url: &Url, settle: Duration, progress: &Progress) -> Result<FlushResult, String> {
    let client = Client::new()?;
    let stats = url.join("stats").map_err(|error| error.to_string())?;
    let mut lost = Rise::default();
    let outcome = poll::until_arrived(progress, settle, async || {
        let page = client.json(&stats).await?;
        judge(&page, &mut lost)
    })
    .await?;
    progress.nothing_lost(outcome)
}

fn judge(page: &Value, lost: &mut Rise) -> Result<Look, String> {
    let queued = needed(page, "/libbeat/pipeline/events/active")?;
    let published = needed(page, "/libbeat/pipeline/events/published")?;
    let sent = needed(page, "/libbeat/output/events/acked")?;
    let dropped = needed(page, "/libbeat/output/events/dropped")?;
    let unsent = queued.max(needed(page, "/filebeat/events/active")?);
    let acked = number(page, "/libbeat/pipeline/queue/acked");
    let size = number(page, "/libbeat/pipeline/queue/max_events").filter(|size| *size > 0);
    let flow = |acked: u64| Flow {
        name: "queue".to_owned(),
        received: published,
        // A queue on disk also acknowledges events that an earlier process has left there.
        finished: acked.min(published.saturating_sub(queued)),
    };
    Ok(Look {
        is_empty: unsent == 0,
        is_full: size.is_some_and(|size| queued as f64 >= size as f64 * FULL),
        flows: acked.filter(|_| size.is_some()).map(flow).into_iter().collect(),
        counters: vec![published, sent, acked.unwrap_or(0)],
        reading: Reading {
            sent: Some(sent),
            unsent: Some(unsent),
            lost: lost.to(dropped),
            detail: None,
        },
    })
}
