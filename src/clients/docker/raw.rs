//! Makes the calls of the Engine API for which bollard has no function or lacks a field.

use reqwest::header::HeaderValue;
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tracing::Instrument;

use super::version::ApiVersion;
use super::{Availability, CALL_TIMEOUT, Swarm, SwarmError};
use crate::common::errors::chain;
use crate::telemetry::metrics::metrics;

/// Bytes of the largest answer that skep reads, unless a request has another limit. Workers report a part of what managers list, such as their plugins, so
/// the size is theirs to choose. Measured, an entry of the node list has 2 KB and a task 3 KB.
const LARGEST_ANSWER: usize = 64 << 20;

/// A request, exactly as Docker receives it.
pub(super) struct Request {
    pub method: Method,
    /// Path below the version, such as `services?status=true`.
    pub path: String,
    /// Value of the header `X-Registry-Auth`.
    pub auth: Option<SecretString>,
    /// JSON. It may hold a secret, as `auth` does: no error contains either of them.
    pub body: Vec<u8>,
    /// Bytes of the largest answer that is read.
    pub largest: usize,
}

impl Request {
    pub(super) fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), auth: None, body: Vec::new(), largest: LARGEST_ANSWER }
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
            let mut answer = call.send().await?;
            let mut body = Vec::new();
            while let Some(piece) = answer.chunk().await? {
                if body.len() + piece.len() > request.largest {
                    return Ok(None);
                }
                body.extend_from_slice(&piece);
            }
            Ok(Some((answer.status(), body)))
        };
        let answer: Result<_, reqwest::Error> = exchange.await;
        let is_success = matches!(&answer, Ok(Some((status, _))) if status.is_success());
        metrics().docker_call(operation, is_success);
        answer.map_err(|error| unanswered(operation, socket, error))?.ok_or_else(|| {
            let limit = request.largest >> 20;
            SwarmError::unexpected(operation, format!("the answer is larger than {limit} MiB"))
        })
    }

    /// Reads an object, or a list as a whole: an answer of which a part is missing is an error.
    ///
    /// # Errors
    /// Docker's refusal, no answer, an answer that cannot be parsed or is too large.
    pub(super) async fn read<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        request: Request,
    ) -> Result<T, SwarmError> {
        match self.exchange(operation, &request).await? {
            (StatusCode::OK, body) => serde_json::from_slice(&body)
                .map_err(|error| SwarmError::unexpected(operation, error.to_string())),
            (status, body) => Err(SwarmError::answered(operation, status.as_u16(), &body)),
        }
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

    /// A part of a list proves nothing about the rest.
    #[tokio::test]
    async fn an_answer_that_is_too_large_is_an_error_and_no_part_of_it_is_read() {
        let engine = FakeEngine::start(RELEASES[0]);
        let swarm = engine.swarm();
        assert_eq!(swarm.fetch_nodes().await.unwrap().len(), 1);
        let plugins = "x".repeat(16 << 20);
        let nodes = format!(r#"[{{ "ID": "n1", "Description": {{ "Plugins": "{plugins}" }} }}]"#);
        engine.lock().instead.insert("/nodes", Instead::Answer(nodes.leak()));
        let error = swarm.fetch_nodes().await.unwrap_err();
        assert_eq!(error.to_string(), "list the nodes: the answer is larger than 16 MiB");
        assert_eq!(error.kind, SwarmErrorKind::Other);
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
