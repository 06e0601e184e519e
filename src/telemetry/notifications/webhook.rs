//! The webhook: every event as JSON, signed, by POST.
//!
//! Guarantees: nothing waits for it; each attempt and all of them together are bounded; neither its
//! address nor its secret is ever shown or logged; without a secret that is skep's alone to read, nothing is
//! sent. It goes by the AWS SDK's own HTTP client: one TLS stack, one set of certificates.

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
use crate::common::retry::Backoff;
use crate::config::{self, WebhookUrl};
use crate::telemetry::metrics::metrics;

/// A receiver that restarts is back within seconds; one that stays away is not hammered.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// Whoever may read the file can sign.
const OTHERS: u32 = 0o007;

#[derive(Debug, Error)]
enum DeliveryError {
    #[error("the secret {path} cannot be read", path = path.display())]
    Secret { path: PathBuf, source: std::io::Error },
    #[error("the secret {path} may be read by everybody: `chmod o= {path}`", path = path.display())]
    SecretIsOpen { path: PathBuf },
    #[error("the secret {path} is empty", path = path.display())]
    SecretIsEmpty { path: PathBuf },
    #[error("the address cannot be used")]
    Address,
    #[error("no answer")]
    NoAnswer,
    #[error("the answer was {0}")]
    Refused(u16),
}

impl DeliveryError {
    /// Is the receiver likely to take it later? One that does not understand it now never will.
    fn is_retryable(&self) -> bool {
        match self {
            Self::NoAnswer => true,
            Self::Refused(status) => *status >= 500 || matches!(status, 408 | 425 | 429),
            _ => false,
        }
    }
}

/// Who is told, and how.
#[derive(Debug)]
pub struct Webhook {
    url: WebhookUrl,
    secret_file: PathBuf,
    timeout: Duration,
    give_up_after: Duration,
    connector: Connector,
}

impl Webhook {
    /// `None` where none is configured.
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

    /// Tells of one event, again and again until it has arrived or it is no use.
    pub async fn deliver(&self, message: &Message) {
        let (event, id, url) = (message.event.as_str(), &message.id, &self.url);
        let body = message.json();
        let deadline = Instant::now() + self.give_up_after;
        let retryable = DeliveryError::is_retryable;
        let attempt = async || self.attempt(&body).await;
        let result = match BACKOFF.run("webhook", deadline, retryable, attempt).await {
            Ok(()) => {
                tracing::debug!(event, id, "told {url}");
                "delivered"
            }
            Err(error) => {
                tracing::warn!(
                    event,
                    id,
                    "not told to {url}: {}",
                    crate::common::errors::chain(&error)
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
        // The refusals of these two would repeat the address.
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
            // The client's own words may hold the address.
            Ok(Err(_)) | Err(_) => Err(DeliveryError::NoAnswer),
        }
    }
}

/// Read each time: a new secret counts at once.
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
