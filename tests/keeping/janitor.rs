//! The janitor on a real Docker: it removes and logs old items, keeps items that are used, protected or an operator's,
//! and removes nothing while the node leaves.

use anyhow::ensure;
use bollard::Docker;
use bollard::models::{ContainerConfig, ContainerCreateBody, VolumeCreateRequest};
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, CreateContainerOptionsBuilder, InspectContainerOptions,
    ListImagesOptions, StartContainerOptions,
};
use harness::PATIENCE;
use harness::departures::{Leaver, departure_state, options_with, running, standing};
use harness::secs;
use skep_sim::fleet::{ClusterSpec, IMAGE, workload};

/// Free space is always too low, and the limits are soon reached.
const EAGER: &str = "[janitor]\nenabled = true\nevery = \"1s\"\nfree_space = 1.0\n\
    images_unused_for = \"8s\"\ncontainers_stopped_for = \"4s\"\n";
/// Longer than any of the limits, however busy the machine is: an item that exists after this time stays.
const LONG: std::time::Duration = secs(15);

#[tokio::test]
async fn what_is_old_goes_and_nothing_that_is_needed() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 1);
    let fleet = standing(options_with(EAGER), &spec).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    let docker = worker.instance.docker()?;
    fleet.create_service("web", 4, workload::slow_to_stop(20.0), secs(60)).await?;
    running(&fleet, "web", 4).await?;

    run(&docker, "runs", IMAGE, workload::graceful()).await?;
    for (name, change) in
        [("used", "LABEL own=1"), ("unused", "LABEL own=2"), ("kept", "LABEL skep.keep=")]
    {
        commit(&docker, "runs", name, change).await?;
    }
    run(&docker, "uses", "used:1", workload::graceful()).await?;
    run(&docker, "done", IMAGE, vec!["true".to_owned()]).await?;
    let ours = VolumeCreateRequest { name: Some("ours".to_owned()), ..Default::default() };
    docker.create_volume(ours).await?;
    let anonymous = docker.create_volume(VolumeCreateRequest::default()).await?.name;

    let log = || worker.instance.log();
    for words in ["removed container done, stopped for ", "removed image unused:1 of "] {
        fleet.wait_until(words, PATIENCE, async || Ok(log().contains(words))).await?;
    }
    tokio::time::sleep(LONG).await;
    let images = docker.list_images(None::<ListImagesOptions>).await?;
    let images: Vec<String> = images.into_iter().flat_map(|image| image.repo_tags).collect();
    for name in [IMAGE, "used:1", "kept:1"] {
        ensure!(images.iter().any(|one| one.contains(name)), "{name} of {images:?}\n{}", log());
    }
    ensure!(!images.iter().any(|one| one.contains("unused:1")), "{images:?}");
    for name in ["runs", "uses"] {
        docker.inspect_container(name, None::<InspectContainerOptions>).await?;
    }
    ensure!(
        docker.inspect_container("done", None::<InspectContainerOptions>).await.is_err(),
        "done"
    );
    for name in ["ours", &anonymous] {
        docker.inspect_volume(name).await?;
    }
    let told = log();
    let told = told.lines().filter(|line| line.contains("janitor: removed ")).count();
    ensure!(told == 2, "two items were removed, each logged once: {}", log());
    let story = worker.instance.skep(["events"]).await?;
    ensure!(String::from_utf8_lossy(&story.stdout).contains("image unused:1"), "{story:?}");
    running(&fleet, "web", 4).await?;

    fleet.cloud().terminate(worker.id(), true)?;
    let is_draining = || departure_state(&fleet, &worker.instance).as_deref() == Some("draining");
    fleet.wait_until("the drain", PATIENCE, async || Ok(is_draining())).await?;
    run(&docker, "late", IMAGE, vec!["true".to_owned()]).await?;
    tokio::time::sleep(LONG).await;
    ensure!(is_draining(), "the departure was too short for this check");
    docker.inspect_container("late", None::<InspectContainerOptions>).await?;
    worker.has_left_by_its_hook(&fleet).await?;
    fleet.stop().await
}

async fn run(docker: &Docker, name: &str, image: &str, command: Vec<String>) -> anyhow::Result<()> {
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        cmd: Some(command),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::default().name(name).build();
    docker.create_container(Some(options), body).await?;
    Ok(docker.start_container(name, None::<StartContainerOptions>).await?)
}

/// Commits a container as the image `<name>:1`.
async fn commit(docker: &Docker, container: &str, name: &str, change: &str) -> anyhow::Result<()> {
    let options = CommitContainerOptionsBuilder::default();
    let options = options.container(container).repo(name).tag("1").changes(change).build();
    docker.commit_container(options, ContainerConfig::default()).await?;
    Ok(())
}
