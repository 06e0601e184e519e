//! Recognises Amazon ECR's registries, and fetches the credentials with which Docker pulls from them.
//!
//! Guarantees: a token is requested only in the region that an image's registry names, and is for hosts of AWS's own
//! domains alone: a host that merely looks like ECR's gets none. One token is valid for every account's registry in its
//! region that its principal may pull from.

use std::fmt;

use aws_config::{Region, SdkConfig};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;

use super::Signed;
use super::signed::{Attempts, domain_of};
use crate::clients::aws::AwsError;
use crate::telemetry::metrics::metrics;

const SERVICE: &str = "ecr";
const OPERATION: &str = "GetAuthorizationToken";
const TARGET: &str = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken";
/// The variable of the SDKs for the endpoint of this service.
const ENDPOINT: &str = "AWS_ENDPOINT_URL_ECR";
/// Digits of an account's id.
const ACCOUNT_DIGITS: usize = 12;
/// Ends of a registry's host name, in all partitions of AWS: the endpoints and the dual-stack ones.
const DOMAINS: [&str; 10] = [
    "amazonaws.com",
    "amazonaws.com.cn",
    "amazonaws.eu",
    "on.aws",
    "on.amazonwebservices.com.cn",
    "on.amazonwebservices.eu",
    "c2s.ic.gov",
    "sc2s.sgov.gov",
    "cloud.adc-e.uk",
    "csp.hci.ic.gov",
];

/// A private registry, of one account in one region.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Registry {
    /// Such as `123456789012.dkr.ecr.eu-central-1.amazonaws.com`.
    pub host: String,
    /// Region in the host's name, such as `eu-central-1`; only a token of this region is valid for it.
    pub region: String,
}

/// Credentials with which Docker can pull for a while.
#[derive(Clone, Debug)]
pub struct PullCredentials {
    /// Docker's user name; ECR sends `AWS`.
    pub username: String,
    /// Password, valid for every registry of the requested region that the node's role may pull from.
    pub password: SecretString,
    /// 12 hours after ECR issued them, as of 2026.
    pub expires_at: OffsetDateTime,
}

/// ECR in every region. Cheap to clone.
#[derive(Clone)]
pub struct Ecr {
    config: SdkConfig,
}

impl fmt::Debug for Ecr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ecr").finish_non_exhaustive()
    }
}

impl Registry {
    /// Returns the registry of a host's name; `None` for a host that is not ECR's.
    #[must_use]
    pub fn of_host(host: &str) -> Option<Self> {
        let (account, rest) = host.split_once('.')?;
        let forms = ["dkr.ecr.", "dkr.ecr-fips.", "dkr-ecr.", "dkr-ecr-fips."];
        let rest = forms.iter().find_map(|form| rest.strip_prefix(form))?;
        let (region, domain) = rest.split_once('.')?;
        let is_account =
            account.len() == ACCOUNT_DIGITS && account.bytes().all(|byte| byte.is_ascii_digit());
        let is_region = !region.is_empty()
            && region
                .bytes()
                .all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-');
        (is_account && is_region && DOMAINS.contains(&domain))
            .then(|| Self { host: host.to_owned(), region: region.to_owned() })
    }

    /// Returns the registry that an image's reference names.
    #[must_use]
    pub fn of_image(image: &str) -> Option<Self> {
        Self::of_host(image.split_once('/')?.0)
    }
}

impl PullCredentials {
    /// Returns the credentials as Docker accepts them in its `X-Registry-Auth`.
    #[must_use]
    pub fn header_for(&self, registry: &Registry) -> SecretString {
        let auth = json!({
            "username": self.username,
            "password": self.password.expose_secret(),
            "serveraddress": registry.host,
        });
        URL_SAFE.encode(auth.to_string()).into()
    }

    /// Reads `base64(user:password)`, as ECR writes them.
    fn parse(token: &str, expires_at: OffsetDateTime) -> Option<Self> {
        let text = String::from_utf8(STANDARD.decode(token).ok()?).ok()?;
        let (username, password) = text.split_once(':')?;
        Some(Self { username: username.to_owned(), password: password.into(), expires_at })
    }
}

impl Ecr {
    pub(super) fn new(config: &SdkConfig) -> Self {
        Self { config: config.clone() }
    }

    /// Fetches new credentials for every registry in a region that this node's role may pull from.
    ///
    /// # Errors
    /// When ECR did not answer, or refused.
    pub async fn fetch_credentials(&self, region: &str) -> Result<PullCredentials, AwsError> {
        let resource = format!("the registries in {region}");
        let failed = |why| AwsError::unanswered(SERVICE, OPERATION, &resource, why);
        let config = self.config.to_builder().region(Region::new(region.to_owned())).build();
        let own = format!("https://api.ecr.{region}.{}", domain_of(region));
        let set = std::env::var(ENDPOINT).ok();
        let endpoint = set.as_deref().or(config.endpoint_url()).unwrap_or(&own);
        let service = Signed::new(&config, SERVICE, Some(endpoint)).map_err(failed)?;
        let attempt = || async {
            let headers =
                [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", TARGET)];
            let answer = service.call("POST", "/", &headers, b"{}".to_vec()).await;
            let result = answer.map_err(failed).and_then(|answer| match answer.status {
                200 => read(&answer.body)
                    .ok_or_else(|| AwsError::malformed(SERVICE, OPERATION, &resource)),
                status => {
                    let Refusal { code, message } =
                        serde_json::from_str(&answer.body).unwrap_or_default();
                    Err(AwsError::refused(SERVICE, OPERATION, &resource, status, &code, &message))
                }
            });
            let outcome = result.as_ref().map_or_else(|error| error.kind.as_str(), |_| "ok");
            metrics().aws_call(SERVICE, OPERATION, outcome);
            result
        };
        Attempts::of(&config).make(OPERATION, attempt).await
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    authorization_data: Vec<Given>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Given {
    authorization_token: String,
    /// Seconds since 1970, with a fraction.
    expires_at: f64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    #[serde(rename = "__type")]
    code: String,
    #[serde(alias = "Message")]
    message: String,
}

/// Reads an answer; `None` without credentials.
fn read(body: &str) -> Option<PullCredentials> {
    let answer: Answer = serde_json::from_str(body).ok()?;
    let given = answer.authorization_data.into_iter().next()?;
    let expires_at = OffsetDateTime::from_unix_timestamp(given.expires_at as i64).ok()?;
    PullCredentials::parse(&given.authorization_token, expires_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_ecr_s_hosts_is_known_with_its_region() {
        for (host, region) in [
            ("123456789012.dkr.ecr.eu-central-1.amazonaws.com", "eu-central-1"),
            ("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
            ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", "cn-north-1"),
            ("123456789012.dkr-ecr.us-east-1.on.aws", "us-east-1"),
            ("123456789012.dkr-ecr-fips.us-east-1.on.aws", "us-east-1"),
        ] {
            let registry = Registry::of_host(host).expect(host);
            assert_eq!((registry.host.as_str(), registry.region.as_str()), (host, region));
            assert_eq!(Registry::of_image(&format!("{host}/team/app:1@sha256:0")), Some(registry));
        }
    }

    #[test]
    fn a_host_that_only_looks_like_ecr_s_gets_no_credentials() {
        for host in [
            "123456789012.dkr.ecr.eu-central-1.amazonaws.com.example.org",
            "123456789012.dkr.ecr.eu-central-1.example.org",
            "123456789012.dkr.ecr.eu-central-1.amazonaws.com:5000",
            "123456789012.dkr.ecr..amazonaws.com",
            "123456789012.dkr.ecr.a/b.amazonaws.com",
            "12345678901.dkr.ecr.eu-central-1.amazonaws.com",
            "x23456789012.dkr.ecr.eu-central-1.amazonaws.com",
            "dkr.ecr.eu-central-1.amazonaws.com",
            "public.ecr.aws",
            "docker.io",
            "",
        ] {
            assert_eq!(Registry::of_host(host), None, "{host}");
        }
        assert_eq!(Registry::of_image("busybox"), None);
        assert_eq!(Registry::of_image("team/app:1"), None);
    }

    #[test]
    fn credentials_become_docker_s_header_and_show_nothing() {
        let token = STANDARD.encode("AWS:se:kret?>");
        let given = PullCredentials::parse(&token, OffsetDateTime::UNIX_EPOCH).unwrap();
        assert_eq!((given.username.as_str(), given.password.expose_secret()), ("AWS", "se:kret?>"));
        assert!(!format!("{given:?}").contains("kret"));
        let registry = Registry::of_host("123456789012.dkr-ecr.us-east-1.on.aws").unwrap();
        let header = given.header_for(&registry);
        let header = URL_SAFE.decode(header.expose_secret()).unwrap();
        let header: serde_json::Value = serde_json::from_slice(&header).unwrap();
        let expected = json!({
            "username": "AWS", "password": "se:kret?>", "serveraddress": registry.host,
        });
        assert_eq!(header, expected);
        for broken in ["", "?", &STANDARD.encode("no colon")] {
            assert!(PullCredentials::parse(broken, OffsetDateTime::UNIX_EPOCH).is_none());
        }
    }
}
