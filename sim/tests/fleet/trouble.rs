//! Faults of an instance's wire and dockerd, and their end.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig, RestartPolicy, RestartPolicyNameEnum};
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, StartContainerOptions,
};
use nix::sys::signal::Signal;
use skep_sim::fleet::{
    DockerStart, Exit, Fleet, FleetOptions, IMAGE, Instance, Restart, SlowLink, workload,
};

use super::{PATIENCE, machine, reaches_gateway, start};

/// Number of bytes that one instance sends to another.
const BYTES: usize = 100_000;
const SLOW: SlowLink = SlowLink { kbit_per_s: 256, queue: Duration::from_millis(400) };
/// At 32 kB/s, [`BYTES`] without the bucket's initial content take 3 s.
const SLOW_AT_LEAST: Duration = Duration::from_millis(2500);

#[tokio::test]
async fn a_slow_link_is_slow_in_both_directions_until_it_is_mended() -> anyhow::Result<()> {
    let (fleet, one, other) = two_machines().await?;
    transfers_fast(&fleet, &one, &other).await?;

    one.slow(Some(SLOW))?;
    one.slow(Some(SLOW))?;
    for (from, to) in [(&one, &other), (&other, &one)] {
        let took = transfer(from, to).await?;
        ensure!(took > SLOW_AT_LEAST, "{} to {} took {took:?}", from.id(), to.id());
    }
    for nothing in [SlowLink { kbit_per_s: 0, ..SLOW }, SlowLink { queue: Duration::ZERO, ..SLOW }]
    {
        ensure!(one.slow(Some(nothing)).is_err(), "{nothing:?}");
    }

    one.mend()?;
    transfers_fast(&fleet, &one, &other).await?;
    transfers_fast(&fleet, &other, &one).await?;
    fleet.stop().await
}

#[tokio::test]
async fn cuts_isolation_and_slowness_combine_and_are_mended_at_once() -> anyhow::Result<()> {
    let (fleet, one, other) = two_machines().await?;
    let reaches = async |aws: bool, others: bool| reaches(&fleet, &one, &other, aws, others).await;
    one.mend()?;
    reaches(true, true).await?;

    one.isolate(true)?;
    one.isolate(true)?;
    reaches(true, false).await?;
    one.link(false)?;
    one.link(false)?;
    reaches(false, false).await?;
    one.isolate(true)?;
    one.link(true)?;
    reaches(true, false).await?;
    one.slow(Some(SLOW))?;
    one.isolate(false)?;
    one.isolate(false)?;
    reaches(true, true).await?;
    ensure!(transfer(&one, &other).await? > SLOW_AT_LEAST, "still slow");

    one.link(false)?;
    one.isolate(true)?;
    one.isolate(false)?;
    reaches(false, false).await?;
    one.link(true)?;
    reaches(true, true).await?;

    one.isolate(true)?;
    one.link(false)?;
    one.mend()?;
    one.mend()?;
    reaches(true, true).await?;
    transfers_fast(&fleet, &one, &other).await?;

    let launched = fleet.launch(machine(7))?;
    launched.mend()?;
    fleet.stop().await?;
    ensure!(one.is_gone());
    ensure!(one.isolate(true).is_err(), "it has no wire any more");
    one.mend()
}

#[tokio::test]
async fn a_dockerd_that_was_killed_comes_back_unless_that_was_asked_for() -> anyhow::Result<()> {
    const PAUSE: Duration = Duration::from_secs(1);
    let fleet = Fleet::start(FleetOptions {
        docker_restart: Restart::OnFailure(PAUSE),
        keep_logs: false,
        ..FleetOptions::default()
    })
    .await?;
    let one = fleet.launch(machine(5))?;
    let docker = one.wait_docker().await?;
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        cmd: Some(workload::graceful()),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::ALWAYS),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let container = docker.create_container(None::<CreateContainerOptions>, body).await?.id;
    docker.start_container(&container, None::<StartContainerOptions>).await?;

    for (signal, starts) in [(Signal::SIGKILL, 2), (Signal::SIGTERM, 3)] {
        ensure!(one.signal_dockerd(signal));
        fleet
            .wait_until(&format!("dockerd after {signal}"), PATIENCE, async || {
                let docker = one.docker()?;
                let known = docker.inspect_container(&container, None::<InspectContainerOptions>);
                let running = known.await?.state.and_then(|state| state.running);
                Ok(dockerd_starts(&fleet, &one) == starts && running == Some(true))
            })
            .await?;
    }

    assert_eq!(one.kill_dockerd().await?, Exit::Signal(Signal::SIGKILL as i32));
    tokio::time::sleep(2 * PAUSE).await;
    ensure!(!one.dockerd_running(), "it was to stay down");
    one.start_dockerd()?;
    one.wait_docker().await?;
    one.reboot().await?;
    one.wait_docker().await?;
    ensure!(one.signal_dockerd(Signal::SIGKILL));
    while one.dockerd_running() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    one.start_dockerd()?;
    tokio::time::sleep(2 * PAUSE).await;
    assert_eq!(dockerd_starts(&fleet, &one), 6, "{:#?}", fleet.timeline());
    fleet.stop().await
}

#[tokio::test]
async fn a_stopped_dockerd_hangs_until_it_is_continued() -> anyhow::Result<()> {
    let fleet = start().await?;
    let one = fleet.launch(machine(5))?;
    let docker = one.wait_docker().await?;
    let stop = async || {
        ensure!(one.signal_dockerd(Signal::SIGSTOP));
        fleet.wait_until("no answer", PATIENCE, async || Ok(hangs(&docker).await)).await
    };
    let answers = async || {
        fleet
            .wait_until("an answer", PATIENCE, async || Ok(docker.ping().await.map(|_| true)?))
            .await
    };

    stop().await?;
    ensure!(one.signal_dockerd(Signal::SIGCONT));
    answers().await?;
    stop().await?;
    one.mend()?;
    answers().await?;
    stop().await?;
    assert_eq!(one.stop_dockerd().await?, Exit::Code(0));
    ensure!(!one.signal_dockerd(Signal::SIGCONT), "there is nothing to continue");
    fleet.stop().await
}

/// Whether dockerd neither answers nor refuses. A signal arrives a moment after it was sent.
pub(crate) async fn hangs(docker: &Docker) -> bool {
    tokio::time::timeout(Duration::from_secs(2), docker.ping()).await.is_err()
}

/// Starts two machines without programs.
async fn two_machines() -> anyhow::Result<(Fleet, Arc<Instance>, Arc<Instance>)> {
    let fleet = Fleet::start(FleetOptions {
        docker_start: DockerStart::Manual,
        keep_logs: false,
        ..FleetOptions::default()
    })
    .await?;
    let (one, other) = (fleet.launch(machine(5))?, fleet.launch(machine(6))?);
    fleet.wait_until("two machines", PATIENCE, async || Ok(one.is_on() && other.is_on())).await?;
    Ok((fleet, one, other))
}

/// Waits until an instance reaches AWS and another instance, or does not.
async fn reaches(
    fleet: &Fleet,
    instance: &Instance,
    other: &Instance,
    aws: bool,
    others: bool,
) -> anyhow::Result<()> {
    let what = format!("AWS within reach: {aws}, others: {others}");
    fleet
        .wait_until(&what, PATIENCE, async || {
            let mut ping = Command::new("busybox");
            ping.args(["ping", "-c", "1", "-W", "1", &other.address().to_string()]);
            let answered = instance.run(ping).await?.status.success();
            Ok((reaches_gateway(instance).await?, answered) == (aws, others))
        })
        .await
}

async fn transfers_fast(fleet: &Fleet, from: &Instance, to: &Instance) -> anyhow::Result<()> {
    fleet
        .wait_until("a fast transfer", PATIENCE, async || {
            Ok(transfer(from, to).await? < SLOW_AT_LEAST / 2)
        })
        .await
}

/// Measures the time in which one instance sends [`BYTES`] to another.
async fn transfer(from: &Instance, to: &Instance) -> anyhow::Result<Duration> {
    let bash = |script: String| {
        let mut command = Command::new("bash");
        command.args(["-c", &script]);
        command
    };
    let port = format!("/dev/tcp/{}/9000", to.address());
    let send = format!("until head -c {BYTES} /dev/zero >{port}; do sleep 0.05; done");
    let begin = Instant::now();
    let (received, _) = tokio::try_join!(
        to.run(bash("busybox nc -l -p 9000 | wc -c".to_owned())),
        from.run(bash(send))
    )?;
    assert_eq!(String::from_utf8_lossy(&received.stdout).trim(), BYTES.to_string());
    Ok(begin.elapsed())
}

fn dockerd_starts(fleet: &Fleet, instance: &Instance) -> usize {
    let timeline = fleet.timeline();
    let starts = timeline.iter().filter(|it| it.instance == instance.id());
    starts.filter(|it| it.what == "dockerd started").count()
}
