//! Logs every call: tests assert on the log, and the demo counts the calls.
//!
//! A summary names resources and conditions; it never contains values of parameters or items.

use std::fmt;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Number of calls kept. A full log drops its oldest half: one poll per second and node fills it in minutes.
const CAPACITY: usize = 400_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    DynamoDb,
    Ssm,
    Ecr,
    AutoScaling,
    CloudFormation,
    Ec2,
    ElasticLoadBalancing,
    CloudWatch,
    S3,
    Imds,
}

impl Service {
    /// Returns the name in IAM actions and ARNs.
    pub fn name(self) -> &'static str {
        match self {
            Self::DynamoDb => "dynamodb",
            Self::Ssm => "ssm",
            Self::Ecr => "ecr",
            Self::AutoScaling => "autoscaling",
            Self::CloudFormation => "cloudformation",
            Self::Ec2 => "ec2",
            Self::ElasticLoadBalancing => "elasticloadbalancing",
            Self::CloudWatch => "cloudwatch",
            Self::S3 => "s3",
            Self::Imds => "imds",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One call and its result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The time of arrival, by the cloud's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub service: Service,
    /// The operation; for the metadata, the method and the path.
    pub action: String,
    /// The role's name, or the access key id of long-lived credentials.
    pub principal: Option<String>,
    /// The instance whose credentials signed it, or whose metadata it asked for.
    pub instance_id: Option<String>,
    /// The HTTP status; 0 when no answer was sent.
    pub status: u16,
    /// The error code, `Dropped` or `AnswerLost`.
    pub code: Option<String>,
    /// The call's resources and conditions. Never a secret.
    pub summary: String,
    /// The read units that DynamoDB charges for an answer that was sent.
    #[serde(default)]
    pub read_units: f64,
    /// The write units, in the same way.
    #[serde(default)]
    pub write_units: f64,
    /// Number of rows that DynamoDB has returned.
    #[serde(default)]
    pub rows: usize,
    pub took_micros: u64,
}

#[derive(Debug, Default)]
pub(super) struct RequestLog(Mutex<Vec<Request>>);

impl RequestLog {
    pub(super) fn push(&self, request: Request) {
        let mut log = super::lock(&self.0);
        if log.len() >= CAPACITY {
            log.drain(..CAPACITY / 2);
        }
        log.push(request);
    }

    pub(super) fn snapshot(&self) -> Vec<Request> {
        super::lock(&self.0).clone()
    }

    pub(super) fn take(&self) -> Vec<Request> {
        std::mem::take(&mut *super::lock(&self.0))
    }

    pub(super) fn clear(&self) {
        super::lock(&self.0).clear();
    }
}
