//! Sends batches to CloudWatch Logs, to S3, or to storage with S3's protocol.

use aws_config::SdkConfig;
use serde_json::{Value, json};

use super::batch::Batch;
use crate::clients::aws::{Answer, Signed};
use crate::config::Destination;

/// Characters shown of an answer that refuses something.
const SHOWN: usize = 200;

/// The reason why a batch has not arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A retry may help.
    Passing(String),
    Final(String),
}

#[derive(Debug)]
pub struct Target<'a> {
    pub service: Signed,
    pub to: &'a Destination,
    pub cluster: &'a str,
    pub instance: &'a str,
}

impl<'a> Target<'a> {
    /// # Errors
    /// When no region is configured.
    pub fn new(
        config: &SdkConfig,
        endpoint: Option<&str>,
        to: &'a Destination,
        cluster: &'a str,
        instance: &'a str,
    ) -> Result<Self, String> {
        let service = if matches!(to, Destination::Logs(_)) { "logs" } else { "s3" };
        Ok(Self { service: Signed::new(config, service, endpoint)?, to, cluster, instance })
    }

    /// Sends a batch, and returns the number of its events that the receiver has rejected.
    ///
    /// # Errors
    /// When the receiver did not accept the batch as a whole.
    pub async fn send(&self, batch: &Batch, number: usize) -> Result<u64, Problem> {
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
                rejected(&answer.body, batch.events.len() as u64)
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
                judge(&answer.map_err(Problem::Passing)?).map(|()| 0)
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
    let Answer { status, body, .. } = answer;
    let problem = || format!("status {status}: {}", beginning(body));
    match status {
        200..=299 => Ok(()),
        429 | 500.. => Err(Problem::Passing(problem())),
        // CloudWatch Logs answers 400 to throttled calls, and to credentials that are being renewed.
        _ if ["Throttling", "ExpiredToken", "Unavailable"].iter().any(|it| body.contains(it)) => {
            Err(Problem::Passing(problem()))
        }
        _ => Err(Problem::Final(problem())),
    }
}

/// Returns the number of a batch's events that an accepted `PutLogEvents` has left out. The events are in the order of
/// their time: too old ones are at the start, too new ones at the end.
///
/// <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_RejectedLogEventsInfo.html>
fn rejected(body: &str, events: u64) -> Result<u64, Problem> {
    let not_json = |_| Problem::Passing(format!("the answer is not JSON: {}", beginning(body)));
    let answer: Value = serde_json::from_str(body).map_err(not_json)?;
    let info = match answer.get("rejectedLogEventsInfo") {
        None | Some(Value::Null) => return Ok(0),
        Some(info) => info,
    };
    let index = |field: &str| info.get(field).and_then(Value::as_u64);
    let old = index("tooOldLogEventEndIndex").max(index("expiredLogEventEndIndex"));
    let new = index("tooNewLogEventStartIndex").map(|start| events.saturating_sub(start));
    Ok(match (old, new) {
        // The answer does not report which ones.
        (None, None) => events,
        (old, new) => (old.unwrap_or(0) + new.unwrap_or(0)).min(events),
    })
}

fn beginning(body: &str) -> String {
    body.chars().filter(|c| !c.is_control()).take(SHOWN).collect()
}

/// Replaces the characters that stream names, object keys or paths would have to escape.
fn plain(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-/".contains(c) { c } else { '_' };
    name.trim_matches('/').chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejected_events_are_counted() {
        let count = |info: Value| {
            let body = json!({ "rejectedLogEventsInfo": info, "nextSequenceToken": "1" });
            rejected(&body.to_string(), 10).unwrap()
        };
        assert_eq!(count(Value::Null), 0);
        assert_eq!(count(json!({ "expiredLogEventEndIndex": 1 })), 1);
        assert_eq!(count(json!({ "tooOldLogEventEndIndex": 3, "expiredLogEventEndIndex": 2 })), 3);
        assert_eq!(
            count(json!({ "expiredLogEventEndIndex": 2, "tooNewLogEventStartIndex": 7 })),
            5
        );
        assert_eq!(count(json!({ "expiredLogEventEndIndex": 99 })), 10);
        assert_eq!(count(json!({})), 10, "cannot tell which");
        assert_eq!(rejected("{}", 10), Ok(0));
        assert!(matches!(rejected("<html>", 10), Err(Problem::Passing(_))));
    }
}
