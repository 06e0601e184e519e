//! ECR: issues tokens that expire, and forwards requests with a valid token to a real registry.
//!
//! The registries of all accounts in all regions are the same real registry; a token is valid for the hosts of its own
//! region.

use std::collections::BTreeMap;
use std::path::PathBuf;

use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Response, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::errors::ApiError;
use super::ids::Ids;
use super::requests::Service;

/// The lifetime of AWS's tokens: twelve hours.
const LIFE: Duration = Duration::hours(12);
/// Roughly the length of real passwords.
const PASSWORD_LENGTH: usize = 1024;
/// The part of a registry's name before its region.
const BEFORE_THE_REGION: &str = ".dkr.ecr.";
/// Large enough for the image layers that scenarios push.
pub(super) const LARGEST_BODY: usize = 64 << 20;

/// No `Debug`: it holds secrets.
pub(super) struct Ecr {
    ids: Ids,
    /// By password.
    tokens: BTreeMap<String, Token>,
    pub life: Duration,
    /// The socket of the real registry.
    pub registry: Option<PathBuf>,
    /// Whether every pull and push is refused, as without `ecr:BatchGetImage`.
    pub refuses: bool,
}

struct Token {
    region: String,
    expires_at: OffsetDateTime,
}

impl Ecr {
    pub fn new(seed: u64) -> Self {
        let (ids, tokens) = (Ids::new(seed), BTreeMap::new());
        Self { ids, tokens, life: LIFE, registry: None, refuses: false }
    }

    pub fn handle(
        &mut self,
        action: &str,
        region: &str,
        now: OffsetDateTime,
    ) -> Result<Value, ApiError> {
        if action != "GetAuthorizationToken" {
            return Err(ApiError::unknown_action(Service::Ecr, action));
        }
        let (password, expires_at) = self.give(region, now);
        let token = STANDARD.encode(format!("AWS:{password}"));
        let account = super::ACCOUNT;
        Ok(json!({ "authorizationData": [{
            "authorizationToken": token,
            "expiresAt": expires_at.unix_timestamp(),
            "proxyEndpoint": format!("https://{account}.dkr.ecr.{region}.amazonaws.com"),
        }] }))
    }

    fn give(&mut self, region: &str, now: OffsetDateTime) -> (String, OffsetDateTime) {
        let (password, expires_at) = (self.ids.secret(PASSWORD_LENGTH), now + self.life);
        self.tokens.insert(password.clone(), Token { region: region.to_owned(), expires_at });
        (password, expires_at)
    }

    /// Returns the registry's socket, or the refusal of this request.
    fn admit(
        &self,
        host: &str,
        headers: &HeaderMap,
        now: OffsetDateTime,
    ) -> Result<PathBuf, (StatusCode, &'static str)> {
        let Some(password) = password(headers) else {
            return Err((StatusCode::UNAUTHORIZED, "Not Authorized"));
        };
        let region = region_of(host);
        match self.tokens.get(&password) {
            Some(token) if token.expires_at <= now => Err((
                StatusCode::FORBIDDEN,
                "Your authorization token has expired. Reauthenticate and try again.",
            )),
            Some(token) if region != Some(&token.region) => {
                Err((StatusCode::BAD_REQUEST, "The authorization token is of another region."))
            }
            Some(_) if self.refuses => {
                Err((StatusCode::FORBIDDEN, "The principal is not authorized: ecr:BatchGetImage"))
            }
            Some(_) => {
                self.registry.clone().ok_or((StatusCode::NOT_FOUND, "There is no such registry."))
            }
            None => Err((StatusCode::BAD_REQUEST, "The authorization token is not valid.")),
        }
    }
}

/// Returns the host of a request to a registry; `None` for a request to the AWS services.
pub(super) fn host(parts: &Parts) -> Option<&str> {
    let host = parts.headers.get(header::HOST)?.to_str().ok()?;
    region_of(host).map(|_| host)
}

fn region_of(host: &str) -> Option<&str> {
    host.split_once(BEFORE_THE_REGION)?.1.split('.').next()
}

fn password(headers: &HeaderMap) -> Option<String> {
    let basic = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let text = String::from_utf8(STANDARD.decode(basic).ok()?).ok()?;
    text.strip_prefix("AWS:").map(str::to_owned)
}

impl super::Cloud {
    /// Sets the socket of the registry behind all of ECR's hosts. Its clients need a token from ECR.
    pub fn set_registry(&self, socket: PathBuf) {
        self.change(|state, _| state.ecr.registry = Some(socket));
    }

    /// Sets the lifetime of the tokens that ECR issues from now on.
    pub fn set_registry_token_life(&self, life: Duration) {
        self.change(|state, _| state.ecr.life = life);
    }

    /// Issues a password for an operator, as `aws ecr get-login-password` does.
    pub fn registry_password(&self) -> String {
        let (region, now) = (self.inner.options.region.clone(), self.now());
        self.change(|state, _| state.ecr.give(&region, now).0)
    }

    /// Returns every password that ECR has issued so far.
    pub fn registry_passwords(&self) -> Vec<String> {
        self.change(|state, _| state.ecr.tokens.keys().cloned().collect())
    }

    /// Sets whether ECR's registries refuse every request, even with a valid token.
    pub fn set_registry_refuses(&self, refuses: bool) {
        self.change(|state, _| state.ecr.refuses = refuses);
    }

    /// Forwards a request to the registry, or refuses it with an error of Docker's registry protocol.
    pub(super) async fn visit_registry(
        &self,
        parts: &Parts,
        host: &str,
        body: Bytes,
    ) -> Response<Body> {
        let now = self.now();
        let admitted = self.change(|state, _| state.ecr.admit(host, &parts.headers, now));
        let passed = match admitted {
            Ok(socket) => pass_on(socket, parts, host, body).await,
            Err((status, why)) => return refusal(status, host, why),
        };
        passed.unwrap_or_else(|error| {
            tracing::error!(%error, "the registry does not answer");
            refusal(StatusCode::BAD_GATEWAY, host, "The registry does not answer.")
        })
    }
}

fn refusal(status: StatusCode, host: &str, why: &str) -> Response<Body> {
    let body = json!({ "errors": [{ "code": "DENIED", "message": why }] });
    let answer = Response::builder()
        .status(status)
        .header("Docker-Distribution-Api-Version", "registry/2.0")
        .header(header::CONTENT_TYPE, "application/json")
        .header(
            header::WWW_AUTHENTICATE,
            format!("Basic realm=\"https://{host}/\",service=\"ecr.amazonaws.com\""),
        )
        .body(Body::from(body.to_string()));
    answer.unwrap_or_default()
}

async fn pass_on(
    socket: PathBuf,
    parts: &Parts,
    host: &str,
    body: Bytes,
) -> reqwest::Result<Response<Body>> {
    /// Headers of one connection, and the token, which is only for this gateway.
    const NOT_PASSED_ON: [header::HeaderName; 5] = [
        header::AUTHORIZATION,
        header::HOST,
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::CONTENT_LENGTH,
    ];
    let http = reqwest::Client::builder().unix_socket(socket).no_proxy().build()?;
    let mut headers = parts.headers.clone();
    for name in NOT_PASSED_ON {
        headers.remove(name);
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let call = http.request(parts.method.clone(), format!("http://{host}{path}"));
    let answer = call.headers(headers).body(body).send().await?;
    let mut response = Response::builder().status(answer.status());
    if let Some(headers) = response.headers_mut() {
        *headers = answer.headers().clone();
        headers.remove(header::CONNECTION);
        headers.remove(header::TRANSFER_ENCODING);
    }
    Ok(response.body(Body::from(answer.bytes().await?)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);
    const HOST: &str = "210987654321.dkr.ecr.eu-central-1.amazonaws.com";

    fn with(token: &str) -> HeaderMap {
        let value = HeaderValue::from_str(&format!("Basic {token}")).unwrap();
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    #[test]
    fn a_token_opens_its_region_s_registries_until_it_ends() {
        let mut ecr = Ecr::new(1);
        ecr.registry = Some("socket".into());
        let given = ecr.handle("GetAuthorizationToken", "eu-central-1", NOW).unwrap();
        let given = &given["authorizationData"][0];
        assert_eq!(given["expiresAt"], (NOW + LIFE).unix_timestamp());
        let headers = with(given["authorizationToken"].as_str().unwrap());
        let status = |ecr: &Ecr, host: &str, headers: &HeaderMap, now| {
            ecr.admit(host, headers, now).map_err(|(status, _)| status.as_u16())
        };
        assert_eq!(status(&ecr, HOST, &headers, NOW), Ok("socket".into()));
        let elsewhere = "210987654321.dkr.ecr.us-east-1.amazonaws.com";
        assert_eq!(status(&ecr, elsewhere, &headers, NOW), Err(400));
        assert_eq!(status(&ecr, HOST, &headers, NOW + LIFE), Err(403));
        assert_eq!(status(&ecr, HOST, &HeaderMap::new(), NOW), Err(401));
        assert_eq!(status(&ecr, HOST, &with("QVdTOngK"), NOW), Err(400));
        ecr.refuses = true;
        assert_eq!(status(&ecr, HOST, &headers, NOW), Err(403));
        assert!(ecr.handle("DeleteRepository", "eu-central-1", NOW).is_err());
    }
}
