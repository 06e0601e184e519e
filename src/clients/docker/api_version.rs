//! Agrees with this engine on a version of the Engine API.
//!
//! Guarantees: skep chooses the version only from those that the engine itself offers (the unversioned `GET /version`);
//! every other request names the version. If the engine refuses the chosen version, because it was upgraded or
//! downgraded while skep runs, skep chooses again and repeats the call once: an engine refuses a version before it does
//! anything.
//!
//! Maximum and minimum by engine (Docker's documentation, "API version matrix"):
//!
//! | engine | `ApiVersion` | `MinAPIVersion` |
//! |---|---|---|
//! | 20.10 | 1.41 | 1.12 |
//! | 24.0 | 1.43 | 1.12 |
//! | 27.5 | 1.47 | 1.24 |
//! | 28.5 | 1.51 | 1.24 |
//! | 29.0, 29.1 | 1.52 | 1.44 |
//! | 29.2 | 1.53 | 1.44 |
//! | 29.3 to 29.5 | 1.54 | 1.40 |
//!
//! `min-api-version` in `daemon.json` changes the minimum of any engine since 29.0.

use axum::http::Uri;
use axum::http::uri::PathAndQuery;
use bollard::{ClientVersion, Docker};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use tracing::Instrument;

use super::raw::Request;
use super::version::ApiVersion;
use super::{CALL_TIMEOUT, Swarm, SwarmError, SwarmErrorKind};
use crate::telemetry::metrics::metrics;

const OPERATION: &str = "agree with Docker on an API version";

/// The version of engine 20.10. Docker's answers were measured with it, so skep uses it wherever the engine accepts it.
const OLDEST: ApiVersion = ApiVersion { major: 1, minor: 41 };
/// The version of bollard's types. Nothing that skep sends or reads has changed between the two, except
/// in services (moby, `api/docs/CHANGELOG.md`).
const NEWEST: ApiVersion = ApiVersion { major: 1, minor: 53 };

/// The range of API versions that an engine offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    newest: ApiVersion,
    oldest: ApiVersion,
}

impl Offer {
    /// Parses the answer to `GET /version`. An answer without both versions is an error.
    fn parse(body: &[u8]) -> Result<Self, SwarmError> {
        #[derive(Deserialize)]
        struct Version {
            #[serde(rename = "ApiVersion")]
            newest: String,
            #[serde(rename = "MinAPIVersion")]
            oldest: String,
        }
        let unreadable = |why: String| SwarmError::unexpected(OPERATION, why);
        let version: Version = serde_json::from_slice(body).map_err(|error| {
            unreadable(format!("the answer to /version is unreadable: {error}"))
        })?;
        let offer = Self {
            newest: version.newest.parse().map_err(unreadable)?,
            oldest: version.oldest.parse().map_err(unreadable)?,
        };
        if offer.oldest > offer.newest {
            let Self { newest, oldest } = offer;
            return Err(unreadable(format!(
                "Docker offers API {oldest} to {newest}, an empty range"
            )));
        }
        Ok(offer)
    }

    /// Returns the newest version that the engine offers.
    pub(super) fn newest(self) -> ApiVersion {
        self.newest
    }

    /// Returns the oldest version that both support: the closest to the measured one.
    fn choose(self) -> Result<ApiVersion, SwarmError> {
        let Self { newest, oldest } = self;
        if newest < OLDEST {
            let words = format!("Docker offers API {newest} at most; skep needs {OLDEST} or newer");
            return Err(SwarmError::version(OPERATION, SwarmErrorKind::TooOld, &words));
        }
        if oldest > NEWEST {
            let words =
                format!("Docker needs API {oldest} or newer; skep supports {NEWEST} at most");
            return Err(SwarmError::version(OPERATION, SwarmErrorKind::TooNew, &words));
        }
        Ok(oldest.max(OLDEST))
    }
}

impl Swarm {
    /// Agrees with the engine on an API version, unless one is agreed already.
    ///
    /// # Errors
    /// [`SwarmErrorKind::Unreachable`] where no process listens, [`SwarmErrorKind::TooOld`] or
    /// [`SwarmErrorKind::TooNew`] where skep and the engine have no version in common.
    pub async fn connect(&self) -> Result<(), SwarmError> {
        self.agree().await.map(drop)
    }

    /// Fetches the engine's present offer. The request names no version, so every engine answers it.
    pub(super) async fn fetch_offer(&self) -> Result<Offer, SwarmError> {
        let request = Request::new(Method::GET, "version");
        let (status, body) = self.send(OPERATION, None, &request).await?;
        if status != StatusCode::OK {
            return Err(SwarmError::answered(OPERATION, status.as_u16(), &body));
        }
        Offer::parse(&body)
    }

    /// Makes a call with bollard.
    ///
    /// # Errors
    /// Docker's refusal. [`SwarmErrorKind::TooOld`] and [`SwarmErrorKind::TooNew`] only where skep and the engine have
    /// no version in common.
    pub(super) async fn call<T, Answer>(
        &self,
        operation: &'static str,
        call: impl Fn(Docker) -> Answer,
    ) -> Result<T, SwarmError>
    where
        Answer: Future<Output = Result<T, bollard::errors::Error>>,
    {
        let call = &call;
        self.speak(|version| async move {
            let docker =
                client(&self.host, version).map_err(|error| SwarmError::new(operation, &error))?;
            let answer = call(docker).await;
            metrics().docker_call(operation, answer.is_ok());
            answer.map_err(|error| SwarmError::new(operation, &error))
        })
        .instrument(tracing::debug_span!("call", docker = operation))
        .await
    }

    /// Makes a call in the agreed version, and once more in another version if the engine refuses the first.
    pub(super) async fn speak<T, Answer>(
        &self,
        call: impl Fn(ApiVersion) -> Answer,
    ) -> Result<T, SwarmError>
    where
        Answer: Future<Output = Result<T, SwarmError>>,
    {
        let version = self.agree().await?;
        match call(version).await {
            Err(refusal) if refusal.is_of_version() => {
                tracing::info!("Docker no longer accepts API {version}; choosing another version");
                self.agreed.forget(version);
                call(self.agree().await?).await
            }
            answer => answer,
        }
    }

    async fn agree(&self) -> Result<ApiVersion, SwarmError> {
        if let Some(version) = self.agreed.get() {
            return Ok(version);
        }
        let offer = self.fetch_offer().await?;
        let version = offer.choose()?;
        if self.agreed.set(version) {
            let Offer { newest, oldest } = offer;
            tracing::debug!("using API {version} with Docker, which offers {oldest} to {newest}");
        }
        Ok(version)
    }
}

/// The version that was agreed last, if any. The lock is never held across an await: callers that find no version each
/// ask the engine, and get the same answer.
#[derive(Debug, Default)]
pub(super) struct Agreed(std::sync::Mutex<Option<ApiVersion>>);

impl Agreed {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<ApiVersion>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn get(&self) -> Option<ApiVersion> {
        *self.lock()
    }

    /// Stores the version. Returns `true` where another version, or none, was stored before.
    fn set(&self, version: ApiVersion) -> bool {
        self.lock().replace(version) != Some(version)
    }

    /// Removes the refused version, unless another caller has agreed on another one since.
    fn forget(&self, refused: ApiVersion) {
        let mut agreed = self.lock();
        if *agreed == Some(refused) {
            *agreed = None;
        }
    }
}

/// Returns a bollard client whose requests name `version`.
///
/// Without help bollard 0.21 names none: `Uri::parse` in its `src/uri.rs` writes `/v1.41` before the path and then
/// joins the absolute path to that, which replaces it. The engine answers such a request in its newest version, which
/// Docker calls deprecated. So skep sets the prefix on the finished request.
fn client(host: &str, version: ApiVersion) -> Result<Docker, bollard::errors::Error> {
    let ApiVersion { major, minor } = version;
    let own = ClientVersion { major_version: major as usize, minor_version: minor as usize };
    let docker = Docker::connect_with_unix(host, CALL_TIMEOUT.as_secs(), &own)?;
    Ok(docker.with_request_modifier(move |mut request| {
        // Only a path of more than 64 KiB has no versioned form. The engine answers it without one, too.
        if let Some(uri) = versioned(request.uri(), version) {
            *request.uri_mut() = uri;
        }
        request
    }))
}

/// Returns the address with the version before its path (`/v1.41/…`); `None` where it has that version already.
fn versioned(uri: &Uri, version: ApiVersion) -> Option<Uri> {
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let prefix = format!("/v{version}");
    if path.strip_prefix(&prefix).is_some_and(|rest| rest.starts_with('/')) {
        return None;
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(format!("{prefix}{path}").parse().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(newest: &str, oldest: &str) -> Result<Offer, SwarmError> {
        let body = serde_json::json!({ "ApiVersion": newest, "MinAPIVersion": oldest });
        Offer::parse(body.to_string().as_bytes())
    }

    #[test]
    fn the_oldest_version_that_both_speak_is_chosen() {
        for (newest, oldest, chosen) in [
            ("1.41", "1.12", "1.41"),
            ("1.43", "1.12", "1.41"),
            ("1.52", "1.44", "1.44"),
            ("1.54", "1.40", "1.41"),
            ("1.60", "1.53", "1.53"),
            ("2.0", "1.9", "1.41"),
        ] {
            let version = offer(newest, oldest).unwrap().choose().unwrap();
            assert_eq!(version.to_string(), chosen, "{newest} {oldest}");
        }
    }

    #[test]
    fn an_engine_without_a_common_version_is_refused_with_the_remedy() {
        let error = offer("1.40", "1.12").unwrap().choose().unwrap_err();
        assert_eq!(error.kind, SwarmErrorKind::TooOld);
        assert!(error.message.ends_with("install Docker 20.10 or newer"), "{error}");
        for oldest in ["1.54", "2.0"] {
            let error = offer("2.1", oldest).unwrap().choose().unwrap_err();
            assert_eq!(error.kind, SwarmErrorKind::TooNew);
            assert!(error.message.ends_with("upgrade skep"), "{error}");
        }
    }

    #[test]
    fn an_unreadable_offer_decides_nothing() {
        for body in [
            "",
            "{}",
            r#"{"ApiVersion":"1.52"}"#,
            r#"{"ApiVersion":"1.52","MinAPIVersion":""}"#,
            r#"{"ApiVersion":"1.52","MinAPIVersion":"1.+44"}"#,
            r#"{"ApiVersion":"1.52","MinAPIVersion":"1.53"}"#,
        ] {
            let error = Offer::parse(body.as_bytes()).unwrap_err();
            assert_eq!(error.kind, SwarmErrorKind::Other, "{body}");
        }
    }

    #[test]
    fn the_newest_version_is_the_one_of_bollards_types() {
        assert_eq!(NEWEST.to_string(), bollard::API_DEFAULT_VERSION.to_string());
    }

    #[test]
    fn a_path_gets_its_version_once() {
        let versioned = |uri: &str| versioned(&uri.parse().unwrap(), OLDEST);
        let uri = versioned("unix://2f64/nodes/n1/update?version=7").unwrap();
        assert_eq!(uri, "unix://2f64/v1.41/nodes/n1/update?version=7");
        assert_eq!(versioned(&uri.to_string()), None);
        assert_eq!(versioned("unix://2f64/v1.411").unwrap(), "unix://2f64/v1.41/v1.411");
    }
}
