//! The fleet itself, on real daemons and without skep: instances form a swarm and run a service, and nothing must
//! remain when the fleet is stopped, dropped in a panic, or killed.

mod campaign;
mod commands;
mod load_balancer;
mod scale;
mod trouble;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bollard::models::{SwarmInitRequest, SwarmJoinRequest, TaskState};
use futures_util::FutureExt;
use nix::sys::signal::Signal;
use skep_sim::fleet::{
    ClusterSpec, DockerStart, Exit, Fleet, FleetOptions, Instance, PowerOff, Restart,
    clean_dead_runs, workload,
};
use skep_sim::machines::Launch;

/// Long, because other tests may use the same two cores.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn instances_form_a_swarm_and_leave_nothing_behind() -> anyhow::Result<()> {
    let fleet = start().await?;
    let begin = Instant::now();
    let manager = fleet.launch(machine(5))?;
    let worker = fleet.launch(machine(6))?;
    fleet
        .wait_until("two Docker APIs", PATIENCE, async || both_up(&manager, &worker).await)
        .await?;
    println!("two Docker APIs after {:?}", begin.elapsed());
    let traces = Traces::of(&fleet)?;
    ensure!(!traces.left()?.is_empty(), "the search for traces must find a live fleet");

    join(&manager, &worker).await?;
    assert_eq!(fleet.nodes().await?.len(), 2);
    assert_eq!(fleet.leader().await?.id(), manager.id());

    fleet.create_service("gentle", 4, workload::graceful(), Duration::from_secs(10)).await?;
    fleet.create_service("stubborn", 1, workload::stubborn(), Duration::from_secs(1)).await?;
    running(&fleet, "gentle", 4).await?;
    running(&fleet, "stubborn", 1).await?;
    ensure!(!fleet.tasks_of(&worker).await?.is_empty(), "the worker has tasks");

    let docker = fleet.manager_docker().await?;
    docker.delete_service("gentle").await?;
    docker.delete_service("stubborn").await?;
    fleet
        .wait_until("five dead containers", PATIENCE, async || {
            Ok(manager.deaths().len() + worker.deaths().len() == 5)
        })
        .await?;
    let mut codes = BTreeMap::<String, Vec<Option<i32>>>::new();
    for death in manager.deaths().into_iter().chain(worker.deaths()) {
        codes.entry(death.service.unwrap_or_default()).or_default().push(death.exit_code);
    }
    assert_eq!(codes["gentle"], [Some(0); 4]);
    assert_eq!(codes["stubborn"], [Some(137)]);

    let stopping = Instant::now();
    fleet.stop().await?;
    println!("stopped in {:?}", stopping.elapsed());
    traces.ensure_none()
}

#[tokio::test]
async fn a_cut_link_and_a_dead_daemon_come_back() -> anyhow::Result<()> {
    let fleet = start().await?;
    let manager = fleet.launch(machine(5))?;
    let worker = fleet.launch(machine(6))?;
    fleet
        .wait_until("two Docker APIs", PATIENCE, async || both_up(&manager, &worker).await)
        .await?;
    join(&manager, &worker).await?;
    fleet.create_service("gentle", 2, workload::graceful(), Duration::from_secs(10)).await?;
    running(&fleet, "gentle", 2).await?;

    worker.link(false)?;
    ensure!(!reaches_gateway(&worker).await?, "the link is cut");
    worker.link(true)?;
    fleet.wait_until("the link", PATIENCE, async || reaches_gateway(&worker).await).await?;

    worker.isolate(true)?;
    fleet.wait_until("AWS", PATIENCE, async || reaches_gateway(&worker).await).await?;
    state_of(&fleet, &worker, "down").await?;
    worker.isolate(false)?;
    state_of(&fleet, &worker, "ready").await?;

    worker.kill_dockerd().await?;
    ensure!(!worker.dockerd_running());
    worker.start_dockerd()?;
    worker.wait_docker().await?;
    state_of(&fleet, &worker, "ready").await?;
    worker.restart_dockerd().await?;
    state_of(&fleet, &worker, "ready").await?;

    worker.reboot().await?;
    worker.wait_docker().await?;
    state_of(&fleet, &worker, "ready").await?;

    let traces = Traces::of(&fleet)?;
    fleet.stop().await?;
    traces.ensure_none()
}

/// A script instead of skep that runs `skep.toml` as shell commands.
const SCRIPT: &str = r#"#!/bin/sh
case "$1" in
    run) ;;
    *) echo "$(hostname): $*"; exit 3 ;;
esac
echo started
trap 'echo "asked to stop"; exit 0' TERM
. "$SKEP_CONFIG_DIR/skep.toml"
"#;

/// Asks the metadata service for the instance's id, as a real agent does. In bash, because `nc` shuts its half of the
/// connection down before the answer arrives.
const WHO_AM_I: &str = r#"
ask() {
    exec 3<>/dev/tcp/169.254.169.254/80
    printf '%s HTTP/1.0\r\nHost: imds\r\n%s\r\n\r\n' "$1" "$2" >&3
    tail -n 1 <&3
}
token=$(ask "PUT /latest/api/token" "X-aws-ec2-metadata-token-ttl-seconds: 60")
ask "GET /latest/meta-data/instance-id" "X-aws-ec2-metadata-token: $token"
"#;

#[tokio::test]
async fn skep_is_supervised_and_the_metadata_knows_who_asks() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let script = dir.path().join("skep");
    fs::write(&script, SCRIPT)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let fleet = Fleet::start(FleetOptions {
        skep: Some(script),
        config: Some("exit 1".to_owned()),
        restart: Restart::OnFailure(Duration::from_millis(100)),
        docker_start: DockerStart::Manual,
        power_off: PowerOff::Clean(Duration::from_secs(5)),
        keep_logs: false,
        ..FleetOptions::default()
    })
    .await?;
    fleet.create_cluster(&ClusterSpec::new("test", 1, 1))?;
    let instance = fleet
        .wait_for("a manager", PATIENCE, async || Ok(fleet.group("test-managers").pop()))
        .await?;
    fleet.wait_until("restarts", PATIENCE, async || Ok(instance.exits().len() > 2)).await?;
    assert_eq!(instance.exit_codes()[..2], [1, 1]);

    instance.write_config("exit 78")?;
    fleet
        .wait_until("exit 78", PATIENCE, async || Ok(instance.exits().ends_with(&[Exit::Code(78)])))
        .await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    ensure!(!instance.skep_running(), "78 is final");

    instance.write_config("while :; do sleep 1 & wait; done")?;
    instance.start_skep()?;
    let first = instance.skep_pid();
    ensure!(instance.kill_skep(Signal::SIGKILL));
    fleet
        .wait_until("a restart", PATIENCE, async || {
            Ok(instance.skep_running() && instance.skep_pid() != first)
        })
        .await?;
    assert_eq!(instance.exit_codes().last(), Some(&137));

    let output = instance.skep(["status", "--json"]).await?;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ip-10-78-0-4: status --json\n");
    assert_eq!(output.status.code(), Some(3));
    let mut who = Command::new("bash");
    who.args(["-c", WHO_AM_I]);
    let output = instance.run(who).await?;
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), instance.id());

    // skep is stopped, but must still receive the SIGTERM of the shutdown.
    ensure!(instance.kill_skep(Signal::SIGSTOP));
    // Ends the instance without its hook; then the OS shuts down.
    fleet.cloud().crash(instance.id())?;
    fleet.wait_until("the power-off", PATIENCE, async || Ok(instance.is_gone())).await?;
    assert_eq!(instance.exits().last(), Some(&Exit::Code(0)));
    ensure!(instance.log().ends_with("asked to stop\n"), "{}", instance.log());
    let traces = Traces::of(&fleet)?;
    fleet.stop().await?;
    traces.ensure_none()
}

async fn reaches_gateway(instance: &Instance) -> anyhow::Result<bool> {
    let mut command = Command::new("busybox");
    command.args(["nc", "-w", "1", "10.78.0.1", "80"]);
    Ok(instance.run(command).await?.status.success())
}

#[tokio::test]
async fn a_panic_leaves_nothing_behind() -> anyhow::Result<()> {
    let mut traces = None;
    let panicking = async {
        let fleet = start().await?;
        let manager = fleet.launch(machine(5))?;
        manager.wait_docker().await?;
        // This instance is being launched when the fleet is dropped.
        fleet.launch(machine(6))?;
        traces = Some(Traces::of(&fleet)?);
        if manager.is_on() {
            panic!("on purpose");
        }
        anyhow::Ok(())
    };
    let outcome = std::panic::AssertUnwindSafe(panicking).catch_unwind().await;
    ensure!(outcome.is_err(), "the panic was expected");
    traces.context("no fleet was started")?.ensure_none()
}

async fn start() -> anyhow::Result<Fleet> {
    Fleet::start(FleetOptions { keep_logs: false, ..FleetOptions::default() }).await
}

fn machine(host: u8) -> Launch {
    Launch {
        instance_id: format!("i-{host:017x}"),
        private_address: Ipv4Addr::new(10, 78, 0, host),
        zone: "eu-central-1a".to_owned(),
        group: "test".to_owned(),
        image_id: String::new(),
        tags: BTreeMap::new(),
    }
}

async fn both_up(one: &Instance, other: &Instance) -> anyhow::Result<bool> {
    one.docker()?.ping().await?;
    other.docker()?.ping().await?;
    Ok(true)
}

async fn join(manager: &Arc<Instance>, worker: &Arc<Instance>) -> anyhow::Result<()> {
    let docker = manager.docker()?;
    let request = |address: Ipv4Addr| (address.to_string(), "0.0.0.0:2377".to_owned());
    let (advertise, listen) = request(manager.address());
    docker
        .init_swarm(SwarmInitRequest {
            advertise_addr: Some(advertise),
            listen_addr: Some(listen),
            ..Default::default()
        })
        .await?;
    let tokens = docker.inspect_swarm().await?.join_tokens.context("no tokens")?;
    let (advertise, listen) = request(worker.address());
    worker
        .docker()?
        .join_swarm(SwarmJoinRequest {
            advertise_addr: Some(advertise),
            listen_addr: Some(listen),
            remote_addrs: Some(vec![format!("{}:2377", manager.address())]),
            join_token: tokens.worker,
            ..Default::default()
        })
        .await?;
    Ok(())
}

async fn running(fleet: &Fleet, service: &str, tasks: usize) -> anyhow::Result<()> {
    let is_running = |task: &bollard::models::Task| {
        task.status.as_ref().and_then(|status| status.state) == Some(TaskState::RUNNING)
    };
    fleet
        .wait_until(&format!("{tasks} running tasks of {service}"), PATIENCE, async || {
            let all = fleet.tasks_of_service(service).await?;
            Ok(all.iter().filter(|task| is_running(task)).count() == tasks)
        })
        .await
}

async fn state_of(fleet: &Fleet, instance: &Instance, expected: &str) -> anyhow::Result<()> {
    fleet
        .wait_until(&format!("{} to be {expected}", instance.id()), PATIENCE, async || {
            let address = instance.address().to_string();
            Ok(fleet.nodes().await?.into_iter().filter_map(|node| node.status).any(|status| {
                status.addr.as_deref() == Some(&address)
                    && status.state.is_some_and(|state| state.to_string() == expected)
            }))
        })
        .await
}

/// The places where a run could leave something.
struct Traces {
    run: String,
    dir: PathBuf,
    /// The PID namespaces of its instances.
    pid_namespaces: Vec<PathBuf>,
}

impl Traces {
    fn of(fleet: &Fleet) -> anyhow::Result<Traces> {
        let inits = fleet.instances().into_iter().filter_map(|instance| instance.init_pid());
        Ok(Traces {
            run: fleet.run_id().to_owned(),
            dir: fleet.dir().to_owned(),
            pid_namespaces: inits
                .map(|pid| fs::read_link(format!("/proc/{pid}/ns/pid")))
                .collect::<Result<_, _>>()?,
        })
    }

    fn left(&self) -> anyhow::Result<Vec<String>> {
        let mut left = Vec::new();
        for dir in ["/run/netns", "/run/skep-sim"] {
            for entry in fs::read_dir(dir)? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                left.extend(name.contains(&self.run).then(|| format!("{dir}/{name}")));
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        left.extend(mounts.lines().filter(|line| line.contains(&self.run)).map(str::to_owned));
        for hierarchy in fs::read_dir("/sys/fs/cgroup")? {
            let path = hierarchy?.path().join("skep-sim").join(&self.run);
            left.extend(path.exists().then(|| path.display().to_string()));
        }
        for process in fs::read_dir("/proc")? {
            let path = process?.path();
            let namespace = fs::read_link(path.join("ns/pid")).unwrap_or_default();
            let command = fs::read_to_string(path.join("cmdline")).unwrap_or_default();
            if self.pid_namespaces.contains(&namespace) {
                left.push(format!("{}: {}", path.display(), command.replace('\0', " ")));
            }
        }
        left.extend(self.dir.exists().then(|| self.dir.display().to_string()));
        Ok(left)
    }

    fn ensure_none(&self) -> anyhow::Result<()> {
        // A cleaner must find no more remains.
        ensure!(!clean_dead_runs()?.contains(&self.run), "the run was still registered");
        let left = self.left()?;
        ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
        Ok(())
    }
}
