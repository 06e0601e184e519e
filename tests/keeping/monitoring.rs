//! Metrics and events: a real Prometheus scrapes a fleet while a worker leaves, with hook scripts that misbehave and a
//! webhook that never answers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use anyhow::{Context, ensure};
use harness::PATIENCE;
use harness::departures::{Leaver, QUICK, options_with, running, shell, signal, standing};
use harness::secs;
use harness::trouble::{Failure, fleet_of_firsts};
use serde_json::Value;
use skep_sim::fleet::{ClusterSpec, Fleet, Instance, workload};

/// The fleet's Prometheus answers on this port, the webhook's receiver does not answer on its own.
const PROMETHEUS: u16 = 9090;
const RECEIVER: u16 = 9999;
/// No flusher reports its lines here, and this quorum is never lost.
const NOT_YET: [&str; 3] = [
    "skep_duty_last_failure_timestamp_seconds",
    "skep_flush_lines_total",
    "skep_quorum_lost_timestamp_seconds",
];

#[tokio::test]
async fn a_fleet_is_seen_and_told_of_while_a_worker_leaves() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 2);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", 4, workload::slow_to_stop(2.0), secs(20)).await?;
    running(&fleet, "web", 4).await?;
    let manager = fleet.leader().await?;
    prometheus(&fleet, &manager)?;
    never_answers(&manager);
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    let told = misbehave(&worker.instance)?;
    webhook(&worker.instance, &format!("https://{}:{RECEIVER}/T0KEN", manager.address()))?;
    // The next start reads this configuration, finds the node Ready, and sends the event.
    signal(&worker.instance, "SIGKILL")?;
    let lines = || std::fs::read_to_string(&told).unwrap_or_default();
    fleet.wait_until("joined", PATIENCE, async || Ok(lines().contains("joined"))).await?;

    for instance in fleet.instances() {
        let page = get(&instance, 44554, "/metrics", "text/plain").await?;
        promtool(&instance, "check metrics", &page)?;
        ensure!(page.contains("skep_phase{cluster=\"demo\",phase=\"ready\"} 1"), "{page}");
        let page = get(&instance, 44554, "/metrics", "*/*").await?;
        ensure!(page.ends_with("# EOF\n"), "{page}");
    }
    let departs = std::time::Instant::now();
    fleet.cloud().terminate(worker.id(), true)?;
    worker.has_left_by_its_hook(&fleet).await?;
    let took = departs.elapsed();
    // An attempt at the webhook may take a minute, and all of them five.
    ensure!(took < secs(50), "the departure took {took:?}");
    let told = lines();
    let told: Vec<&str> = told.lines().collect();
    ensure!(told == ["joined", "departing", "drained", "left"], "{told:?}");
    let log = worker.instance.log();
    for words in [
        "hook script killed: not finished within 3s",
        "hook script failed: exit status: 3",
        "of its output were dropped",
    ] {
        ensure!(log.contains(words), "{words} is not in {log}");
    }
    ensure!(log.contains("not all hooks and webhooks have ended within"), "{log}");
    ensure!(!log.contains("T0KEN") && !log.contains("hive"), "{log}");
    let asked = std::fs::read_to_string(manager.dir().join("asked"))?;
    ensure!(asked.lines().count() >= 4, "an attempt for each event: {asked}");

    // The worker's and the manager's counters, as Prometheus has scraped them.
    for expected in [
        r#"max_over_time(skep_phase{phase="leaving"}[5m]) == 1"#,
        r#"skep_removals_total{cluster="demo",cause="lifecycle",outcome="left"} == 1"#,
        "sum(max_over_time(skep_tasks_drained_total[5m])) >= 1",
        r#"sum(max_over_time(skep_heartbeats_total{result="recorded"}[5m])) >= 1"#,
        r#"max_over_time(skep_departures_total{cause="lifecycle",outcome="left"}[5m]) == 1"#,
        r#"max_over_time(skep_hook_script_runs_total{event="drained",result="timed_out"}[5m]) == 1"#,
        r#"max_over_time(skep_step_duration_seconds_count{step="drain"}[5m]) == 1"#,
        r#"sum(skep_aws_calls_total{service="dynamodb",operation="Query",result="ok"}) > 0"#,
        "skep_quorum_margin == 0",
        "skep_quorum_managers == 1",
        "skep_ledger_age_seconds < 60",
        r#"time() - skep_duty_last_success_timestamp_seconds{duty="departures"} < 60"#,
    ] {
        let what = format!("{expected} in Prometheus");
        let seen = async || Ok(!instant(&manager, expected).await?.is_empty());
        fleet.wait_until(&what, PATIENCE, seen).await?;
    }
    everything_that_docs_speak_of_is_there(&manager).await?;
    fleet.stop().await
}

#[tokio::test]
async fn a_node_that_cannot_take_its_place_says_so_once_and_why() -> anyhow::Result<()> {
    let fleet = fleet_of_firsts(options_with(""), |cloud, instance| {
        let told = instance.dir().join("told");
        hook(instance, "failed", &format!("echo $SKEP_EVENT $SKEP_OUTCOME >> {}", told.display()))?;
        cloud.imds_knobs(instance.id()).switch_off(true);
        Ok(())
    })
    .await?;
    fleet.create_cluster(&ClusterSpec::new("test", 1, 0))?;
    let failure = Failure::of(&fleet, "test-managers").await?;
    let told = std::fs::read_to_string(failure.instance.dir().join("told"))?;
    let is_it =
        |line: &str| line.starts_with("failed ") && line.contains("metadata is switched off");
    ensure!(told.lines().count() == 1 && told.lines().all(is_it), "{told}");
    fleet.stop().await
}

#[tokio::test]
async fn the_alerts_fire_when_they_should() -> anyhow::Result<()> {
    let output = Command::new("promtool")
        .args(["test", "rules", "alerts_test.yaml"])
        .current_dir(docs())
        .output()?;
    succeeded(&output)
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// Runs Prometheus on an instance, where it reaches the others as in a VPC.
fn prometheus(fleet: &Fleet, instance: &Arc<Instance>) -> anyhow::Result<()> {
    let targets: Vec<String> =
        fleet.instances().iter().map(|one| format!("'{}:44554'", one.address())).collect();
    let alerts = docs().join("alerts.yaml").canonicalize()?;
    let config = format!(
        "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\n\
         rule_files: ['{}']\n\
         scrape_configs:\n  - job_name: skep\n    static_configs: [{{ targets: [{}] }}]\n",
        alerts.display(),
        targets.join(", ")
    );
    let dir = instance.dir().join("prometheus");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("prometheus.yml"), config)?;
    let mut command = Command::new("prometheus");
    command
        .current_dir(&dir)
        .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
        .arg(format!("--web.listen-address=127.0.0.1:{PROMETHEUS}"));
    run_on(instance, command);
    Ok(())
}

/// A receiver that accepts events and does not answer.
fn never_answers(instance: &Arc<Instance>) {
    let script = format!(
        "import socket\n\
         server = socket.create_server(('', {RECEIVER}))\n\
         kept = []\n\
         while True:\n\
         \x20   kept.append(server.accept()[0])\n\
         \x20   open('{}', 'a').write('asked\\n')\n",
        instance.dir().join("asked").display()
    );
    let mut command = Command::new("python3");
    command.args(["-c", &script]);
    run_on(instance, command);
}

/// Runs a command until the instance ends.
fn run_on(instance: &Arc<Instance>, command: Command) {
    let instance = Arc::clone(instance);
    tokio::spawn(async move { instance.run(command).await });
}

/// Installs hook scripts that flood, fail and hang; returns the file in which each records its calls.
fn misbehave(instance: &Instance) -> anyhow::Result<PathBuf> {
    let told = instance.dir().join("told");
    for (event, then) in [
        ("joined", "cat > /dev/null"),
        ("departing", "timeout 1 yes; exit 3"),
        ("drained", "sleep 600 & sleep 600"),
        ("left", "exit 0"),
    ] {
        hook(instance, event, &format!("echo $SKEP_EVENT >> {}\n{then}", told.display()))?;
    }
    Ok(told)
}

fn hook(instance: &Instance, event: &str, script: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let hooks = instance.dir().join("etc/hooks.d");
    std::fs::create_dir_all(&hooks)?;
    let hook = hooks.join(event);
    std::fs::write(&hook, format!("#!/bin/sh\n{script}\n"))?;
    Ok(std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755))?)
}

fn webhook(instance: &Instance, url: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let private = |name: &str, content: &str| -> anyhow::Result<PathBuf> {
        let file = instance.dir().join("etc").join(name);
        std::fs::write(&file, content)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o400))?;
        Ok(file)
    };
    instance.write_config(&format!(
        "{QUICK}[hook_scripts]\ntimeout = \"3s\"\n\
         [webhook]\nurl_file = \"{}\"\nsecret_file = \"{}\"\ntimeout = \"60s\"\n",
        private("webhook.url", url)?.display(),
        private("webhook.secret", "hive")?.display()
    ))
}

/// Checks that every expression of the dashboard and the alerts is valid, and that every metric in them exists.
async fn everything_that_docs_speak_of_is_there(manager: &Instance) -> anyhow::Result<()> {
    let dashboard = std::fs::read_to_string(docs().join("grafana/skep.json"))?;
    let dashboard: Value = serde_json::from_str(&dashboard)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let mut expressions: Vec<String> = targets
        .filter_map(|target| {
            Some(
                target["expr"]
                    .as_str()?
                    .replace("$__rate_interval", "1m")
                    .replace("$cluster", ".*"),
            )
        })
        .collect();
    ensure!(expressions.len() >= panels.len(), "a panel shows nothing");
    let rules: Value = api(manager, "/api/v1/rules").await?;
    let groups = rules["data"]["groups"].as_array().context("groups")?;
    for rule in groups.iter().flat_map(|group| group["rules"].as_array().into_iter().flatten()) {
        ensure!(rule["health"] == "ok", "{rule:#}");
        expressions.push(rule["query"].as_str().context("a query")?.to_owned());
    }
    ensure!(expressions.len() >= panels.len() + 10, "the alerts are not loaded: {rules:#}");

    let names = api(manager, "/api/v1/label/__name__/values").await?;
    let names = names["data"].as_array().context("names")?;
    let scraped: BTreeSet<&str> = names.iter().filter_map(Value::as_str).collect();
    for expression in &expressions {
        instant(manager, expression).await.with_context(|| expression.clone())?;
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let words = expression.split(|c| !is_part(c)).filter(|word| word.starts_with("skep_"));
        for name in words.filter(|name| !NOT_YET.contains(name)) {
            ensure!(scraped.contains(name), "{name} of {expression} was not scraped: {scraped:?}");
        }
    }
    Ok(())
}

/// The present value of an expression, from promtool: one line for each series.
async fn instant(manager: &Instance, expression: &str) -> anyhow::Result<String> {
    let mut command = Command::new("promtool");
    command.args(["query", "instant", &format!("http://127.0.0.1:{PROMETHEUS}"), expression]);
    let output = manager.run(command).await?;
    succeeded(&output)?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

async fn api(manager: &Instance, path: &str) -> anyhow::Result<Value> {
    let answer = get(manager, PROMETHEUS, path, "application/json").await?;
    serde_json::from_str(&answer).with_context(|| answer)
}

/// The body of a page of this host.
async fn get(instance: &Instance, port: u16, path: &str, accept: &str) -> anyhow::Result<String> {
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port}\n\
         printf 'GET {path} HTTP/1.0\\r\\nHost: localhost\\r\\nAccept: {accept}\\r\\n\\r\\n' >&3\n\
         cat <&3"
    );
    let answer = shell(instance, &script).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("a body")?;
    ensure!(head.contains(" 200 "), "{head}");
    Ok(body.to_owned())
}

/// Checks a text with promtool.
fn promtool(instance: &Instance, what: &str, text: &str) -> anyhow::Result<()> {
    let file = instance.dir().join("page");
    std::fs::write(&file, text)?;
    let output = Command::new("sh")
        .args(["-c", &format!("promtool {what} < {}", file.display())])
        .output()?;
    succeeded(&output).with_context(|| text.to_owned())
}

fn succeeded(output: &Output) -> anyhow::Result<()> {
    let (out, err) = (&output.stdout, &output.stderr);
    let said = [String::from_utf8_lossy(out), String::from_utf8_lossy(err)].concat();
    // `check metrics` exits with a failure for mere style problems, too.
    ensure!(output.status.success(), "{said}");
    Ok(())
}
