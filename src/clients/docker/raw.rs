//! Makes the calls of the Engine API for which bollard has no function or lacks a field.

use reqwest::header::HeaderValue;
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::Value;
use tracing::Instrument;

use super::version::ApiVersion;
use super::{Availability, CALL_TIMEOUT, Swarm, SwarmError};
use crate::common::errors::chain;
use crate::telemetry::metrics::metrics;

/// A request, exactly as Docker receives it.
pub(super) struct Request {
    pub method: Method,
    /// Path below the version, such as `services?status=true`.
    pub path: String,
    /// Value of the header `X-Registry-Auth`.
    pub auth: Option<SecretString>,
    /// JSON. It may hold a secret, as `auth` does: no error contains either of them.
    pub body: Vec<u8>,
}

impl Request {
    pub(super) fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), auth: None, body: Vec::new() }
    }
}

impl Swarm {
    /// Sends a request in the agreed API version. Returns Docker's answer, whatever its status.
    ///
    /// # Errors
    /// No answer, or no API version in common.
    pub(super) async fn exchange(
        &self,
        operation: &'static str,
        request: &Request,
    ) -> Result<(StatusCode, Vec<u8>), SwarmError> {
        self.speak(|version| self.exchange_in(operation, version, request))
            .instrument(tracing::debug_span!("call", docker = operation))
            .await
    }

    /// Sends a request in this version and in no other.
    ///
    /// # Errors
    /// [`SwarmErrorKind::TooOld`] and [`SwarmErrorKind::TooNew`] where the engine does not accept it.
    pub(super) async fn exchange_in(
        &self,
        operation: &'static str,
        version: ApiVersion,
        request: &Request,
    ) -> Result<(StatusCode, Vec<u8>), SwarmError> {
        let (status, body) = self.send(operation, Some(version), request).await?;
        // 400 has other meanings, too, for example a wrong unlock key.
        if status == StatusCode::BAD_REQUEST {
            let refusal = SwarmError::answered(operation, status.as_u16(), &body);
            if refusal.is_of_version() {
                return Err(refusal);
            }
        }
        Ok((status, body))
    }

    /// Sends one request unchanged; without a version the engine uses its newest one.
    pub(super) async fn send(
        &self,
        operation: &'static str,
        version: Option<ApiVersion>,
        request: &Request,
    ) -> Result<(StatusCode, Vec<u8>), SwarmError> {
        let socket = self.host.trim_start_matches("unix://");
        let exchange = async {
            let http = reqwest::Client::builder()
                .unix_socket(socket)
                .no_proxy()
                .timeout(CALL_TIMEOUT)
                .build()?;
            let prefix = version.map_or_else(String::new, |version| format!("v{version}/"));
            // The host name has no meaning here: the socket is the address.
            let url = format!("http://docker/{prefix}{}", request.path);
            let mut call = http
                .request(request.method.clone(), url)
                .header(reqwest::header::CONTENT_TYPE, "application/json")
                .body(request.body.clone());
            let auth = request.auth.as_ref().map(ExposeSecret::expose_secret);
            if let Some(mut auth) = auth.and_then(|auth| HeaderValue::from_str(auth).ok()) {
                auth.set_sensitive(true);
                call = call.header("X-Registry-Auth", auth);
            }
            let answer = call.send().await?;
            Ok((answer.status(), answer.bytes().await?.to_vec()))
        };
        let answer: Result<_, reqwest::Error> = exchange.await;
        metrics()
            .docker_call(operation, answer.as_ref().is_ok_and(|(status, _)| status.is_success()));
        answer.map_err(|error| unanswered(operation, socket, error))
    }

    /// Posts a JSON body to `path`, such as `swarm/join`. The body may hold a secret, so no error contains it.
    pub(super) async fn post(
        &self,
        operation: &'static str,
        path: &str,
        body: &Value,
    ) -> Result<(), SwarmError> {
        let body = body.to_string().into_bytes();
        let request = Request { body, ..Request::new(Method::POST, path) };
        let (status, body) = self.exchange(operation, &request).await?;
        if status.is_success() {
            return Ok(());
        }
        Err(SwarmError::answered(operation, status.as_u16(), &body))
    }
}

/// The error for a request without an answer. It does not contain the URL: the socket is the address.
fn unanswered(operation: &'static str, socket: &str, error: reqwest::Error) -> SwarmError {
    let (is_timeout, is_connect) = (error.is_timeout(), error.is_connect());
    let words = chain(&error.without_url());
    if is_timeout {
        SwarmError::silent(operation)
    } else if is_connect {
        let error = if std::fs::exists(socket).is_ok_and(|exists| !exists) {
            bollard::errors::Error::SocketNotFoundError(socket.to_owned())
        } else {
            bollard::errors::Error::IOError { err: std::io::Error::other(words) }
        };
        SwarmError::new(operation, &error)
    } else {
        SwarmError::unexpected(operation, words)
    }
}

/// Returns a request to init or join, with the availability that bollard's types lack.
pub(super) fn with_availability(
    request: &impl Serialize,
    availability: Availability,
) -> Result<Value, SwarmError> {
    let unexpected = |error: serde_json::Error| {
        SwarmError::unexpected("write a request to Docker", error.to_string())
    };
    let mut body = serde_json::to_value(request).map_err(unexpected)?;
    body["Availability"] = serde_json::to_value(availability).map_err(unexpected)?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use bollard::models::SwarmJoinRequest;
    use tokio::time::{Duration, Instant};

    use super::super::SwarmErrorKind;
    use super::super::tests::fake_engine::{FakeEngine, Instead, RELEASES};
    use super::*;

    const SECRET: &str = "SWMTKN-1-secret";

    fn request() -> Value {
        let token = Some(SECRET.to_owned());
        let request = SwarmJoinRequest { join_token: token, ..SwarmJoinRequest::default() };
        with_availability(&request, Availability::Pause).unwrap()
    }

    async fn join(swarm: &Swarm) -> Result<(), SwarmError> {
        swarm.post("join the swarm", "swarm/join", &request()).await
    }

    #[tokio::test]
    async fn the_availability_is_asked_for_beside_what_bollard_says() {
        let engine = FakeEngine::start(RELEASES[0]);
        join(&engine.swarm()).await.unwrap();
        let asked = engine.last("POST /swarm/join");
        let body = serde_json::json!({ "JoinToken": SECRET, "Availability": "pause" });
        assert_eq!(asked.body, body);
    }

    #[tokio::test]
    async fn a_refusal_is_docker_s_own_words_and_no_secret() {
        let engine = FakeEngine::start(RELEASES[0]);
        let refusal = Instead::Refusal(503, "the sky is falling");
        engine.lock().instead.insert("/swarm/join", refusal);
        let error = join(&engine.swarm()).await.unwrap_err();
        assert_eq!(error.message, "the sky is falling");
        assert!(!format!("{error:?}").contains(SECRET));
    }

    #[tokio::test]
    async fn a_docker_that_is_not_there_is_no_refusal() {
        let error = join(&Swarm::new("unix:///nowhere.sock")).await.unwrap_err();
        assert_eq!(error.kind, SwarmErrorKind::Unreachable, "{error}");
        assert!(error.message.starts_with("/nowhere.sock does not exist"), "{error}");
        assert!(!error.to_string().contains(SECRET));
    }

    #[tokio::test]
    async fn a_docker_that_is_silent_leaves_the_outcome_unknown() {
        let engine = FakeEngine::start(RELEASES[0]);
        engine.lock().instead.insert("/swarm/join", Instead::Silence);
        let swarm = engine.swarm();
        swarm.connect().await.unwrap();
        tokio::time::pause();
        let began = Instant::now();
        let error = join(&swarm).await.unwrap_err();
        assert_eq!(error.kind, SwarmErrorKind::TimedOut, "{error}");
        assert!(began.elapsed() >= CALL_TIMEOUT - Duration::from_secs(1));
        engine.last("POST /swarm/join");
    }
}
