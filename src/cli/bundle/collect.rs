//! Collects the parts of the archive, all at the same time, each within its limits of time and size.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use super::{Configuration, Content, Part};
use crate::api::control::{Client, socket_path};
use crate::cli::config;
use crate::clients::docker::Swarm;
use crate::clients::imds::Imds;
use crate::common::errors::chain;
use crate::common::process;
use crate::common::report::StatusReport;
use crate::config::Settings;
use crate::doctor;
use crate::telemetry::event_log;

/// Time limit of a part: longer than Docker's time limit and than the groups of `skep doctor`.
const PATIENCE: Duration = Duration::from_secs(50);
/// On an instance the metadata service answers in milliseconds; elsewhere it never answers.
const METADATA_PATIENCE: Duration = Duration::from_secs(2);
/// The metrics come from skep's memory.
const METRICS_PATIENCE: Duration = Duration::from_secs(5);
/// Limits of the log: weeks of a node that serves, and hours of one that logs at `debug`.
const MOST_LOG_LINES: usize = 20_000;
const MOST_LOG_BYTES: usize = 4 << 20;
/// Bytes of the metrics: a node has about 50 KiB.
const MOST_METRICS: usize = 4 << 20;
/// Bytes of a file of the system, such as `/etc/os-release`.
const MOST_OF_A_FILE: u64 = 16 << 10;
/// Bytes of an error message of journalctl.
const MOST_OF_AN_ERROR: u64 = 2000;

/// Collects every part; none of them ends the others.
pub async fn all(
    settings: &Settings,
    configuration: Configuration<'_>,
    since: OffsetDateTime,
) -> Vec<Part> {
    let (status, doctor, config, docker, log, metrics) = tokio::join!(
        in_time(status(settings)),
        in_time(findings(settings, configuration)),
        in_time(config(configuration)),
        in_time(docker(settings)),
        in_time(log(journal(since))),
        in_time(metrics(settings)),
    );
    let part = |name, content| Part { name, content };
    vec![
        part("status.json", status),
        part("doctor.json", doctor),
        part("events.jsonl", events(&settings.state_dir, since)),
        part("config.json", config),
        part("system.json", Ok(Content::Json(system()))),
        part("docker.json", docker),
        part("log.txt", log),
        part("metrics.txt", metrics),
    ]
}

async fn in_time(part: impl Future<Output = Result<Content, String>>) -> Result<Content, String> {
    // On the heap: the futures of all parts together are large.
    let answer = timeout(PATIENCE, Box::pin(part)).await;
    answer.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
}

/// Returns the id of this instance, by the metadata.
pub async fn instance_id() -> Option<String> {
    let deadline = Instant::now() + METADATA_PATIENCE;
    Imds::from_env().ok()?.fetch_instance(deadline).await.ok().map(|instance| instance.id)
}

/// Returns secrets that this command can read, so that they can be found in the parts: the webhook's address and
/// secret, and the variables of the AWS SDK.
pub fn known_secrets(settings: &Settings) -> Vec<String> {
    let mut secrets = Vec::new();
    for path in [&settings.webhook.url_file, &settings.webhook.secret_file].into_iter().flatten() {
        let Some(content) = read_file(path) else { continue };
        let content = content.trim();
        // The address may be logged without its scheme and host.
        let behind_host = content.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
        secrets.extend(behind_host.map(|(_, path)| path.to_owned()));
        secrets.push(content.to_owned());
    }
    let variables = std::env::vars_os();
    secrets.extend(variables.filter_map(|(name, value)| {
        let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
        (name.starts_with("AWS_") && !config::is_harmless(&name)).then_some(value)
    }));
    secrets
}

/// Returns the beginning of a regular file.
fn read_file(path: &Path) -> Option<String> {
    use std::io::Read as _;
    // Opening a FIFO that nobody writes would wait.
    if !std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
        return None;
    }
    let mut content = Vec::new();
    std::fs::File::open(path).ok()?.take(MOST_OF_A_FILE).read_to_end(&mut content).ok()?;
    Some(String::from_utf8_lossy(&content).into_owned())
}

async fn status(settings: &Settings) -> Result<Content, String> {
    let client = Client::new(socket_path(&settings.runtime_dir));
    let report: StatusReport<Value> = client.status().await.map_err(|error| chain(&error))?;
    Ok(Content::Json(json!(report)))
}

async fn findings(
    settings: &Settings,
    configuration: Configuration<'_>,
) -> Result<Content, String> {
    configuration.map_err(|_| "the configuration is wrong; see config.json".to_owned())?;
    Ok(Content::Json(doctor::report(&Box::pin(doctor::examine(settings)).await)))
}

async fn config(configuration: Configuration<'_>) -> Result<Content, String> {
    match configuration {
        Ok(loaded) => Ok(Content::Json(config::in_json(loaded).await)),
        Err(mistakes) => {
            let mistakes: Vec<String> = mistakes.0.iter().map(ToString::to_string).collect();
            Err(format!("the configuration is wrong: {}", mistakes.join("; ")))
        }
    }
}

fn events(state_dir: &Path, since: OffsetDateTime) -> Result<Content, String> {
    let events = event_log::read(state_dir).map_err(|error| {
        let again = match error.kind() {
            ErrorKind::PermissionDenied => "; try again with sudo",
            _ => "",
        };
        format!("cannot read the events in {}: {error}{again}", state_dir.display())
    })?;
    let recent = events.into_iter().filter(|event| event.at >= since);
    Ok(Content::Lines(recent.map(|event| json!(event)).collect()))
}

/// Returns the versions of skep, the kernel and the distribution, and the load of the machine.
fn system() -> Value {
    let file = |path: &str| read_file(Path::new(path)).or_else(|| read_virtual(path));
    json!({
        "skep": env!("CARGO_PKG_VERSION"),
        "kernel": file("/proc/version"),
        "os_release": file("/etc/os-release"),
        "uptime": file("/proc/uptime"),
        "load": file("/proc/loadavg"),
        "memory": file("/proc/meminfo"),
    })
}

/// Reads a file of a file system that reports no regular files.
fn read_virtual(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

async fn docker(settings: &Settings) -> Result<Content, String> {
    let docker = Swarm::new(settings.docker.host.to_string());
    let described = docker.describe().await.map_err(|error| chain(&error))?;
    Ok(Content::Json(described))
}

/// The command that prints skep's lines in the journal.
fn journal(since: OffsetDateTime) -> Command {
    let mut command = process::command("journalctl");
    command.args(["--unit=skep", "--no-pager", "--quiet", "--output=short-iso"]);
    command.arg(format!("--since=@{}", since.unix_timestamp()));
    command.arg(format!("--lines={MOST_LOG_LINES}"));
    command
}

/// Returns the end of what a program prints.
async fn log(mut program: Command) -> Result<Content, String> {
    use std::process::Stdio;
    let spawned = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| format!("cannot run journalctl: {error}"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let problem = async {
        let mut text = Vec::new();
        if let Some(stderr) = stderr {
            // What cannot be read is missing in an error message only.
            let _ = stderr.take(MOST_OF_AN_ERROR).read_to_end(&mut text).await;
        }
        String::from_utf8_lossy(&text).trim().to_owned()
    };
    let (text, problem, status) = tokio::join!(tail(stdout, MOST_LOG_BYTES), problem, child.wait());
    let text = text.map_err(|error| format!("cannot read what journalctl prints: {error}"))?;
    match status {
        Ok(status) if status.success() => Ok(Content::Text(text)),
        Ok(status) => Err(format!("journalctl ended with {status}: {problem}")),
        Err(error) => Err(format!("journalctl: {error}")),
    }
}

/// Returns the last bytes of a stream, from the beginning of a line: a line without its beginning could hold a part of
/// a secret, which nothing recognizes.
async fn tail(stream: Option<impl AsyncRead + Unpin>, most: usize) -> std::io::Result<String> {
    let mut kept: Vec<u8> = Vec::new();
    let mut is_cut = false;
    if let Some(mut stream) = stream {
        let mut piece = vec![0; 64 << 10];
        loop {
            let read = stream.read(&mut piece).await?;
            if read == 0 {
                break;
            }
            kept.extend_from_slice(&piece[..read]);
            // Not at each read: what is kept is moved to the front.
            if kept.len() > 2 * most {
                kept.drain(..kept.len() - most);
                is_cut = true;
            }
        }
    }
    if kept.len() > most {
        kept.drain(..kept.len() - most);
        is_cut = true;
    }
    if is_cut {
        let end_of_line = kept.iter().position(|byte| *byte == b'\n');
        kept.drain(..end_of_line.map_or(kept.len(), |at| at + 1));
    }
    Ok(String::from_utf8_lossy(&kept).into_owned())
}

/// Asks the health port of the running skep.
async fn metrics(settings: &Settings) -> Result<Content, String> {
    let health = &settings.health;
    if !health.enabled || !health.metrics {
        return Err("the settings disable the metrics (health.enabled, health.metrics)".to_owned());
    }
    let url = format!("http://{}/metrics", reachable(health.listen));
    let exchange = async {
        let client = reqwest::Client::builder().no_proxy().timeout(METRICS_PATIENCE).build()?;
        let mut answer = client.get(&url).send().await?.error_for_status()?;
        let mut page = Vec::new();
        while let Some(piece) = answer.chunk().await? {
            page.extend_from_slice(&piece);
            if page.len() > MOST_METRICS {
                return Ok(None);
            }
        }
        Ok::<_, reqwest::Error>(Some(page))
    };
    match exchange.await {
        Ok(Some(page)) => Ok(Content::Text(String::from_utf8_lossy(&page).into_owned())),
        Ok(None) => Err(format!("the answer of {url} is larger than {} MiB", MOST_METRICS >> 20)),
        Err(error) => Err(chain(&error)),
    }
}

/// Returns an address of this host for a socket that listens on all addresses.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let address = match listen.ip() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    SocketAddr::new(address, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = process::command("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn a_log_is_its_end_from_the_beginning_of_a_line() {
        let text = (0..1000).map(|n| format!("line {n}\n")).collect::<String>();
        for most in [20, 100, 1000] {
            let end = tail(Some(text.as_bytes()), most).await.unwrap();
            assert!(end.len() <= most && text.ends_with(&end), "{end:?}");
            assert!(end.starts_with("line ") && end.ends_with("line 999\n"), "{end:?}");
        }
        assert_eq!(tail(Some(text.as_bytes()), 1 << 20).await.unwrap(), text);
        assert_eq!(tail(Some(&[b'x'; 100][..]), 10).await.unwrap(), "", "no whole line");
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_read_is_an_error_with_the_programs_own_words() {
        let Ok(Content::Text(text)) = log(shell("echo one; echo two >&2")).await else { panic!() };
        assert_eq!(text, "one\n");
        let Err(why) = log(shell("echo no permission >&2; exit 1")).await else { panic!() };
        assert!(why.ends_with(": no permission"), "{why}");
        let Err(why) = log(process::command("/nowhere/journalctl")).await else { panic!() };
        assert!(why.starts_with("cannot run journalctl"), "{why}");
    }

    #[test]
    fn the_webhooks_address_and_secret_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        let write = |name: &str, content: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            Some(path)
        };
        settings.webhook.url_file = write("url", "https://example.com/T0KEN/x\n");
        settings.webhook.secret_file = write("secret", " hive\n");
        let known = known_secrets(&settings);
        for secret in ["https://example.com/T0KEN/x", "T0KEN/x", "hive"] {
            assert!(known.iter().any(|it| it == secret), "{secret}");
        }
    }

    #[test]
    fn a_port_on_all_addresses_is_asked_on_the_loopback() {
        let of = |listen: &str| reachable(listen.parse().unwrap()).to_string();
        assert_eq!(of("0.0.0.0:44554"), "127.0.0.1:44554");
        assert_eq!(of("[::]:1"), "[::1]:1");
        assert_eq!(of("10.0.0.7:1"), "10.0.0.7:1");
    }
}
