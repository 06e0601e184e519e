//! Docker that is absent, too old, or configured in a way that excludes swarm mode.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;

use harness::options;
use harness::trouble::{Failure, fleet_of_firsts, rows};
use serde_json::json;
use skep_sim::fleet::{ClusterSpec, DockerStart, FleetOptions};

#[tokio::test]
async fn docker_that_is_absent_is_waited_for_until_the_deadline() -> anyhow::Result<()> {
    let fleet = fleet_of_firsts(
        FleetOptions {
            config: Some("boot.deadline = \"6s\"".to_owned()),
            docker_start: DockerStart::Manual,
            ..options()
        },
        |_, _| Ok(()),
    )
    .await?;
    fleet.create_cluster(&ClusterSpec::new("test", 1, 0))?;

    let failure = Failure::of(&fleet, "test-managers").await?;
    let words = ["boot.deadline", "docker.sock", "is Docker installed and started?"];
    failure.says_only(1, &words)?;
    failure.is_known()?;
    failure.has_left_nothing().await?;
    assert!(rows(&fleet, "skep")?.is_empty(), "nothing is claimed");
    fleet.stop().await
}

#[tokio::test]
async fn docker_that_is_too_old_is_to_be_upgraded() -> anyhow::Result<()> {
    let options = FleetOptions { docker_start: DockerStart::Manual, ..options() };
    let fleet =
        fleet_of_firsts(options, |_, instance| serve_old_api(instance.docker_socket())).await?;
    fleet.create_cluster(&ClusterSpec::new("test", 1, 0))?;

    let failure = Failure::of(&fleet, "test-managers").await?;
    failure.says_only(1, &["API version is 1.40", "install Docker 20.10 or newer"])?;
    failure.is_known()?;
    failure.has_left_nothing().await?;
    assert!(rows(&fleet, "skep")?.is_empty());
    fleet.stop().await
}

#[tokio::test]
async fn docker_with_live_restore_cannot_be_in_a_swarm() -> anyhow::Result<()> {
    let mut options = options();
    options.daemon.insert("live-restore".to_owned(), json!(true));
    let fleet = fleet_of_firsts(options, |_, _| Ok(())).await?;
    fleet.create_cluster(&ClusterSpec::new("test", 1, 0))?;

    let failure = Failure::of(&fleet, "test-managers").await?;
    failure.says_only(1, &["\"live-restore\": false", "/etc/docker/daemon.json", "restart"])?;
    failure.is_known()?;
    failure.has_left_nothing().await?;
    assert!(rows(&fleet, "skep")?.is_empty());
    fleet.stop().await
}

/// A daemon of Docker 19.03, which supports the API up to 1.40.
fn serve_old_api(socket: &Path) -> anyhow::Result<()> {
    const REFUSAL: &str = "{\"message\":\"client version 1.41 is too new. Maximum supported API \
                           version is 1.40\"}\n";
    let listener = UnixListener::bind(socket)?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // A request without a body arrives in one piece.
            if !matches!(stream.read(&mut [0; 4096]), Ok(1..)) {
                continue;
            }
            let length = REFUSAL.len();
            let head = "HTTP/1.1 400 Bad Request\r\nApi-Version: 1.40\r\nConnection: close";
            let answer = format!(
                "{head}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{REFUSAL}"
            );
            // A client that has closed the connection needs no answer.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    Ok(())
}
