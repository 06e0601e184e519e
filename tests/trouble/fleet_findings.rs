//! A manager collects the findings of every node with `skep doctor --fleet`, and `skep bundle` writes an archive.

use anyhow::{Context, ensure};
use harness::departures::{options_with, shell, standing};
use serde_json::Value;
use skep_sim::cloud::{Deny, Service, Who};
use skep_sim::fleet::{ClusterSpec, Instance};

/// A boot that is shorter than its hook, and an overlay pool outside of the simulated VPC (10.78.0.0/24).
const SOUND: &str = "[boot]\ndeadline = \"4m\"\n[swarm]\naddress_pool = [\"10.128.0.0/9\"]\n";

/// Returns the exit code, and the nodes' objects.
async fn collect(manager: &Instance) -> anyhow::Result<(Option<i32>, Value)> {
    let said = manager.skep(["doctor", "--fleet", "--json"]).await?;
    let report = serde_json::from_slice(&said.stdout).with_context(|| format!("{said:?}"))?;
    Ok((said.status.code(), report))
}

fn node<'a>(report: &'a Value, instance: &Instance) -> anyhow::Result<&'a Value> {
    let nodes = report["nodes"].as_array().context("no nodes")?;
    let found = nodes.iter().find(|node| node["instance_id"] == instance.id());
    found.with_context(|| format!("{} is not in {report:#}", instance.id()))
}

#[tokio::test]
async fn a_manager_collects_the_findings_of_every_node_and_silence_is_not_ok() -> anyhow::Result<()>
{
    let spec = ClusterSpec::new("test", 1, 2);
    let fleet = standing(options_with(SOUND), &spec).await?;
    let manager = fleet.group(&spec.managers_group())[0].clone();
    let workers = fleet.group(&spec.workers_group());
    let [broken, silent] = &workers[..] else { anyhow::bail!("not two workers") };

    let from_worker = silent.skep(["doctor", "--fleet"]).await?;
    ensure!(from_worker.status.code() == Some(1), "{from_worker:?}");
    let why = String::from_utf8_lossy(&from_worker.stderr).into_owned();
    ensure!(why.contains("on a manager"), "{why}");
    // A worker is no manager for the others.
    let url = format!("http://{}:44554/findings", broken.address());
    let ask = format!("curl --silent --max-time 8 --noproxy '*' {url}");
    let refused = shell(silent, &ask).await?;
    ensure!(refused.contains("for managers of the swarm only"), "{refused}");

    let cloud = fleet.cloud();
    cloud.deny(Deny::new(Who::Role("skep-worker".into()), Service::DynamoDb, "UpdateItem"));
    silent.isolate(true)?;
    let (code, report) = collect(&manager).await?;
    ensure!(code == Some(1) && report["worst"] == "failed", "{code:?} {report:#}");
    let of_manager = node(&report, &manager)?;
    ensure!(of_manager["verdict"] == "ok", "{of_manager:#}");
    let of_broken = node(&report, broken)?;
    ensure!(of_broken["verdict"] == "failed", "{of_broken:#}");
    let findings = of_broken["findings"].as_array().context("no findings")?;
    let is_denied = |finding: &Value| {
        finding["check"] == "dynamodb:UpdateItem" && finding["verdict"] == "failed"
    };
    ensure!(findings.iter().any(is_denied), "{of_broken:#}");
    let of_silent = node(&report, silent)?;
    ensure!(of_silent["verdict"] == "cannot-tell", "{of_silent:#}");
    ensure!(
        of_silent["why"].as_str().is_some_and(|why| why.contains("no answer")),
        "{of_silent:#}"
    );

    let text = String::from_utf8(manager.skep(["doctor", "--fleet"]).await?.stdout)?;
    ensure!(text.contains("remedy: grant dynamodb:UpdateItem"), "{text}");
    ensure!(text.contains("1 ok, 0 with warnings, 1 with failures, 1 cannot tell"), "{text}");
    fleet.stop().await
}

#[tokio::test]
async fn a_bundle_has_every_part_of_a_manager_and_no_join_token() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("test", 1, 0);
    let fleet = standing(options_with(SOUND), &spec).await?;
    let manager = fleet.group(&spec.managers_group())[0].clone();
    let tokens = manager.docker()?.inspect_swarm().await?.join_tokens.context("no tokens")?;
    let path = std::env::temp_dir().join(format!("skep-bundle-{}.tar.gz", manager.id()));
    let _ = std::fs::remove_file(&path);
    let output = path.to_str().context("odd path")?;
    let written = manager.skep(["bundle", "--output", output]).await?;
    ensure!(written.status.success(), "{written:?}");
    let again = manager.skep(["bundle", "--output", output]).await?;
    ensure!(again.status.code() == Some(1), "{again:?}");

    let unpacked = std::process::Command::new("tar").args(["-xzOf", output]).output()?;
    std::fs::remove_file(&path)?;
    let text = String::from_utf8(unpacked.stdout)?;
    for words in [
        "\"phase\": \"ready\"",
        "\"worst\": \"skipped\"",
        "ServerVersion",
        "skep_phase",
        manager.id(),
    ] {
        ensure!(text.contains(words), "no {words} in {text}");
    }
    for token in [tokens.worker, tokens.manager].into_iter().flatten() {
        let secret = token.rsplit('-').next().unwrap_or_default();
        ensure!(secret.len() == 25 && !text.contains(secret), "a join token is in the archive");
    }
    fleet.stop().await
}
