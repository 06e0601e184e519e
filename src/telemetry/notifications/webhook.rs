//! Delivers every event to the webhook: as signed JSON, by POST.
//!
//! Guarantees: nothing waits for a delivery; the time of each attempt and of all attempts together is bounded; neither
//! the address beyond its host nor the secret is ever shown or logged; nothing is sent unless both are in files that
//! other users can neither read nor change, and nothing leaves the host without TLS. Both files are read for each
//! attempt, so that a new address or secret takes effect at once. Uses the HTTP client of the AWS SDK: one TLS stack,
//! one set of certificates.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use aws_sdk_ssm::config::http::HttpRequest;
use aws_smithy_http_client::{Connector, proxy::ProxyConfig, tls};
use aws_smithy_runtime_api::client::http::HttpConnector;
use secrecy::{ExposeSecret, SecretSlice};
use thiserror::Error;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::address::Address;
use super::private_file::{self, PrivateFileError};
use super::{Message, signature};
use crate::common::errors::chain;
use crate::common::retry::Backoff;
use crate::config;
use crate::telemetry::metrics::metrics;

/// A receiver that restarts is back within seconds; one that stays away gets few requests.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// Why an event is not delivered.
#[derive(Debug, Error)]
pub enum DeliveryError {
    /// The file with the secret.
    #[error("webhook.secret_file cannot be used")]
    Secret(#[source] PrivateFileError),
    /// The file with the address.
    #[error("webhook.url_file cannot be used")]
    AddressFile(#[source] PrivateFileError),
    /// The content of the file with the address.
    #[error("{path} (webhook.url_file) {problem}", path = path.display())]
    Address {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with the content, which it does not repeat.
        problem: String,
    },
    /// No answer in time, or no connection.
    #[error("{0} did not answer")]
    NoAnswer(Address),
    /// An answer with this status.
    #[error("{0} answered with status {1}")]
    Refused(Address, u16),
}

impl DeliveryError {
    /// Whether this user may not read one of the files.
    #[must_use]
    pub fn is_permission_denied(&self) -> bool {
        let (Self::Secret(file) | Self::AddressFile(file)) = self else { return false };
        matches!(file, PrivateFileError::Unreadable { source, .. } if source.kind() == ErrorKind::PermissionDenied)
    }

    /// Whether a retry can succeed. A receiver that refuses the message itself will refuse it again.
    fn is_retryable(&self) -> bool {
        match self {
            Self::NoAnswer(_) => true,
            Self::Refused(_, status) => *status >= 500 || matches!(status, 408 | 425 | 429),
            _ => false,
        }
    }
}

/// The receiver of events, and the limits for their delivery.
#[derive(Debug)]
pub struct Webhook {
    url_file: PathBuf,
    secret_file: PathBuf,
    timeout: Duration,
    give_up_after: Duration,
    connector: Connector,
}

impl Webhook {
    /// Returns the configured webhook; `None` without one.
    #[must_use]
    pub fn new(settings: &config::Webhook) -> Option<Self> {
        let (url_file, secret_file) =
            settings.url_file.clone().zip(settings.secret_file.clone())?;
        let rustls = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
        let proxy = ProxyConfig::from_env();
        Some(Self {
            url_file,
            secret_file,
            timeout: settings.timeout,
            give_up_after: settings.give_up_after,
            connector: Connector::builder().tls_provider(rustls).proxy_config(proxy).build(),
        })
    }

    /// Delivers one event; retries until it has arrived, a retry cannot succeed, or the time is over.
    pub(super) async fn deliver(&self, message: &Message) {
        let (event, id) = (message.event.as_str(), &message.id);
        let body = message.json();
        let deadline = Instant::now() + self.give_up_after;
        let retryable = DeliveryError::is_retryable;
        let attempt = async || self.attempt(&body).await;
        let result = match BACKOFF.run("webhook", deadline, retryable, attempt).await {
            Ok(address) => {
                tracing::debug!(event, id, "delivered the event to {address}");
                "delivered"
            }
            Err(error) => {
                tracing::warn!(
                    event,
                    id,
                    "could not deliver the event to the webhook: {}",
                    chain(&error)
                );
                "given_up"
            }
        };
        metrics().webhook_delivery(event, result);
    }

    /// Reads the address and the secret.
    ///
    /// # Errors
    /// When one of the files is missing, or not as it must be.
    pub async fn read_files(&self) -> Result<(Address, SecretSlice<u8>), DeliveryError> {
        let address =
            private_file::read(&self.url_file).await.map_err(DeliveryError::AddressFile)?;
        let address = Address::parse(address.expose_secret())
            .map_err(|problem| DeliveryError::Address { path: self.url_file.clone(), problem })?;
        let secret = private_file::read(&self.secret_file).await.map_err(DeliveryError::Secret)?;
        Ok((address, secret))
    }

    async fn attempt(&self, body: &str) -> Result<Address, DeliveryError> {
        let (address, secret) = self.read_files().await?;
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let signature = signature::sign(secret.expose_secret(), now, body);
        let mut request = HttpRequest::new(body.to_owned().into());
        // The errors of these two calls would repeat the address.
        let unusable = |problem: &str| DeliveryError::Address {
            path: self.url_file.clone(),
            problem: problem.to_owned(),
        };
        request.set_uri(address.expose()).map_err(|_| unusable("contains an unusable URL"))?;
        request.set_method("POST").map_err(|_| unusable("cannot be used for a POST"))?;
        let headers = request.headers_mut();
        headers.insert("content-type", "application/json");
        headers.insert("content-length", body.len().to_string());
        headers.insert("user-agent", concat!("skep/", env!("CARGO_PKG_VERSION")));
        headers.insert("x-skep-signature", signature);
        match tokio::time::timeout(self.timeout, self.connector.call(request)).await {
            Ok(Ok(answer)) if answer.status().is_success() => Ok(address),
            Ok(Ok(answer)) => Err(DeliveryError::Refused(address, answer.status().as_u16())),
            // The client's own error may contain the address.
            Ok(Err(_)) | Err(_) => Err(DeliveryError::NoAnswer(address)),
        }
    }
}
