//! Calls services whose SDK would cost more than the few calls are worth: `aws-sigv4` signs the requests, and the SDK's
//! own HTTP client sends them, with its TLS and the host's certificates.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::http::{HttpConnector as _, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use axum::http::Request;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::connector::connector;
use super::{ATTEMPT_TIMEOUT, AwsError, OPERATION_TIMEOUT, SDK_ATTEMPTS};
use crate::common::clock::Clock;
use crate::common::errors::chain;
use crate::common::retry::Backoff;

/// Largest body of an answer, in bytes. Auto Scaling describes an instance in some 600 bytes, and a group with all its instances in one answer.
pub const LARGEST_ANSWER: usize = 32 << 20;
/// A signature counts for five minutes before and after its time. A clock that is off by less than this is not corrected.
const CLOCK_TOLERANCE: time::Duration = time::Duration::minutes(4);
/// Waits between the attempts of a call that is signed by hand.
pub const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
/// Domains of AWS by the start of a region's name; all others are in `amazonaws.com`. From the SDKs' partitions.
const DOMAINS: [(&str, &str); 6] = [
    ("cn-", "amazonaws.com.cn"),
    ("eusc-", "amazonaws.eu"),
    ("us-iso-", "c2s.ic.gov"),
    ("us-isob-", "sc2s.sgov.gov"),
    ("eu-isoe-", "cloud.adc-e.uk"),
    ("us-isof-", "csp.hci.ic.gov"),
];

/// Returns AWS's domain for a region.
pub fn domain_of(region: &str) -> &'static str {
    let known = DOMAINS.iter().find(|(start, _)| region.starts_with(start));
    known.map_or("amazonaws.com", |(_, domain)| domain)
}

/// How often a call is attempted that fails for a moment.
#[derive(Clone, Copy, Debug)]
pub struct Attempts(u32);

impl Attempts {
    /// As often as the SDK does with this configuration.
    pub fn of(config: &SdkConfig) -> Self {
        Self(config.retry_config().map_or(SDK_ATTEMPTS, RetryConfig::max_attempts))
    }

    /// Makes a call.
    ///
    /// # Errors
    /// The error of the last attempt.
    pub async fn make<T, Fut>(
        self,
        operation: &str,
        attempt: impl FnMut() -> Fut,
    ) -> Result<T, AwsError>
    where
        Fut: Future<Output = Result<T, AwsError>>,
    {
        let failed = AtomicU32::new(0);
        let may_go_on = |error: &AwsError| {
            let failed = failed.fetch_add(1, Ordering::Relaxed) + 1;
            error.is_retryable() && failed < self.0
        };
        let deadline = Instant::now() + OPERATION_TIMEOUT;
        BACKOFF.run(operation, deadline, may_go_on, attempt).await
    }
}

/// One service in one region.
#[derive(Debug)]
pub struct Signed {
    connector: SharedHttpConnector,
    config: SdkConfig,
    /// Its name in signatures: `logs`, `s3`.
    service: &'static str,
    endpoint: String,
    /// Compares this machine's clock with the service's.
    clock: Clock,
}

/// A service's answer: a status, and a small body.
#[derive(Clone)]
pub struct Answer {
    /// HTTP status code; a refusal (4xx, 5xx) is an answer, too.
    pub status: u16,
    /// The body, at most 32 MiB; bytes that are not UTF-8 are replaced.
    pub body: String,
    /// Region of the bucket, where S3 names it.
    pub bucket_region: Option<String>,
}

/// Without the body, which may hold environment variables of services.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Signed {
    /// # Errors
    /// When no region is configured.
    pub fn new(
        config: &SdkConfig,
        service: &'static str,
        endpoint: Option<&str>,
    ) -> Result<Self, String> {
        let Some(region) = config.region() else { return Err("no region".to_owned()) };
        let own = format!("https://{service}.{region}.{}", domain_of(region.as_ref()));
        let endpoint = endpoint.or(config.endpoint_url()).unwrap_or(&own);
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let (connector, config, clock) = (connector(), config.clone(), Clock::default());
        Ok(Self { connector, config, service, endpoint, clock })
    }

    #[cfg(test)]
    pub(crate) fn region(&self) -> Option<String> {
        self.config.region().map(ToString::to_string)
    }

    /// Makes one attempt. `path` begins with `/` and needs no escapes; a query behind it has its own. If the service
    /// refuses it, and its answer shows that this machine's clock is wrong, the same goes out once more with the
    /// service's time, as the SDK does: a node that ends because of its clock must still reach CloudFormation.
    ///
    /// # Errors
    /// When there are no credentials, or no answer.
    pub async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Answer, String> {
        let known = self.clock_error();
        let answer = self.send(method, path, headers, body.clone(), known).await?;
        let seen = self.clock_error();
        if (400..500).contains(&answer.status) && (seen - known).abs() > CLOCK_TOLERANCE {
            return self.send(method, path, headers, body, seen).await;
        }
        Ok(answer)
    }

    /// Returns how far this machine's clock is ahead of the service's, if that matters for signatures.
    pub fn clock_error(&self) -> time::Duration {
        let offset = self.clock.offset().filter(|offset| offset.abs() > CLOCK_TOLERANCE);
        offset.unwrap_or_default()
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
        clock_error: time::Duration,
    ) -> Result<Answer, String> {
        let provider = self.config.credentials_provider().ok_or("no credentials")?;
        let credentials = provider.provide_credentials().await.map_err(|error| chain(&error))?;
        let url = format!("{}{path}", self.endpoint);
        let request =
            SignableRequest::new(method, &url, headers.iter().copied(), SignableBody::Bytes(&body));
        let identity = credentials.into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(self.config.region().map_or("", |region| region.as_ref()))
            .name(self.service)
            .time(SystemTime::now() - clock_error)
            .settings(self.settings())
            .build()
            .map_err(|error| chain(&error))?
            .into();
        let signed = request.and_then(|request| sign(request, &params));
        let (signature, _) = signed.map_err(|error| chain(&error))?.into_parts();
        let mut request = Request::builder().method(method).uri(&url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(SdkBody::from(body)).map_err(|error| chain(&error))?;
        signature.apply_to_request_http1x(&mut request);
        let request = HttpRequest::try_from(request).map_err(|error| chain(&error))?;
        let call = async {
            let answer = self.connector.call(request).await.map_err(|error| chain(&error))?;
            let status = answer.status().as_u16();
            let bucket_region = answer.headers().get("x-amz-bucket-region").map(str::to_owned);
            self.clock.note(answer.headers().get("date"), OffsetDateTime::now_utc());
            let mut rest = aws_smithy_types::byte_stream::ByteStream::new(answer.into_body());
            let mut body = Vec::new();
            while let Some(piece) = rest.try_next().await.map_err(|error| chain(&error))? {
                body.extend_from_slice(&piece);
                if body.len() > LARGEST_ANSWER {
                    return Err(format!("{url}: the answer has more than {LARGEST_ANSWER} bytes"));
                }
            }
            let body = String::from_utf8_lossy(&body).into_owned();
            Ok(Answer { status, body, bucket_region })
        };
        let timeout = tokio::time::timeout(ATTEMPT_TIMEOUT, call).await;
        timeout.unwrap_or_else(|_| Err(format!("{url}: no answer within {ATTEMPT_TIMEOUT:?}")))
    }

    /// Returns the signing settings: S3 signs paths as they are and requires the body's digest; all other services
    /// normalise paths.
    fn settings(&self) -> SigningSettings {
        let mut settings = SigningSettings::default();
        if self.service == "s3" {
            settings.percent_encoding_mode = PercentEncodingMode::Single;
            settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
            settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        }
        settings
    }
}
