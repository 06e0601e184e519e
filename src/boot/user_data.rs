//! UserData that failed: an instance that is not what its operator wanted must not take tasks.
//!
//! cloud-init writes down what failed only at its end. A skep that UserData itself has started is
//! ahead of that and finds nothing; the one that is started after cloud-init does.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::decide::Refusal;
use crate::node::Node;
use crate::swarm::LocalState;

/// Written when cloud-init is through; gone with the next start of the machine. Source:
/// cloud-init's documentation, "Reported status".
const RESULT: &str = "/run/cloud-init/result.json";
/// Docker may only be starting.
const DOCKER_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Report {
    v1: Outcome,
}

#[derive(Deserialize)]
struct Outcome {
    #[serde(default)]
    errors: Vec<String>,
}

/// # Errors
/// When cloud-init has failed on an instance that is in no swarm yet. A member stays one.
pub async fn check(node: &Node) -> Result<(), Refusal> {
    if !node.settings.boot.cloud_init {
        return Ok(());
    }
    let Some(errors) = errors_in(RESULT.as_ref()).await else { return Ok(()) };
    loop {
        match node.swarm.fetch_local_node().await {
            Ok(local) if local.state == LocalState::Inactive => {
                return Err(Refusal::UserDataFailed { errors });
            }
            Ok(_) => {
                tracing::warn!(errors, "cloud-init has failed; the node is a member and stays one");
                return Ok(());
            }
            Err(error) => tracing::warn!("{}", crate::errors::chain(&error)),
        }
        tokio::time::sleep(DOCKER_INTERVAL).await;
    }
}

/// What cloud-init says went wrong; `None` where nothing did, or where it has not ended.
async fn errors_in(file: &Path) -> Option<String> {
    let text = tokio::fs::read(file).await.ok()?;
    let report: Report = serde_json::from_slice(&text)
        .inspect_err(|error| tracing::warn!("{}: {error}", file.display()))
        .ok()?;
    Some(report.v1.errors.join("; ")).filter(|errors| !errors.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn errors_of(text: &str) -> Option<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        errors_in(file.path()).await
    }

    #[tokio::test]
    async fn what_cloud_init_says_went_wrong_is_told() {
        let failed = r#"{"v1": {"datasource": "DataSourceEc2Local", "errors":
            ["('scripts-user', RuntimeError('Runparts: 1 failures (part-001) in 1 attempted'))"]}}"#;
        assert!(errors_of(failed).await.unwrap().contains("scripts-user"));
        assert_eq!(errors_of(r#"{"v1": {"datasource": null, "errors": []}}"#).await, None);
    }

    #[tokio::test]
    async fn a_report_that_is_not_there_or_not_understood_says_nothing() {
        assert_eq!(errors_in("/nonexistent/result.json".as_ref()).await, None);
        assert_eq!(errors_of("{}").await, None);
    }
}
