//! Calls of the Engine API for which bollard has no function or lacks a field.

use bollard::ClientVersion;
use bollard::errors::Error as Docker;
use reqwest::header::HeaderValue;
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Availability, CALL_TIMEOUT, Swarm, SwarmError, SwarmErrorKind};

/// What Docker says when it refuses.
#[derive(Deserialize)]
struct Refusal {
    message: String,
}

/// A call in Docker's own words.
pub(super) struct Request {
    pub method: Method,
    /// With its version, such as `v1.41/services`.
    pub path: String,
    /// `X-Registry-Auth`.
    pub auth: Option<SecretString>,
    /// JSON. It may hold a secret, too: neither is in any error.
    pub body: Vec<u8>,
}

impl Swarm {
    /// What Docker answers, whatever its status.
    pub(super) async fn exchange(
        &self,
        operation: &'static str,
        request: Request,
    ) -> Result<(StatusCode, Vec<u8>), SwarmError> {
        let exchange = async {
            let http = reqwest::Client::builder()
                .unix_socket(self.host.trim_start_matches("unix://"))
                .no_proxy()
                .timeout(CALL_TIMEOUT)
                .build()?;
            // The host is a formality: the socket is the address.
            let url = format!("http://docker/{}", request.path);
            let mut call = http
                .request(request.method, url)
                .header(reqwest::header::CONTENT_TYPE, "application/json")
                .body(request.body);
            let auth = request.auth.as_ref().map(ExposeSecret::expose_secret);
            if let Some(mut auth) = auth.and_then(|auth| HeaderValue::from_str(auth).ok()) {
                auth.set_sensitive(true);
                call = call.header("X-Registry-Auth", auth);
            }
            let answer = call.send().await?;
            Ok((answer.status(), answer.bytes().await?.to_vec()))
        };
        exchange.await.map_err(|error: reqwest::Error| SwarmError {
            operation,
            kind: if error.is_timeout() {
                SwarmErrorKind::TimedOut
            } else if error.is_connect() {
                SwarmErrorKind::Unreachable
            } else {
                SwarmErrorKind::Other
            },
            message: crate::errors::chain(&error.without_url()),
        })
    }

    /// `POST` of a JSON body to `path`, such as `swarm/join`. The body may hold a secret: it is in no
    /// error.
    pub(super) async fn post(
        &self,
        operation: &'static str,
        path: &str,
        body: &Value,
    ) -> Result<(), SwarmError> {
        let version = self.connect().await?.client_version();
        let posted = post(&self.host, version, path, body.to_string()).await;
        posted.map_err(|error| SwarmError::new(operation, &error))
    }
}

async fn post(host: &str, version: ClientVersion, path: &str, body: String) -> Result<(), Docker> {
    let failed = |error: reqwest::Error| {
        if error.is_timeout() {
            return Docker::RequestTimeoutError;
        }
        // The socket is the address, not the URL.
        let words = crate::errors::chain(&error.without_url());
        Docker::IOError { err: std::io::Error::other(words) }
    };
    let http = reqwest::Client::builder()
        .unix_socket(host.trim_start_matches("unix://"))
        .no_proxy()
        .timeout(CALL_TIMEOUT)
        .build()
        .map_err(failed)?;
    let request = http
        .post(format!("http://docker/v{version}/{path}"))
        .header(reqwest::header::CONTENT_TYPE, "application/json")
        .body(body);
    let response = request.send().await.map_err(failed)?;
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let body = response.text().await.map_err(failed)?;
    let said = serde_json::from_str::<Refusal>(&body).map(|refusal| refusal.message);
    Err(Docker::DockerResponseServerError {
        status_code: status.as_u16(),
        message: said.unwrap_or(body),
    })
}

/// A request to init or join, with the availability that bollard's types do not have.
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
    use std::time::Duration;

    use bollard::models::SwarmJoinRequest;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;

    const SECRET: &str = "SWMTKN-1-secret";
    const VERSION: ClientVersion = ClientVersion { major_version: 1, minor_version: 41 };

    fn request() -> Value {
        let token = Some(SECRET.to_owned());
        let request = SwarmJoinRequest { join_token: token, ..SwarmJoinRequest::default() };
        with_availability(&request, Availability::Pause).unwrap()
    }

    /// What a Docker that answers so makes of it, and what it was asked.
    async fn answered(answer: &'static str) -> (Result<(), Docker>, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let docker = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let mut length = 0;
            while !String::from_utf8_lossy(&asked[..length]).ends_with('}') {
                length += stream.read(&mut asked[length..]).await.unwrap();
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&asked[..length]).into_owned()
        });
        let host = format!("unix://{}", path.display());
        let result = post(&host, VERSION, "swarm/join", request().to_string()).await;
        (result, docker.await.unwrap())
    }

    #[tokio::test]
    async fn the_availability_is_asked_for_beside_what_bollard_says() {
        let (result, asked) = answered("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert!(result.is_ok(), "{result:?}");
        assert!(asked.starts_with("POST /v1.41/swarm/join HTTP/1.1\r\n"), "{asked}");
        assert!(asked.to_lowercase().contains("content-type: application/json"), "{asked}");
        let (_, body) = asked.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body, serde_json::json!({ "JoinToken": SECRET, "Availability": "pause" }));
    }

    #[tokio::test]
    async fn a_refusal_is_docker_s_own_words_and_no_secret() {
        let (result, _) = answered(
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 33\r\n\r\n\
             {\"message\":\"the sky is falling\"}\n",
        )
        .await;
        let error = SwarmError::new("join the swarm", &result.unwrap_err());
        assert_eq!(error.message, "the sky is falling");
        assert!(!format!("{error:?}").contains(SECRET));
    }

    #[tokio::test]
    async fn a_docker_that_is_not_there_is_no_refusal() {
        let result = post("unix:///nowhere.sock", VERSION, "swarm/join", request().to_string());
        let error = SwarmError::new("join the swarm", &result.await.unwrap_err());
        assert_eq!(error.kind, super::super::SwarmErrorKind::Unreachable, "{error}");
        assert!(!error.to_string().contains(SECRET));
    }

    #[tokio::test(start_paused = true)]
    async fn a_docker_that_is_silent_leaves_the_outcome_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let host = format!("unix://{}", path.display());
        let began = tokio::time::Instant::now();
        let error = post(&host, VERSION, "swarm/join", request().to_string()).await.unwrap_err();
        let error = SwarmError::new("join the swarm", &error);
        assert_eq!(error.kind, super::super::SwarmErrorKind::TimedOut, "{error}");
        assert!(began.elapsed() >= CALL_TIMEOUT - Duration::from_secs(1));
    }
}
