//! Delivers every event to the webhook: as signed JSON, by POST.
//!
//! Guarantees: nothing waits for a delivery; the time of each attempt and of all attempts together is bounded; neither
//! the URL beyond its host nor the secret is ever shown or logged; without a secret that other users cannot read,
//! nothing is sent. Uses the HTTP client of the AWS SDK: one TLS stack, one set of certificates.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_sdk_ssm::config::http::HttpRequest;
use aws_smithy_http_client::{Connector, proxy::ProxyConfig, tls};
use aws_smithy_runtime_api::client::http::HttpConnector;
use secrecy::{ExposeSecret, SecretSlice};
use thiserror::Error;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{Message, signature};
use crate::common::errors::chain;
use crate::common::retry::Backoff;
use crate::config::{self, WebhookUrl};
use crate::telemetry::metrics::metrics;

/// A receiver that restarts is back within seconds; one that stays away gets few requests.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// Permissions of other users, who could sign messages with the secret.
const OTHERS: u32 = 0o007;

#[derive(Debug, Error)]
enum DeliveryError {
    #[error("cannot read the webhook's secret {path}", path = path.display())]
    Secret { path: PathBuf, source: std::io::Error },
    #[error("every user can access the secret {path}; run `chmod o= {path}`", path = path.display())]
    SecretIsOpen { path: PathBuf },
    #[error("the webhook's secret {path} is empty", path = path.display())]
    SecretIsEmpty { path: PathBuf },
    #[error("webhook.url cannot be used")]
    Address,
    #[error("the receiver did not answer")]
    NoAnswer,
    #[error("the receiver answered with status {0}")]
    Refused(u16),
}

impl DeliveryError {
    /// Whether a retry can succeed. A receiver that refuses the message itself will refuse it again.
    fn is_retryable(&self) -> bool {
        match self {
            Self::NoAnswer => true,
            Self::Refused(status) => *status >= 500 || matches!(status, 408 | 425 | 429),
            _ => false,
        }
    }
}

/// The receiver of events, and the limits for their delivery.
#[derive(Debug)]
pub struct Webhook {
    url: WebhookUrl,
    secret_file: PathBuf,
    timeout: Duration,
    give_up_after: Duration,
    connector: Connector,
}

impl Webhook {
    /// Returns the configured webhook; `None` without one.
    pub fn new(settings: &config::Webhook) -> Option<Self> {
        let (url, secret_file) = settings.url.clone().zip(settings.secret_file.clone())?;
        let rustls = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc);
        let proxy = ProxyConfig::from_env();
        Some(Self {
            url,
            secret_file,
            timeout: settings.timeout,
            give_up_after: settings.give_up_after,
            connector: Connector::builder().tls_provider(rustls).proxy_config(proxy).build(),
        })
    }

    /// Delivers one event; retries until it has arrived, a retry cannot succeed, or the time is over.
    pub async fn deliver(&self, message: &Message) {
        let (event, id, url) = (message.event.as_str(), &message.id, &self.url);
        let body = message.json();
        let deadline = Instant::now() + self.give_up_after;
        let retryable = DeliveryError::is_retryable;
        let attempt = async || self.attempt(&body).await;
        let result = match BACKOFF.run("webhook", deadline, retryable, attempt).await {
            Ok(()) => {
                tracing::debug!(event, id, "delivered the event to {url}");
                "delivered"
            }
            Err(error) => {
                tracing::warn!(
                    event,
                    id,
                    "could not deliver the event to {url}: {}",
                    chain(&error)
                );
                "given_up"
            }
        };
        metrics().webhook_delivery(event, result);
    }

    async fn attempt(&self, body: &str) -> Result<(), DeliveryError> {
        let secret = read_secret(&self.secret_file).await?;
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let signature = signature::sign(secret.expose_secret(), now, body);
        let mut request = HttpRequest::new(body.to_owned().into());
        // The errors of these two calls would repeat the URL.
        request.set_uri(self.url.expose()).map_err(|_| DeliveryError::Address)?;
        request.set_method("POST").map_err(|_| DeliveryError::Address)?;
        let headers = request.headers_mut();
        headers.insert("content-type", "application/json");
        headers.insert("content-length", body.len().to_string());
        headers.insert("user-agent", concat!("skep/", env!("CARGO_PKG_VERSION")));
        headers.insert("x-skep-signature", signature);
        let answer = tokio::time::timeout(self.timeout, self.connector.call(request)).await;
        match answer {
            Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
            Ok(Ok(answer)) => Err(DeliveryError::Refused(answer.status().as_u16())),
            // The client's own error may contain the URL.
            Ok(Err(_)) | Err(_) => Err(DeliveryError::NoAnswer),
        }
    }
}

/// Reads the secret. Called for each attempt, so that a new secret takes effect at once.
async fn read_secret(path: &Path) -> Result<SecretSlice<u8>, DeliveryError> {
    let failed = |source| DeliveryError::Secret { path: path.to_owned(), source };
    let metadata = tokio::fs::metadata(path).await.map_err(failed)?;
    if metadata.permissions().mode() & OTHERS != 0 {
        return Err(DeliveryError::SecretIsOpen { path: path.to_owned() });
    }
    let secret = tokio::fs::read(path).await.map_err(failed)?.trim_ascii().to_vec();
    if secret.is_empty() {
        return Err(DeliveryError::SecretIsEmpty { path: path.to_owned() });
    }
    Ok(secret.into())
}
