//! Searches for join tokens, unlock keys and credentials wherever another program or person could read them.
//!
//! A node boots, joins, fails to join with a rotated token, prints its status and its configuration, and departs with a
//! flusher that prints its environment; a manager is unlocked, and rotates; all at the log level `trace`. The search
//! uses real secrets: the swarm's own and the instances' own credentials.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use bollard::query_parameters::UpdateSwarmOptionsBuilder;
use harness::PATIENCE;
use harness::options;
use harness::trouble::{all_ready, aws, first_of, fleet_prepared};
use serde_json::Value;
use skep_sim::cloud::{Fault, Service};
use skep_sim::fleet::{ClusterSpec, Fleet, FleetOptions, Instance};

const UNLOCK_KEYS: &str = "/skep/test/manager-unlock-key/1";

/// Prints its environment, and its parent's as far as allowed.
const FLUSHER: &str = "#!/bin/sh
echo flusher-was-here
env
tr '\\0' '\\n' < /proc/$PPID/environ
tr '\\0' ' ' < /proc/$PPID/cmdline
sleep 1
";

/// Interval of reading the process list: a short-lived child may be missed once, not each time.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Texts that must not be found anywhere, each with a name that the report shows instead of the secret.
#[derive(Default)]
struct Canaries(Vec<(String, String)>);

impl Canaries {
    fn add(&mut self, name: &str, secret: &str) -> anyhow::Result<()> {
        ensure!(secret.len() >= 20, "{name} is too short to be looked for");
        self.0.push((name.to_owned(), secret.to_owned()));
        Ok(())
    }

    /// The token's last part is the secret one; the whole token contains it.
    fn add_token(&mut self, name: &str, token: &str) -> anyhow::Result<()> {
        let secret = token.rsplit('-').next().unwrap_or_default();
        ensure!(secret.len() == 25, "{name} has another shape");
        self.add(name, secret)
    }

    /// Adds every stored unlock key.
    async fn add_unlock_keys(&mut self, fleet: &Fleet) -> anyhow::Result<()> {
        let get = ["ssm", "get-parameter", "--with-decryption", "--name", UNLOCK_KEYS];
        let parameter = aws(fleet, &get).await?;
        let keys = parameter["Parameter"]["Value"].as_str().context("no unlock key")?;
        for (n, key) in keys.lines().enumerate() {
            let secret = key.strip_prefix("SWMKEY-1-").context("an unlock key of another shape")?;
            self.add(&format!("unlock key {n}"), secret)?;
        }
        Ok(())
    }

    fn add_credentials(&mut self, instance: &Instance, answer: &Value) -> anyhow::Result<()> {
        for field in ["SecretAccessKey", "Token"] {
            let secret = answer[field].as_str().with_context(|| format!("no {field}"))?;
            self.add(&format!("{field} of {}", instance.id()), secret)?;
        }
        Ok(())
    }

    fn look(&self, place: &str, text: &str, found: &mut BTreeSet<String>) {
        for (name, secret) in &self.0 {
            if text.contains(secret.as_str()) {
                found.insert(format!("{name} in {place}"));
            }
        }
    }
}

/// Records command lines and environments of skep and its children until it is dropped.
struct ProcessWatch {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<BTreeSet<String>>>,
}

impl ProcessWatch {
    fn start(binary: &Path) -> anyhow::Result<ProcessWatch> {
        let binary = fs::canonicalize(binary)?;
        let watch = ProcessWatch { stop: Arc::default(), seen: Arc::default() };
        let (stop, seen) = (Arc::clone(&watch.stop), Arc::clone(&watch.seen));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let processes = look_at_processes(&binary);
                if let Ok(mut seen) = seen.lock() {
                    seen.extend(processes);
                }
                std::thread::sleep(LOOK_EVERY);
            }
        });
        Ok(watch)
    }

    fn seen(&self) -> BTreeSet<String> {
        self.seen.lock().map(|seen| seen.clone()).unwrap_or_default()
    }
}

impl Drop for ProcessWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn look_at_processes(binary: &Path) -> Vec<String> {
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    let processes: Vec<_> = all
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit))
        .filter_map(|entry| {
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.to_owned();
            Some((entry.file_name().to_string_lossy().into_owned(), parent, entry.path()))
        })
        .collect();
    let is_skep = |path: &Path| fs::read_link(path.join("exe")).is_ok_and(|exe| exe == binary);
    let mut ours: BTreeSet<&str> =
        processes.iter().filter(|it| is_skep(&it.2)).map(|it| it.0.as_str()).collect();
    // Three levels of children.
    for _ in 0..3 {
        let children = processes.iter().filter(|it| ours.contains(it.1.as_str()));
        let children: Vec<&str> = children.map(|it| it.0.as_str()).collect();
        ours.extend(children);
    }
    let read = |path: std::path::PathBuf| {
        let bytes = fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    };
    let of_ours = processes.iter().filter(|it| ours.contains(it.0.as_str()));
    of_ours
        .map(|(_, _, path)| {
            format!("{}\n{}", read(path.join("cmdline")), read(path.join("environ")))
        })
        .collect()
}

async fn credentials(instance: &Instance) -> anyhow::Result<Value> {
    const ASK: &str = r#"
base=http://169.254.169.254/latest
token=$(curl -sf -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 60" $base/api/token)
get() { curl -sf -H "X-aws-ec2-metadata-token: $token" $base/meta-data/iam/security-credentials/$1; }
get "$(get)"
"#;
    let mut command = Command::new("bash");
    command.args(["-c", ASK]).env_clear().env("PATH", "/usr/bin:/bin");
    let output = instance.run(command).await?;
    serde_json::from_slice(&output.stdout).context("no credentials")
}

/// Every regular file below `dir`, except dockerd's own log.
fn files(dir: &Path, found: &mut Vec<std::path::PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files(&entry.path(), found)?;
        } else if kind.is_file() && entry.file_name() != "dockerd.log" {
            found.push(entry.path());
        }
    }
    Ok(())
}

#[tokio::test]
async fn no_token_and_no_credential_leaves_its_place() -> anyhow::Result<()> {
    let config = Some("log.level = \"trace\"\nswarm.autolock = true".to_owned());
    a_life_in_public(FleetOptions { config, ..options() }, " DEBUG signals: ").await
}

#[tokio::test]
async fn not_even_with_the_libraries_at_trace() -> anyhow::Result<()> {
    let level = "trace,aws_config=trace,aws_runtime=trace,aws_sdk_ssm=trace,aws_sdk_dynamodb=trace,\
                 aws_smithy_runtime=trace,aws_smithy_runtime_api=trace,bollard=trace,hyper=trace,\
                 hyper_util=trace,reqwest=trace";
    let config = Some(format!("log.level = \"{level}\"\nswarm.autolock = true"));
    a_life_in_public(FleetOptions { config, ..options() }, " TRACE aws_smithy_runtime: ").await
}

/// `chatter` must be in the logs: it proves that the log level was set.
async fn a_life_in_public(options: FleetOptions, chatter: &str) -> anyhow::Result<()> {
    let binary = options.skep.clone().context("no skep")?;
    let processes = ProcessWatch::start(&binary)?;
    let fleet = fleet_prepared(options, |_, instance| {
        let flusher = instance.dir().join("etc/flush.d/10-show");
        fs::write(&flusher, FLUSHER)?;
        Ok(fs::set_permissions(&flusher, fs::Permissions::from_mode(0o755))?)
    })
    .await?;
    let mut canaries = Canaries::default();
    let mut found = BTreeSet::new();
    fleet.create_cluster(&ClusterSpec::new("test", 2, 1))?;
    all_ready(&fleet, 3).await?;
    let worker = first_of(&fleet, "test-workers").await?;
    add_tokens(&fleet, "first", &mut canaries).await?;

    // A join that fails: the store still holds the token from before the rotation.
    let down = Fault { error: 1.0, ..Fault::default() };
    fleet.cloud().faults().set(Service::Ssm, Some("PutParameter"), down);
    rotate_worker_token(&fleet).await?;
    add_tokens(&fleet, "second", &mut canaries).await?;
    fleet.cloud().set_desired("test-workers", 2)?;
    let refused = "the join token was refused";
    let late = fleet
        .wait_for("a refused join", PATIENCE, async || {
            let group = fleet.group("test-workers").into_iter();
            Ok(group.filter(|it| it.id() != worker.id()).find(|it| it.log().contains(refused)))
        })
        .await?;
    fleet.cloud().faults().clear();
    all_ready(&fleet, 4).await?;

    let manager = fleet.group("test-managers").pop().context("no manager")?;
    manager.restart_dockerd().await?;
    fleet
        .wait_until("a manager to be unlocked", PATIENCE, async || {
            Ok(manager.log().contains("unlocked this manager"))
        })
        .await?;
    let rotate = ["rotate-tokens", "--worker", "--manager", "--unlock-key"];
    // Docker has a leader again after a moment.
    let output = fleet
        .wait_for("a rotation", PATIENCE, async || {
            let output = manager.skep(rotate).await?;
            Ok(output.status.success().then_some(output))
        })
        .await?;
    add_tokens(&fleet, "third", &mut canaries).await?;
    canaries.add_unlock_keys(&fleet).await?;
    for text in [output.stdout, output.stderr] {
        canaries.look("`skep rotate-tokens`", &String::from_utf8_lossy(&text), &mut found);
    }

    let commands: [&[&str]; 5] = [
        &["status", "--json"],
        &["status"],
        &["config"],
        &["config", "--json"],
        &["status", "--log-level", "trace"],
    ];
    for instance in fleet.instances() {
        let credentials = credentials(&instance).await?;
        canaries.add_credentials(&instance, &credentials)?;
        for command in commands {
            let output = instance.skep(command.iter().copied()).await?;
            ensure!(output.status.success(), "{command:?}: {output:?}");
            for text in [output.stdout, output.stderr] {
                let place = format!("`skep {}`", command.join(" "));
                canaries.look(&place, &String::from_utf8_lossy(&text), &mut found);
            }
        }
    }

    fleet.cloud().set_desired("test-workers", 1)?;
    fleet.cloud().terminate(manager.id(), true)?;
    fleet
        .wait_until("two departures", PATIENCE * 2, async || {
            Ok(manager.is_gone() && fleet.group("test-workers").len() == 1)
        })
        .await?;
    ensure!(manager.log().contains("flusher-was-here"), "{}", manager.log());
    let gone = if worker.is_gone() { &worker } else { &late };
    ensure!(gone.log().contains("SKEP_REASON=lifecycle"), "{}", gone.log());

    ensure!(manager.log().contains(chatter) && gone.log().contains(chatter), "no {chatter}");

    for instance in fleet.all_instances() {
        let mut all = Vec::new();
        files(instance.dir(), &mut all)?;
        ensure!(all.contains(&instance.log_path()));
        for file in all {
            let text = fs::read(&file).unwrap_or_default();
            let place = file.strip_prefix(fleet.dir())?.display().to_string();
            canaries.look(&place, &String::from_utf8_lossy(&text), &mut found);
        }
        for notification in instance.notifications() {
            canaries.look("a notification", &format!("{notification:?}"), &mut found);
        }
    }
    for entry in fleet.timeline() {
        canaries.look("the timeline", &entry.what, &mut found);
    }
    canaries.look(
        "timeline.jsonl",
        &fs::read_to_string(fleet.dir().join("timeline.jsonl"))?,
        &mut found,
    );
    let seen = processes.seen();
    for process in &seen {
        canaries.look("a process's command line or environment", process, &mut found);
    }
    // If these had not been seen, the search would prove nothing.
    ensure!(seen.iter().any(|it| it.contains("skep run") && it.contains("NOTIFY_SOCKET=")));
    ensure!(seen.iter().any(|it| it.contains("10-show") && it.contains("SKEP_REASON=")));
    // Three pairs of tokens, two unlock keys, four nodes' credentials.
    assert_eq!(canaries.0.len(), 3 * 2 + 2 + 4 * 2);
    ensure!(found.is_empty(), "found {found:#?}");
    fleet.stop().await
}

async fn add_tokens(fleet: &Fleet, name: &str, canaries: &mut Canaries) -> anyhow::Result<()> {
    let tokens = fleet.manager_docker().await?.inspect_swarm().await?.join_tokens;
    let tokens = tokens.context("no tokens")?;
    canaries.add_token(&format!("the {name} worker token"), &tokens.worker.context("none")?)?;
    canaries.add_token(&format!("the {name} manager token"), &tokens.manager.context("none")?)
}

async fn rotate_worker_token(fleet: &Fleet) -> anyhow::Result<()> {
    let docker = fleet.manager_docker().await?;
    let swarm = docker.inspect_swarm().await?;
    let version = swarm.version.and_then(|version| version.index).context("no version")?;
    let options =
        UpdateSwarmOptionsBuilder::new().version(i64::try_from(version)?).rotate_worker_token(true);
    docker.update_swarm(swarm.spec.context("no spec")?, options.build()).await?;
    Ok(())
}
