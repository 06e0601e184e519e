//! skep's own last resort: the lines of the tasks and of a file arrive in CloudWatch Logs or S3, simulated by moto, all
//! of them and once, also when skep is killed in the middle.

use std::path::Path;
use std::sync::Arc;

use anyhow::ensure;
use harness::PATIENCE;
use harness::departures::{Leaver, options_with, restart_skep, running, shell, signal, standing};
use skep_sim::fleet::{ClusterSpec, Fleet, Instance};

use super::shippers::{arrived_once, talkers};

/// Length of a line that CloudWatch Logs accepts only in pieces.
const LONG: usize = 600_000;

#[tokio::test]
async fn the_tail_of_everything_arrives_without_a_shipper() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 2);
    let fleet = standing(options_with(""), &spec).await?;
    let workers = fleet.group(&spec.workers_group());
    for (worker, to) in workers.iter().zip(["logs:/skep/demo", "s3://logs/nodes"]) {
        ships_to(&fleet, worker, to).await?;
    }
    let mut web = talkers("web", 6)?;
    if let Some(task) = web.task_template.as_mut() {
        let placement = task.placement.get_or_insert_default();
        placement.constraints = Some(vec!["node.role==worker".to_owned()]);
    }
    fleet.manager_docker().await?.create_service(web, None).await?;
    running(&fleet, "web", 6).await?;

    // CloudWatch Logs does not answer, and skep is killed meanwhile: the next skep continues.
    let first = Leaver::of(&workers[0]).await?;
    shell(&first.instance, "kill -STOP $(cat /run/moto)").await?;
    ensure!(
        first.instance.skep(["leave", "--deadline", "5m", "--no-wait"]).await?.status.success()
    );
    let spooled = first.instance.dir().join("state/ship/batches.json");
    fleet.wait_until("the spooled lines", PATIENCE, async || Ok(spooled.exists())).await?;
    signal(&first.instance, "SIGKILL")?;
    shell(&first.instance, "kill -CONT $(cat /run/moto)").await?;
    first.has_left(&fleet).await?;
    first.skep_has_ended_well(&fleet).await.or_else(|error| {
        // It was killed once.
        if first.instance.exit_codes().last() == Some(&0) { Ok(()) } else { Err(error) }
    })?;
    let sent = aws(
        &first.instance,
        "logs filter-log-events --log-group-name /skep/demo --query events[].message --output json",
    )
    .await?;
    let sent: Vec<String> = serde_json::from_str(&sent)?;
    arrived_once(&sent.join("\n"), &first.tasks("die"))?;
    ensure!(sent.iter().filter(|line| *line == "a file's line").count() == 1);
    let long: usize = sent.iter().filter(|line| line.starts_with("xxx")).map(String::len).sum();
    ensure!(long == LONG, "{long} of a long line");

    running(&fleet, "web", 6).await?;
    let second = Leaver::of(&workers[1]).await?;
    ensure!(
        second.instance.skep(["leave", "--deadline", "5m", "--no-wait"]).await?.status.success()
    );
    second.has_left(&fleet).await?;
    let dir = second.instance.dir().join("objects");
    aws(&second.instance, &format!("s3 cp --recursive --quiet s3://logs {}", dir.display()))
        .await?;
    let objects =
        shell(&second.instance, &format!("cat $(find {} -type f)", dir.display())).await?;
    let lines: Vec<&str> =
        objects.lines().filter_map(|line| line.split_once(' ').map(|(_, text)| text)).collect();
    arrived_once(&lines.join("\n"), &second.tasks("die"))?;
    ensure!(lines.iter().filter(|line| **line == "a file's line").count() == 1);
    fleet.stop().await
}

/// Gives an instance its own moto, and configures skep to ship to it.
async fn ships_to(fleet: &Fleet, instance: &Arc<Instance>, to: &str) -> anyhow::Result<()> {
    let dir = instance.dir().display();
    let start = format!(
        "{python} -m moto.server -H 127.0.0.1 -p 5000 >{dir}/moto.log 2>&1 & echo $! >/run/moto\n\
         {{ echo \"a file's line\"; head -c {LONG} /dev/zero | tr '\\0' x; echo; }} >{dir}/app.log",
        python = venv("python"),
    );
    shell(instance, &start).await?;
    let make = if to.starts_with("s3") {
        "s3api create-bucket --bucket logs --create-bucket-configuration LocationConstraint=eu-central-1"
    } else {
        "logs create-log-group --log-group-name /skep/demo"
    };
    fleet.wait_until("moto", PATIENCE, async || Ok(aws(instance, make).await.is_ok())).await?;
    let config = std::fs::read_to_string(instance.dir().join("etc/skep.toml")).unwrap_or_default();
    instance.write_config(&format!(
        "{config}\n[ship]\nto = \"{to}\"\nendpoint = \"http://127.0.0.1:5000\"\nfiles = [\"{dir}/app.log\"]\n"
    ))?;
    restart_skep(fleet, instance).await
}

async fn aws(instance: &Instance, arguments: &str) -> anyhow::Result<String> {
    let script = format!(
        "export AWS_ACCESS_KEY_ID=operator AWS_SECRET_ACCESS_KEY=none AWS_DEFAULT_REGION=eu-central-1 \
         AWS_CONFIG_FILE=/dev/null AWS_PAGER=\n{python} -m awscli --endpoint-url http://127.0.0.1:5000 {arguments}",
        python = venv("python"),
    );
    shell(instance, &script).await
}

/// A program that `make setup` has installed.
fn venv(program: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin");
    root.join(program).display().to_string()
}
