//! A load balancer in front of instances, in the network of a run.

use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use skep_sim::cloud::{
    GroupSpec, HealthCheck, ListenerSpec, LoadBalancerSpec, TargetGroupSpec, TargetState,
};
use skep_sim::fleet::Instance;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::{PATIENCE, start};

/// Also the port of the AWS gateway, which has another address.
const LISTENER: u16 = 80;
const TARGET: u16 = 8080;

/// Sends the hostname of the instance on every connection.
async fn serve(instance: &Instance) -> anyhow::Result<()> {
    let mut command = Command::new("busybox");
    let script = format!("busybox nc -ll -p {TARGET} -e hostname >/dev/null 2>&1 &");
    command.args(["sh", "-c", &script]);
    let output = instance.run(command).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[tokio::test]
async fn flows_reach_the_instances_of_a_run() -> anyhow::Result<()> {
    let fleet = start().await?;
    let check = HealthCheck {
        timeout: Duration::from_secs(1),
        ..HealthCheck::tcp().every(Duration::from_millis(100)).thresholds(2, 2)
    };
    let target_group =
        TargetGroupSpec { health_check: check, ..TargetGroupSpec::new("web", TARGET) };
    let target_group_arns = fleet.cloud().create_load_balancer(LoadBalancerSpec {
        name: "front".to_owned(),
        listeners: vec![ListenerSpec { port: LISTENER, target_group }],
    })?;
    fleet.cloud().create_group(GroupSpec {
        name: "web".to_owned(),
        max: 2,
        desired: 2,
        target_group_arns,
        ..GroupSpec::default()
    })?;
    let two = async || Ok(Some(fleet.group("web")).filter(|it| it.len() == 2));
    let instances = fleet.wait_for("two instances", PATIENCE, two).await?;
    for instance in &instances {
        fleet.wait_until("the machine", PATIENCE, async || Ok(instance.is_on())).await?;
        serve(instance).await?;
    }
    // The load balancer is on AWS's side: it still reaches an instance that the others do not.
    instances[0].isolate(true)?;
    let healthy = || {
        let targets = fleet.cloud().targets();
        targets.len() == 2 && targets.iter().all(|it| it.health.state == TargetState::Healthy)
    };
    fleet.wait_until("two healthy targets", PATIENCE, async || Ok(healthy())).await?;

    let listener = fleet.listener(LISTENER);
    let reached = |instance: &Instance| fleet.cloud().flows_of(instance.id()).opened > 0;
    while !instances.iter().all(|it| reached(it)) {
        let mut answer = String::new();
        fleet.connect(listener).await?.read_to_string(&mut answer).await?;
        ensure!(answer.starts_with("ip-10-78-0-"), "unexpected answer: {answer:?}");
    }
    let connects = async move { TcpStream::connect(listener).await.is_ok() };
    ensure!(fleet.run_inside(connects).await?, "no connection from inside");

    // With its wire cut, the instance is reached by nothing.
    instances[0].link(false)?;
    let is_unhealthy = || {
        let targets = fleet.cloud().targets();
        let target = targets.iter().find(|it| it.id == instances[0].id());
        target.is_some_and(|it| it.health.state == TargetState::Unhealthy)
    };
    fleet.wait_until("an unhealthy target", PATIENCE, async || Ok(is_unhealthy())).await?;
    fleet.stop().await
}
