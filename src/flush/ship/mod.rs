//! skep's own last resort, for nodes without a shipper: the tail of chosen files, of the journal and of
//! the stopped tasks' logs goes to CloudWatch Logs or S3-compatible storage.
//!
//! Guarantees: what is to be sent is written down first, and how much of it has arrived after every
//! batch; a skep that is restarted in the middle goes on there. Between an answer and that note, one
//! batch may be sent again: CloudWatch Logs would show it twice, S3 has the same object.

mod batch;
mod source;
mod spool;

use std::time::Duration;

use aws_config::{BehaviorVersion, Region};
use serde_json::{Value, json};

use super::progress::{Progress, Reading};
use crate::aws::{Answer, Signed};
use crate::config::{Destination, Ship};
use crate::flushed::Flushed;
use crate::instance::Departure;
use crate::node::Node;
use batch::Batch;
use spool::Spool;

/// After a call that may be repeated.
const PAUSE: Duration = Duration::from_secs(1);

pub async fn wait(
    settings: &Ship,
    to: &Destination,
    node: &Node,
    departure: &Departure,
    progress: &Progress,
) -> Result<Flushed, String> {
    let key = format!("{}/{}", node.boot_id, departure.noticed_at.unix_timestamp());
    let mut spool = match Spool::load(&node.settings.state_dir, &key) {
        Some(spool) => spool,
        None => {
            let (batches, problems) = source::gather(settings, &node.swarm).await;
            for problem in &problems {
                tracing::warn!(flusher = "ship", "{problem}");
            }
            Spool::write(&node.settings.state_dir, &key, batches, problems)?
        }
    };
    let target = Target::of(settings, to, node).await?;
    let lines = |batches: &[Batch]| batches.iter().map(|batch| batch.events.len() as u64).sum();
    loop {
        let (sent, left): (u64, u64) = (lines(spool.sent()), lines(spool.left()));
        let reading = Reading { sent: Some(sent), unsent: Some(left), ..Reading::default() };
        progress.say(reading);
        let Some(batch) = spool.left().first() else { break };
        match target.send(batch, spool.number()).await {
            Ok(()) => spool.advance()?,
            Err(Problem::Final(problem)) => return Err(problem),
            Err(Problem::Passing(problem)) => {
                progress.complain(&problem);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    match spool.problems() {
        [] => Ok(Flushed::Done),
        problems => Err(problems.join("; ")),
    }
}

enum Problem {
    /// Asking again may help.
    Passing(String),
    Final(String),
}

struct Target<'a> {
    service: Signed,
    to: &'a Destination,
    cluster: &'a str,
    instance: &'a str,
}

impl<'a> Target<'a> {
    async fn of(settings: &Ship, to: &'a Destination, node: &'a Node) -> Result<Self, String> {
        let region = node.settings.region.as_ref().unwrap_or(&node.instance.region);
        let config = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(region.clone()))
            .load()
            .await;
        let service = if matches!(to, Destination::Logs(_)) { "logs" } else { "s3" };
        let endpoint = settings.endpoint.as_ref().map(reqwest::Url::as_str);
        let service = Signed::new(&config, service, endpoint)?;
        Ok(Self { service, to, cluster: &node.cluster, instance: &node.instance.id })
    }

    async fn send(&self, batch: &Batch, number: usize) -> Result<(), Problem> {
        let name = format!("{}/{}", self.instance, plain(&batch.source));
        match self.to {
            Destination::Logs(group) => {
                let stream = json!({ "logGroupName": group, "logStreamName": name });
                match self.logs("CreateLogStream", &stream).await? {
                    answer if answer.body.contains("ResourceAlreadyExistsException") => {}
                    answer => judge(&answer)?,
                }
                let mut events = stream;
                events["logEvents"] = json!(batch.events);
                let answer = self.logs("PutLogEvents", &events).await?;
                judge(&answer)?;
                if answer.body.contains("rejectedLogEventsInfo") {
                    return Err(Problem::Final(format!("some were rejected: {}", answer.body)));
                }
                Ok(())
            }
            Destination::S3 { bucket, prefix } => {
                let start = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
                let path =
                    format!("/{bucket}{start}/{}/{name}/{number:05}.log", plain(self.cluster));
                let lines =
                    batch.events.iter().map(|event| format!("{} {}\n", event.at, event.text));
                let body: String = lines.collect();
                let headers = [("content-type", "text/plain; charset=utf-8")];
                let answer = self.service.call("PUT", &path, &headers, body.into_bytes()).await;
                judge(&answer.map_err(Problem::Passing)?)
            }
        }
    }

    async fn logs(&self, operation: &str, body: &Value) -> Result<Answer, Problem> {
        let target = format!("Logs_20140328.{operation}");
        let headers = [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", &target)];
        let answer = self.service.call("POST", "/", &headers, body.to_string().into_bytes()).await;
        answer.map_err(Problem::Passing)
    }
}

fn judge(answer: &Answer) -> Result<(), Problem> {
    let Answer { status, body } = answer;
    let problem = || format!("status {status}: {}", body.chars().take(200).collect::<String>());
    match status {
        200..=299 => Ok(()),
        429 | 500.. => Err(Problem::Passing(problem())),
        // Throttling and credentials that are just being renewed are a 400 with CloudWatch Logs.
        _ if ["Throttling", "ExpiredToken", "Unavailable"].iter().any(|it| body.contains(it)) => {
            Err(Problem::Passing(problem()))
        }
        _ => Err(Problem::Final(problem())),
    }
}

/// What streams, objects and paths take without escapes.
fn plain(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-/".contains(c) { c } else { '_' };
    name.trim_matches('/').chars().map(plain).collect()
}
