//! Calls services whose SDK would cost more than the few calls are worth: `aws-sigv4` signs the requests, and the SDK's
//! own HTTP client sends them, with its TLS and the host's certificates.

use std::time::SystemTime;

use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::HttpConnector as _;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use axum::http::Request;

use super::ATTEMPT_TIMEOUT;
use crate::common::errors::chain;

/// An answer to these calls has some 100 bytes; a longer one is something else.
const LARGEST_ANSWER: usize = 1 << 20;

/// One service in one region.
#[derive(Debug)]
pub struct Signed {
    connector: Connector,
    config: SdkConfig,
    /// Its name in signatures: `logs`, `s3`.
    service: &'static str,
    endpoint: String,
}

/// A service's answer: a status, and a small body.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status code; a refusal (4xx, 5xx) is an answer, too.
    pub status: u16,
    /// The body, at most 1 MiB; bytes that are not UTF-8 are replaced.
    pub body: String,
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
        let suffix = if region.as_ref().starts_with("cn-") { ".cn" } else { "" };
        let own = format!("https://{service}.{region}.amazonaws.com{suffix}");
        let endpoint = endpoint.or(config.endpoint_url()).unwrap_or(&own);
        let connector =
            Connector::builder().tls_provider(Provider::Rustls(CryptoMode::AwsLc)).build();
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Ok(Self { connector, config: config.clone(), service, endpoint })
    }

    /// Makes one attempt. `path` begins with `/` and needs no escapes.
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
            .time(SystemTime::now())
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
            let mut rest = aws_smithy_types::byte_stream::ByteStream::new(answer.into_body());
            let mut body = Vec::new();
            while let Some(piece) = rest.try_next().await.map_err(|error| chain(&error))? {
                body.extend_from_slice(&piece);
                if body.len() > LARGEST_ANSWER {
                    return Err(format!("{url}: the answer has more than {LARGEST_ANSWER} bytes"));
                }
            }
            Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
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
