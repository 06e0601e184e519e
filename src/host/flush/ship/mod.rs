//! Sends the tail of configured files, of the journal and of the stopped tasks' logs to CloudWatch Logs or
//! S3-compatible storage: skep's own last resort, for nodes without a shipper.
//!
//! Guarantees:
//! - skep first writes all batches to disk, and after every batch it records which ones have arrived; a restarted skep
//!   continues from there. Between an answer and that record, one batch may be sent again: CloudWatch Logs would show
//!   it twice, S3 has the same object.
//! - Memory is bounded: [`tail::LARGEST_SOURCE`] bytes for each of the two sources that are read at a time, and one
//!   batch while it is sent. So is the disk: 64 MiB for all sources together.
//! - A source that cannot be read or sent, and events that the receiver rejects, are counted and named in the outcome;
//!   they do not stop the rest.

mod batch;
mod source;
mod spool;
mod tail;
mod target;
#[cfg(test)]
mod tests;

use std::time::Duration;

use aws_config::Region;

use super::progress::{Progress, Reading};
use crate::clients::aws::sdk_defaults;
use crate::common::flush_result::FlushResult;
use crate::common::instance::Departure;
use crate::config::{Destination, Ship};
use crate::node::Node;
use spool::{Spool, Writer};
use target::{Problem, Target};

/// Pause after a round in which nothing has arrived.
const PAUSE: Duration = Duration::from_secs(1);

pub async fn wait(
    settings: &Ship,
    to: &Destination,
    node: &Node,
    departure: &Departure,
    progress: &Progress,
) -> Result<FlushResult, String> {
    let state_dir = &node.settings.state_dir;
    let key = format!("{}/{}", node.boot_id, departure.noticed_at.unix_timestamp());
    let mut spool = match Spool::load(state_dir, &key)? {
        Some(spool) => spool,
        None => {
            let mut spool = Writer::create(state_dir, &key)?;
            source::gather(settings, &node.swarm, &mut spool).await;
            spool.finish()?
        }
    };
    let region = node.settings.region.as_ref().unwrap_or(&node.instance.region);
    let config = sdk_defaults().region(Region::new(region.clone())).load().await;
    let endpoint = settings.endpoint.as_ref().map(reqwest::Url::as_str);
    let target = Target::new(&config, endpoint, to, &node.cluster, &node.instance.id)?;
    send(&mut spool, &target, progress).await
}

/// Sends the sources side by side, a batch of each in turn: a source that cannot be sent does not stop the others.
async fn send(
    spool: &mut Spool,
    target: &Target<'_>,
    progress: &Progress,
) -> Result<FlushResult, String> {
    loop {
        say(spool, progress);
        let batches = spool.next_of_each_source();
        if batches.is_empty() {
            break;
        }
        let mut has_moved = false;
        for number in batches {
            let sent = match spool.batch(number) {
                Ok(batch) => target.send(&batch, number).await,
                Err(problem) => Err(Problem::Final(problem)),
            };
            match sent {
                Ok(rejected) => spool.has_arrived(number, rejected)?,
                Err(Problem::Final(problem)) => spool.give_up(number, &problem)?,
                Err(Problem::Passing(problem)) => {
                    progress.complain(&problem);
                    continue;
                }
            }
            has_moved = true;
            say(spool, progress);
        }
        if !has_moved {
            tokio::time::sleep(PAUSE).await;
        }
    }
    let totals = spool.totals();
    match (totals.failed.is_empty(), totals.summary()) {
        (true, nothing) if nothing.is_empty() => Ok(FlushResult::Done),
        (true, summary) => {
            progress.note(summary);
            Ok(FlushResult::Done)
        }
        (false, summary) => Err(summary),
    }
}

fn say(spool: &Spool, progress: &Progress) {
    let totals = spool.totals();
    let detail = Some(totals.summary()).filter(|summary| !summary.is_empty());
    let (sent, unsent) = (Some(totals.sent), Some(totals.unsent));
    progress.say(Reading { sent, unsent, detail, ..Reading::default() });
}
