//! Thirty instances boot in the same moment, five leave at once, and AWS throttles: `skep-sim scale`, which `make scale`
//! runs with a thousand. Its engines are played; what it says about times is not looked at here.

use std::fs;

use anyhow::{Context, ensure};
use harness::skep_binary;
use serde_json::Value;
use tokio::process::Command;

const NODES: u64 = 30;
const LEAVING: u64 = 5;

#[tokio::test]
async fn all_join_those_that_must_leave_leave_and_nothing_is_lost() -> anyhow::Result<()> {
    let dir = std::env::temp_dir().join(format!("skep-scale-{}", std::process::id()));
    let skep = skep_binary();
    let output = Command::new(skep.with_file_name("skep-sim"))
        .args(["scale", "--nodes", &NODES.to_string(), "--store", "dynamodb"])
        .args(["--idle", "2", "--throttle", "10", "--skep"])
        .arg(&skep)
        .arg("--out")
        .arg(&dir)
        .kill_on_drop(true)
        .output()
        .await?;
    let said = String::from_utf8_lossy(&output.stderr);
    let report = fs::read(dir.join("report.json")).with_context(|| format!("no report: {said}"))?;
    fs::remove_dir_all(&dir)?;
    let report: Value = serde_json::from_slice(&report)?;
    let run = &report["runs"][0];
    assert_eq!(run["findings"], serde_json::json!([]), "{said}");
    assert_eq!(run["boot"]["ready"], NODES);
    assert_eq!(run["boot"]["restarts"], 0);
    assert_eq!(run["leave"]["left"], LEAVING);
    assert_eq!(run["leave"]["hooks"], serde_json::json!({ "CONTINUE": LEAVING }));
    let throttled = &run["throttled"];
    ensure!(throttled["throttled_calls"].as_u64() > Some(0), "nothing was throttled");
    assert_eq!(throttled["most_missing"], 0);
    assert_eq!(throttled["lifecycle_changes"], 0);
    let calls = run["calls_at_boot"].as_array().context("no calls")?;
    let one_each = calls.iter().find(|of| of["operation"] == "cloudformation SignalResource");
    assert_eq!(one_each.context("no signals")?["per_worker"], 1.0);
    Ok(())
}
