//! Containers outside of services: a drain does not stop them, so skep stops them, each with its own grace.

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{CreateContainerOptionsBuilder, StartContainerOptions};
use harness::departures::{Leaver, options_with, standing};
use skep_sim::fleet::{ClusterSpec, IMAGE, workload};

#[tokio::test]
async fn they_stop_with_their_own_grace() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 1);
    let fleet = standing(options_with(""), &spec).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    let docker = worker.instance.docker()?;
    // Longer than Docker's default of 10 s, so that only its own grace is enough.
    let patient = run(&docker, "patient", workload::slow_to_stop(14.0), 60).await?;
    let stubborn = run(&docker, "stubborn", workload::stubborn(), 1).await?;

    fleet.cloud().terminate(worker.id(), true)?;
    worker.has_left_by_its_hook(&fleet).await?;
    let deaths = worker.instance.deaths();
    let code = |container: &str| {
        let death = deaths.iter().find(|death| death.container == container);
        death.and_then(|death| death.exit_code)
    };
    assert_eq!(code(&patient), Some(0), "{deaths:?}");
    assert_eq!(code(&stubborn), Some(137), "{deaths:?}");
    fleet.stop().await
}

async fn run(
    docker: &Docker,
    name: &str,
    command: Vec<String>,
    grace: i64,
) -> anyhow::Result<String> {
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        cmd: Some(command),
        stop_timeout: Some(grace),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::default().name(name).build();
    let id = docker.create_container(Some(options), body).await?.id;
    docker.start_container(&id, None::<StartContainerOptions>).await?;
    Ok(id)
}
