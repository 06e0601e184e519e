//! Checks the files with the webhook's address and secret. Sends nothing.

use std::path::Path;

use nix::unistd::{User, geteuid};

use super::Finding;
use crate::common::errors::chain;
use crate::config::{self, Settings};
use crate::telemetry::notifications::{SERVICE_USER, Webhook, service_can_read};

const CHECK: &str = "webhook";
const REMEDY: &str = "write the address and the secret to files that only skep can read: chown skep FILE; chmod 400 FILE";

/// Returns no finding without a webhook.
pub async fn examine(settings: &Settings) -> Vec<Finding> {
    let Some(webhook) = Webhook::new(&settings.webhook) else { return vec![] };
    let finding = match webhook.read_files().await {
        Err(error) if error.is_permission_denied() => {
            Finding::skipped(CHECK, chain(&error), "sudo skep doctor")
        }
        Err(error) => Finding::failed(CHECK, chain(&error), REMEDY),
        Ok((address, _)) => match unreadable_for_service(&settings.webhook) {
            Some(path) => {
                let evidence = format!("only root can read {}", path.display());
                Finding::warning(CHECK, evidence, REMEDY)
            }
            None => Finding::ok(CHECK, format!("{address}; nothing was sent")),
        },
    };
    vec![finding]
}

/// Returns the file that root, who runs this command, can read and the user of the service cannot.
fn unreadable_for_service(settings: &config::Webhook) -> Option<&Path> {
    let service = User::from_name(SERVICE_USER).ok().flatten().filter(|_| geteuid().is_root())?;
    [&settings.url_file, &settings.secret_file].into_iter().flatten().map(AsRef::as_ref).find(
        |path: &&Path| {
            std::fs::metadata(path).is_ok_and(|metadata| !service_can_read(&metadata, &service))
        },
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::Verdict;
    use super::*;

    #[tokio::test]
    async fn files_that_others_can_read_are_a_failure_and_no_webhook_is_no_finding() {
        assert_eq!(examine(&Settings::default()).await, []);
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        let write = |name: &str, content: &str, mode: u32| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Some(path)
        };
        settings.webhook.url_file = write("url", "https://hooks.example.com/T0KEN", 0o600);
        settings.webhook.secret_file = write("secret", "hive", 0o600);
        let found = examine(&settings).await.remove(0);
        if !geteuid().is_root() || User::from_name(SERVICE_USER).unwrap().is_none() {
            assert_eq!(found.evidence, "https://hooks.example.com/***; nothing was sent");
        }
        for (content, mode) in
            [("https://hooks.example.com/T0KEN", 0o644), ("http://10.0.0.1/T0KEN", 0o600)]
        {
            settings.webhook.url_file = write("url", content, mode);
            let found = examine(&settings).await.remove(0);
            assert_eq!(found.verdict, Verdict::Failed, "{found:?}");
            assert!(!format!("{found:?}").contains("T0KEN"), "{found:?}");
        }
    }
}
