//! Makes the AWS clients once and shares them: one configuration, one credential cache, one set of connections per
//! service.
//!
//! Guarantees:
//! - the SDKs' own variables and files apply: `AWS_ENDPOINT_URL` and its forms per service, `AWS_REGION`,
//!   `AWS_PROFILE`, `AWS_EC2_METADATA_SERVICE_ENDPOINT`, …;
//! - no call hangs: each attempt and each operation has a time-out;
//! - making the clients needs no network where the region is given.
//!
//! The SDK's own clients are DynamoDB's and SSM's, on which founding and joining rest. The few calls to the other
//! services are signed by hand ([`Signed`]), with the SDK's signer, credentials and HTTP client: a crate of the SDK for
//! each would make the binary by a third of a megabyte larger.
//!
//! Caveat: the SDK retries twice by itself, out of a bucket that a dozen failures empty. A caller that must succeed
//! retries on top of it, as [`crate::common::retry`] does.

pub mod autoscaling;
mod call_counter;
pub mod cloudformation;
pub mod cloudwatch;
mod connector;
mod credentials;
pub mod ec2;
pub mod ecr;
mod error;
mod query;
pub mod s3;
mod signed;
#[cfg(test)]
pub(crate) mod stub;
#[cfg(test)]
mod tests;

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{Region, SdkConfig};

pub(crate) use error::result_of;
pub use error::{AwsError, AwsErrorKind};
pub use signed::{Answer, BACKOFF, LARGEST_ANSWER, Signed};

use autoscaling::AutoScaling;
use call_counter::CallCounter;
use cloudformation::CloudFormation;
use cloudwatch::CloudWatch;
use connector::connector;
#[cfg(test)]
pub(crate) use connector::http_client;
pub use connector::sdk_defaults;
use ec2::Ec2;
use ecr::Ecr;
use s3::S3;

/// A connection inside a region takes milliseconds; a second attempt at a SYN is worth more than a long wait for a
/// route that does not exist.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Keeps one lost answer from using up a departure's time.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// All attempts of the SDK together: the longest time of one call before skep decides again.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(15);
/// The SDK's own attempts: they cover a short failure; skep retries after a longer one.
pub const SDK_ATTEMPTS: u32 = 3;

/// Every AWS service that skep uses. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub struct Aws {
    /// DynamoDB in the region of the ledger.
    pub dynamodb: aws_sdk_dynamodb::Client,
    /// SSM in the region of the ledger, for the secret store.
    pub ssm: aws_sdk_ssm::Client,
    /// Auto Scaling in the instance's own region.
    pub autoscaling: AutoScaling,
    /// CloudFormation in the instance's own region.
    pub cloudformation: CloudFormation,
    /// CloudWatch in the instance's own region.
    pub cloudwatch: CloudWatch,
    /// EC2 in the instance's own region.
    pub ec2: Ec2,
    /// ECR; each call names its region.
    pub ecr: Ecr,
    /// S3; each bucket names its region, by default the instance's own.
    pub s3: S3,
}

impl Aws {
    /// Starts to make the HTTP client on its own thread, which reads the host's CA certificates. If it is called before
    /// the metadata is read, they are ready by the time the region is known.
    pub fn preload() {
        let read = || drop(connector());
        // Without the thread, the first call reads them.
        let _ = std::thread::Builder::new().name("ca-certificates".into()).spawn(read);
    }

    /// Makes the clients. Credentials are fetched at the first call and renewed as they expire.
    ///
    /// `home` is the instance's own region: its group, its hooks and the stack that waits for it are nowhere else.
    /// `region` is the region of the ledger and the tokens; `None` where it is the same. Both override the environment
    /// (skep's settings have read `AWS_REGION` by then).
    pub async fn load(region: Option<&str>, home: &str) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(OPERATION_TIMEOUT)
            .build();
        let config = sdk_defaults()
            .retry_config(RetryConfig::standard().with_max_attempts(SDK_ATTEMPTS))
            .timeout_config(timeouts)
            .region(Region::new(region.unwrap_or(home).to_owned()))
            .load()
            .await;
        let at_home = config.to_builder().region(Region::new(home.to_owned())).build();
        Self::of(&config, &at_home)
    }

    /// Makes the clients from an existing configuration; they share its credential cache.
    #[must_use]
    pub fn new(config: &SdkConfig) -> Self {
        Self::of(config, config)
    }

    fn of(config: &SdkConfig, at_home: &SdkConfig) -> Self {
        let kept = credentials::kept(config);
        let with_kept = |config: &SdkConfig| {
            let mut config = config.to_builder();
            config.set_credentials_provider(kept.clone());
            config.build()
        };
        let (config, at_home) = (&with_kept(config), &with_kept(at_home));
        use {aws_sdk_dynamodb as dynamodb, aws_sdk_ssm as ssm};
        macro_rules! counted {
            ($service:ident) => {{
                let counter = CallCounter(stringify!($service));
                let config = $service::config::Builder::from(config).interceptor(counter);
                $service::Client::from_conf(config.build())
            }};
        }
        Self {
            dynamodb: counted!(dynamodb),
            ssm: counted!(ssm),
            autoscaling: AutoScaling::new(at_home),
            cloudformation: CloudFormation::new(at_home),
            cloudwatch: CloudWatch::new(at_home),
            ec2: Ec2::new(at_home),
            ecr: Ecr::new(config),
            s3: S3::new(at_home),
        }
    }
}
