//! The AWS clients, made once and shared: one configuration, one credential cache, one set of
//! connections per service.
//!
//! Guarantees:
//! - the SDKs' own variables and files are honoured: `AWS_ENDPOINT_URL` and per service,
//!   `AWS_REGION`, `AWS_PROFILE`, `AWS_EC2_METADATA_SERVICE_ENDPOINT`, …;
//! - no call hangs: each attempt and each operation has a time-out;
//! - making the clients asks nothing of the network where the region is given.
//!
//! Caveat: the SDK retries twice by itself, out of a bucket that a dozen failures empty. Whoever
//! must get through retries on top of it, as [`crate::common::retry`] does.

pub mod autoscaling;
mod call_counter;
pub mod cloudformation;
pub mod ecr;
mod error;
mod signed;
#[cfg(test)]
pub(crate) mod stub;
#[cfg(test)]
mod tests;

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};

pub(crate) use error::result_of;
pub use error::{AwsError, AwsErrorKind};
pub use signed::{Answer, Signed};

use autoscaling::AutoScaling;
use call_counter::CallCounter;
use cloudformation::CloudFormation;
use ecr::Ecr;

/// A connection inside a region is there within milliseconds; a second attempt at a SYN is worth
/// more than a long wait for a route that does not exist.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Keeps one lost answer from eating a departure's budget.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// All attempts of the SDK together: what one call may cost before skep decides again.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(15);
/// The SDK's own attempts; they ride out a hiccup, everything longer is skep's to retry.
const SDK_ATTEMPTS: u32 = 3;

/// Every AWS service that skep talks to. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub struct Aws {
    pub dynamodb: aws_sdk_dynamodb::Client,
    pub ssm: aws_sdk_ssm::Client,
    pub autoscaling: AutoScaling,
    pub cloudformation: CloudFormation,
    pub ecr: Ecr,
}

impl Aws {
    /// Begins to read the host's CA certificates on a thread of its own. [`Aws::load`] needs them,
    /// whatever the endpoint: 4 ms from the page cache, more than 20 from a cold disk. Called
    /// before the metadata is read, it makes them ready by the time the region is known.
    pub fn preload() {
        // The SDK keeps what it has read for the whole process; the client is thrown away.
        let read = || {
            let config = aws_sdk_ssm::Config::builder().behavior_version(BehaviorVersion::latest());
            drop(aws_sdk_ssm::Client::from_conf(config.build()));
        };
        // Without the thread it merely happens later.
        let _ = std::thread::Builder::new().name("ca-certificates".into()).spawn(read);
    }

    /// Makes the clients. Credentials are fetched at the first call and renewed as they expire.
    ///
    /// `home` is the instance's own region: its group, its hooks and the stack that waits for it are
    /// nowhere else. `region` is where the ledger and the tokens are; `None` where it is the same. Both
    /// are used whatever the environment says (skep's settings have read `AWS_REGION` by then).
    pub async fn load(region: Option<&str>, home: &str) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(OPERATION_TIMEOUT)
            .build();
        let config = aws_config::defaults(BehaviorVersion::latest())
            .retry_config(RetryConfig::standard().with_max_attempts(SDK_ATTEMPTS))
            .timeout_config(timeouts)
            .region(Region::new(region.unwrap_or(home).to_owned()))
            .load()
            .await;
        let at_home = config.to_builder().region(Region::new(home.to_owned())).build();
        Self::of(&config, &at_home)
    }

    /// The clients of a configuration made elsewhere; they share its credential cache.
    #[must_use]
    pub fn new(config: &SdkConfig) -> Self {
        Self::of(config, config)
    }

    fn of(config: &SdkConfig, at_home: &SdkConfig) -> Self {
        use {
            aws_sdk_autoscaling as autoscaling, aws_sdk_cloudformation as cloudformation,
            aws_sdk_dynamodb as dynamodb, aws_sdk_ssm as ssm,
        };
        macro_rules! counted {
            ($service:ident, $config:expr) => {{
                let counter = CallCounter(stringify!($service));
                let config = $service::config::Builder::from($config).interceptor(counter);
                $service::Client::from_conf(config.build())
            }};
        }
        Self {
            dynamodb: counted!(dynamodb, config),
            ssm: counted!(ssm, config),
            autoscaling: AutoScaling::new(counted!(autoscaling, at_home)),
            cloudformation: CloudFormation::new(counted!(cloudformation, at_home)),
            ecr: Ecr::new(config),
        }
    }
}
