//! The client of the instance metadata service, version 2 only: reads the identity of this instance and the notices
//! for it.
//!
//! Guarantees:
//! - 404 is an answer: the fact does not exist ([`None`], or an empty list);
//! - one token, fetched once for all concurrent callers, renewed before it expires and once after
//!   a 401; it appears in no error, log line or `Debug`;
//! - timeouts, lost connections, 5xx and throttling are retried with jitter until the caller's
//!   deadline; 403 (switched off) is final, and the error names the command that switches it on;
//! - no request uses a proxy: the address is link-local.
//!
//! Assumption: the endpoint is this instance's own, and is reached without TLS, as AWS defines it.

mod error;
mod facts;
mod notices;
#[cfg(test)]
pub(crate) mod stub;
mod token;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode, Url, header};
use secrecy::{ExposeSecret as _, SecretString};
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use error::ImdsError;
pub use notices::{
    Interruption, Maintenance, MaintenanceCode, MaintenanceState, Scheduled, SpotAction,
    TargetState, UnreadableEvent,
};

use crate::common::clock::Clock;
use crate::common::retry::Backoff;
use token::{Granted, TOKEN_TTL, Token, TokenCache};

/// The address at which every EC2 instance reads its metadata.
pub const DEFAULT_ENDPOINT: &str = "http://169.254.169.254";
/// The same address for IPv6, if the launch template enables `HttpProtocolIpv6`.
pub const IPV6_ENDPOINT: &str = "http://[fd00:ec2::254]";

const TOKEN_PATH: &str = "latest/api/token";
const META_DATA: &str = "latest/meta-data/";
const TOKEN_HEADER: &str = "X-aws-ec2-metadata-token";
const TTL_HEADER: &str = "X-aws-ec2-metadata-token-ttl-seconds";

/// Timeout of one request: the service is on this host and answers in milliseconds, so 1 s without an answer means a
/// lost packet (or a hop limit), and a retry is faster than waiting longer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of concurrent requests, and so of connections: enough to read all facts in one round trip and the
/// tags in another, but far below the throttling per instance, which counts packets.
const MAX_CONCURRENT: usize = 8;
/// How long an idle connection stays open: after boot, polling needs one connection instead of many.
const IDLE_CONNECTION: Duration = Duration::from_secs(30);
/// Short enough not to delay boot, long enough not to overload a throttled or restarting service.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// The client of the metadata service; cheap to clone, and clones share token and connections.
#[derive(Clone)]
pub struct Imds(Arc<Inner>);

struct Inner {
    endpoint: Url,
    http: reqwest::Client,
    requests: Semaphore,
    request_timeout: Duration,
    token: TokenCache,
    clock: Clock,
}

impl fmt::Debug for Imds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imds").field("endpoint", &self.0.endpoint.as_str()).finish_non_exhaustive()
    }
}

impl Imds {
    /// Returns a client for the service at `endpoint`, such as [`DEFAULT_ENDPOINT`]. Sends no request.
    ///
    /// # Errors
    /// When the endpoint is not an `http://` URL.
    pub fn new(endpoint: &str) -> Result<Self, ImdsError> {
        Self::build("endpoint", endpoint, REQUEST_TIMEOUT)
    }

    /// Returns a client for the service that the environment names, as for the AWS SDKs:
    /// `AWS_EC2_METADATA_SERVICE_ENDPOINT`, else `AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE` (`IPv4`
    /// or `IPv6`), else [`DEFAULT_ENDPOINT`].
    ///
    /// # Errors
    /// When `AWS_EC2_METADATA_DISABLED=true`, or when one of the variables has a wrong value.
    pub fn from_env() -> Result<Self, ImdsError> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self, ImdsError> {
        const ENDPOINT: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
        const MODE: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE";
        // An empty variable counts as unset, as in the SDKs.
        let var = |name| var(name).filter(|value| !value.is_empty());
        if var("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        {
            return Err(ImdsError::Disabled);
        }
        if let Some(endpoint) = var(ENDPOINT) {
            return Self::build(ENDPOINT, &endpoint, REQUEST_TIMEOUT);
        }
        let endpoint = match var(MODE) {
            None => DEFAULT_ENDPOINT,
            Some(mode) if mode.eq_ignore_ascii_case("IPv4") => DEFAULT_ENDPOINT,
            Some(mode) if mode.eq_ignore_ascii_case("IPv6") => IPV6_ENDPOINT,
            Some(value) => {
                let expected = "IPv4 or IPv6";
                return Err(ImdsError::BadEndpoint { variable: MODE, value, expected });
            }
        };
        Self::build(MODE, endpoint, REQUEST_TIMEOUT)
    }

    fn build(
        variable: &'static str,
        endpoint: &str,
        request_timeout: Duration,
    ) -> Result<Self, ImdsError> {
        let bad = || ImdsError::BadEndpoint {
            variable,
            value: endpoint.to_owned(),
            expected: "an http:// URL",
        };
        let mut url = Url::parse(endpoint).map_err(|_| bad())?;
        if url.scheme() != "http" || url.host_str().is_none() {
            return Err(bad());
        }
        // `Url::join` replaces the part behind the last slash.
        if !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
        let http = reqwest::Client::builder()
            .no_proxy()
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(MAX_CONCURRENT)
            .pool_idle_timeout(IDLE_CONNECTION)
            .user_agent(concat!("skep/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| ImdsError::Client(Arc::new(error)))?;
        Ok(Self(Arc::new(Inner {
            endpoint: url,
            http,
            requests: Semaphore::new(MAX_CONCURRENT),
            request_timeout,
            token: TokenCache::default(),
            clock: Clock::default(),
        })))
    }

    /// Returns the address of the service.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        self.0.endpoint.as_str()
    }

    /// Reads one item below `latest/meta-data/`, such as `instance-id`; `None` if it does not exist.
    ///
    /// # Errors
    /// See [`ImdsError`]; temporary errors are retried until `deadline`.
    pub async fn get(&self, path: &str, deadline: Instant) -> Result<Option<String>, ImdsError> {
        self.read("reading the metadata", path, deadline).await
    }

    /// Returns how far the local clock is ahead of the service's (negative: behind), in whole seconds, as of the last
    /// answer; `None` before the first answer with a `Date`.
    #[must_use]
    pub fn clock_offset(&self) -> Option<time::Duration> {
        self.0.clock.offset()
    }

    async fn read(
        &self,
        operation: &'static str,
        path: &str,
        deadline: Instant,
    ) -> Result<Option<String>, ImdsError> {
        let item = Item { operation, path, uri: self.uri(&format!("{META_DATA}{path}")) };
        BACKOFF
            .run(operation, deadline, ImdsError::is_retryable, || self.attempt(&item, deadline))
            .await
    }

    /// Sends one request, and once more with a new token if the service refuses the present one.
    async fn attempt(
        &self,
        item: &Item<'_>,
        deadline: Instant,
    ) -> Result<Option<String>, ImdsError> {
        let mut refused: Option<Token> = None;
        loop {
            let token =
                self.0.token.get(refused.as_ref(), || self.fetch_token(item, deadline)).await?;
            let request = self.request(Method::GET, item.uri.clone(), deadline).header(
                TOKEN_HEADER,
                sensitive(token.value.expose_secret()).ok_or_else(|| item.token_refused())?,
            );
            let (status, _, body) = self.send(item, request).await?;
            return match status {
                StatusCode::OK => Ok(Some(body)),
                StatusCode::NOT_FOUND => Ok(None),
                StatusCode::UNAUTHORIZED if refused.is_none() => {
                    refused = Some(token);
                    continue;
                }
                status => Err(item.refusal(status)),
            };
        }
    }

    async fn fetch_token(&self, item: &Item<'_>, deadline: Instant) -> Result<Granted, ImdsError> {
        let item = Item { uri: self.uri(TOKEN_PATH), ..*item };
        let request = self
            .request(Method::PUT, item.uri.clone(), deadline)
            .header(TTL_HEADER, TOKEN_TTL.as_secs())
            .header(header::CONTENT_LENGTH, 0);
        let (status, ttl, body) = self.send(&item, request).await?;
        match status {
            StatusCode::OK if body.is_empty() => Err(item.malformed("the token is empty")),
            // A longer lifetime than requested is not credible, and could overflow.
            StatusCode::OK => {
                Ok((SecretString::from(body), ttl.unwrap_or(TOKEN_TTL).min(TOKEN_TTL)))
            }
            status => Err(item.refusal(status)),
        }
    }

    fn uri(&self, path: &str) -> Url {
        // Joining a relative path to a checked base never fails.
        self.0.endpoint.join(path).unwrap_or_else(|_| self.0.endpoint.clone())
    }

    fn request(&self, method: Method, uri: Url, deadline: Instant) -> RequestBuilder {
        let left = deadline.saturating_duration_since(Instant::now());
        // At least one request gets some time, even if the deadline has passed.
        let timeout = left.clamp(self.0.request_timeout / 4, self.0.request_timeout);
        self.0.http.request(method, uri).timeout(timeout)
    }

    /// Sends one request and reads the answer: status, the token's lifetime, body.
    async fn send(
        &self,
        item: &Item<'_>,
        request: RequestBuilder,
    ) -> Result<(StatusCode, Option<Duration>, String), ImdsError> {
        let no_answer = |error: reqwest::Error| ImdsError::NoAnswer {
            operation: item.operation,
            path: item.path.to_owned(),
            uri: item.uri.to_string(),
            // The message already contains the URI.
            source: Arc::new(error.without_url()),
        };
        // The semaphore is never closed; without a permit there would only be one more request.
        let _permit = self.0.requests.acquire().await.ok();
        let response = request.send().await.map_err(no_answer)?;
        let status = response.status();
        let headers = response.headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        self.0.clock.note(text(header::DATE.as_str()), OffsetDateTime::now_utc());
        let ttl = text(TTL_HEADER).and_then(|value| value.parse().ok()).map(Duration::from_secs);
        let body = response.text().await.map_err(no_answer)?;
        Ok((status, ttl, body))
    }
}

/// Returns a header value that the HTTP library's `Debug` does not show.
fn sensitive(value: &str) -> Option<header::HeaderValue> {
    let mut value = header::HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The item that is being read, for error messages.
#[derive(Clone)]
struct Item<'a> {
    operation: &'static str,
    path: &'a str,
    uri: Url,
}

impl Item<'_> {
    fn refusal(&self, status: StatusCode) -> ImdsError {
        let (operation, path, uri) = (self.operation, self.path.to_owned(), self.uri.to_string());
        let busy = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
        match status {
            StatusCode::FORBIDDEN => ImdsError::SwitchedOff { operation, path, uri },
            StatusCode::UNAUTHORIZED => self.token_refused(),
            _ if busy => ImdsError::Busy { operation, path, uri, status: status.as_u16() },
            _ => ImdsError::UnexpectedStatus { operation, path, uri, status: status.as_u16() },
        }
    }

    fn token_refused(&self) -> ImdsError {
        let (operation, path, uri) = (self.operation, self.path.to_owned(), self.uri.to_string());
        ImdsError::TokenRefused { operation, path, uri }
    }

    fn malformed(&self, problem: impl Into<String>) -> ImdsError {
        let (operation, path, uri) = (self.operation, self.path.to_owned(), self.uri.to_string());
        ImdsError::Malformed { operation, path, uri, problem: problem.into() }
    }
}

#[cfg(test)]
mod tests;
