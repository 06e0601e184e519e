//! `docker-credential-skep`: implements Docker's credential helper protocol, for pulls from Amazon ECR outside of
//! services. The skep binary acts as the helper when it is called by that name.
//!
//! Guarantees: credentials are fetched for each `get`, with the role of this instance, and stored nowhere;
//! they are written only to standard output, where Docker reads them. For a registry other than ECR, the answer is
//! Docker's own text for "no credentials", so that Docker continues without them.

use std::ffi::OsStr;
use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::clients::aws::ecr::{PullCredentials, Registry};
use crate::clients::aws::{Aws, AwsError};
use crate::common::errors::chain;

/// The program's name: Docker puts `docker-credential-` before the name in `credHelpers`.
const NAME: &str = "docker-credential-skep";
/// Docker compares the whole text.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// Limit of the input; longer than any server's name.
const LONGEST_INPUT: u64 = 64 * 1024;

/// Serves Docker's request if this process was called by the helper's name; otherwise returns `None`.
#[must_use]
pub fn as_credential_helper() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    let called = arguments.next()?;
    if Path::new(&called).file_name() != Some(OsStr::new(NAME)) {
        return None;
    }
    let action = arguments.next().unwrap_or_default();
    // Docker reads errors from standard output, too.
    let (text, code) = match serve(&action.to_string_lossy()) {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(text) => (text, ExitCode::FAILURE),
    };
    println!("{text}");
    Some(code)
}

fn serve(action: &str) -> Result<String, String> {
    let mut input = String::new();
    if action == "get" {
        let read = std::io::stdin().take(LONGEST_INPUT).read_to_string(&mut input);
        read.map_err(|error| format!("cannot read the registry's name: {error}"))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    let answered = runtime.block_on(answer(action, input.trim(), async |registry| {
        Aws::load(None, &registry.region).await.ecr.fetch_credentials(&registry.region).await
    }));
    runtime.shutdown_background();
    answered
}

/// Returns the text to print; `server` is a host or a URL.
async fn answer(
    action: &str,
    server: &str,
    fetch: impl AsyncFnOnce(&Registry) -> Result<PullCredentials, AwsError>,
) -> Result<String, String> {
    match action {
        "get" => {
            let host = server.split_once("://").map_or(server, |(_, rest)| rest);
            let host = host.split('/').next().unwrap_or_default();
            let registry = Registry::of_host(host).ok_or(NOT_FOUND)?;
            let given = fetch(&registry).await.map_err(|error| chain(&error))?;
            let (username, secret) = (given.username, given.password.expose_secret());
            Ok(json!({ "ServerURL": server, "Username": username, "Secret": secret }).to_string())
        }
        // The helper stores no credentials.
        "list" => Ok("{}".into()),
        "store" | "erase" => Err(format!(
            "{NAME} stores no credentials: with this helper, Amazon ECR needs no login or logout"
        )),
        "version" => Ok(format!("{NAME} {}", env!("CARGO_PKG_VERSION"))),
        _ => Err(format!("usage: {NAME} <get|list|store|erase|version>")),
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::clients::aws::AwsErrorKind;

    const HOST: &str = "123456789012.dkr.ecr.eu-central-1.amazonaws.com";

    async fn given(registry: &Registry) -> Result<PullCredentials, AwsError> {
        assert_eq!(registry.region, "eu-central-1");
        let username = "AWS".to_owned();
        let expires_at = OffsetDateTime::UNIX_EPOCH;
        Ok(PullCredentials { username, password: "pass".into(), expires_at })
    }

    async fn refused(_: &Registry) -> Result<PullCredentials, AwsError> {
        Err(AwsError {
            kind: AwsErrorKind::AccessDenied,
            ..AwsError::malformed("ecr", "GetAuthorizationToken", "the registries in eu-central-1")
        })
    }

    #[tokio::test]
    async fn docker_gets_what_it_asks_for_by_host_or_url() {
        for server in [HOST, &format!("https://{HOST}"), &format!("https://{HOST}/v2/")] {
            let answer = answer("get", server, given).await.unwrap();
            let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
            let expected = json!({ "ServerURL": server, "Username": "AWS", "Secret": "pass" });
            assert_eq!(answer, expected);
        }
    }

    #[tokio::test]
    async fn another_registry_is_left_to_docker_and_a_refusal_is_told() {
        for server in ["https://index.docker.io/v1/", "ghcr.io", ""] {
            assert_eq!(answer("get", server, given).await, Err(NOT_FOUND.to_owned()));
        }
        let told = answer("get", HOST, refused).await.unwrap_err();
        assert!(told.contains("access denied") && told.contains("grant ecr:"), "{told}");
    }

    #[tokio::test]
    async fn nothing_is_kept() {
        assert_eq!(answer("list", "", given).await.unwrap(), "{}");
        for action in ["store", "erase", "", "help"] {
            assert!(answer(action, HOST, given).await.is_err(), "{action}");
        }
    }
}
