//! Between the end of the last task and leaving the swarm, the executables in `flush.d` run in order; none of them can
//! hold the node for ever.

use std::collections::BTreeMap;
use std::path::Path;

use harness::departures::{Leaver, flusher, options_with, row, running, standing};
use harness::secs;
use skep_sim::fleet::{ClusterSpec, Instance, workload};

#[tokio::test]
async fn they_run_in_order_after_the_last_task_and_cannot_hold_the_node() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 1);
    // No shipper is installed here.
    let config = "[flush]\ntimeout = \"4s\"\nshippers = [\"journal-upload\", \"filebeat\"]\n\
                  http = [\"http://127.0.0.1:9/ up == 1\"]\n";
    let fleet = standing(options_with(config), &spec).await?;
    fleet.create_service("web", 4, workload::slow_to_stop(2.0), secs(20)).await?;
    running(&fleet, "web", 4).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    assert!(!worker.tasks("start").is_empty(), "the worker has tasks");

    let instance = &worker.instance;
    flusher(instance, "40-last", &tells(instance, "last"))?;
    flusher(instance, "10-first", &tells(instance, "first"))?;
    flusher(instance, "20-hangs", "#!/bin/sh\nexec sleep 600\n")?;
    flusher(instance, "30-fails", "#!/bin/sh\necho 'the bucket is gone' >&2\nexit 3\n")?;
    // Not executable: an operator's note.
    std::fs::write(instance.dir().join("etc/flush.d/00-README"), "#!/bin/sh\nexit 1\n")?;

    fleet.cloud().terminate(worker.id(), true)?;
    worker.has_left_by_its_hook(&fleet).await?;

    let (first, last) = (told(instance, "first")?, told(instance, "last")?);
    // Docker at that moment: no container runs any more, and the node is still in the swarm.
    assert_eq!(first["CONTAINERS"], "0");
    assert_eq!(first["SWARM"], "active");
    let last_death = worker.tasks("die").iter().map(|death| death.nanos).max().expect("a death");
    assert!(last_death < first["NANOS"].parse()?, "flushed before the last task had ended");
    assert!(first["NANOS"].parse::<i64>()? < last["NANOS"].parse()?, "in the order of names");

    let departure = row(&fleet, &format!("departure#{}", worker.id()))?.expect("a departure");
    for env in [&first, &last] {
        assert_eq!(env["SKEP_REASON"], "lifecycle");
        assert_eq!(env["SKEP_INSTANCE_ID"], worker.id());
        assert_eq!(env["SKEP_CLUSTER"], "demo");
        let deadline: i64 = env["SKEP_DEADLINE"].parse()?;
        assert!(deadline <= departure["deadline"].as_i64().expect("a number"), "{env:?}");
        assert!(env["SKEP_FLUSH_SECONDS"].parse::<u64>()? > 0, "{env:?}");
        let foreign = |name: &String| {
            name.starts_with("AWS_") || name == "NOTIFY_SOCKET" || name.contains("TOKEN")
        };
        let leaked: Vec<_> = env.keys().filter(|name| foreign(name)).collect();
        assert!(leaked.is_empty(), "{leaked:?}");
        assert!(!env.contains_key("SKEP_CONFIG_DIR"), "skep's own settings are not passed on");
        assert!(!env.values().any(|value| value.contains("SWMTKN")), "a join token");
    }

    let log = instance.log();
    let outcome = |name: &str, words: &str| {
        assert!(log.lines().any(|line| line.contains(name) && line.contains(words)), "{log}");
    };
    outcome("10-first", "flushed");
    outcome("20-hangs", "timed out");
    outcome("30-fails", "the bucket is gone");
    outcome("30-fails", "exit status: 3");
    outcome("30-fails", "flushing failed");
    outcome("40-last", "flushed");
    outcome("journal-upload", "No such file or directory");
    outcome("filebeat", "Connection refused");
    outcome("http://127.0.0.1:9/", "Connection refused");
    assert!(!log.contains("00-README"), "it is no executable");
    fleet.stop().await
}

/// A flusher that records its environment, and Docker's state at that moment.
fn tells(instance: &Instance, name: &str) -> String {
    let (dir, socket) = (instance.dir().display(), instance.docker_socket().display());
    format!(
        "#!/bin/sh\n\
         env > {dir}/flush-{name}\n\
         export HOME=/ DOCKER_HOST=unix://{socket}\n\
         echo NANOS=$(date +%s%N) >> {dir}/flush-{name}\n\
         echo CONTAINERS=$(docker ps --quiet | wc -l) >> {dir}/flush-{name}\n\
         echo SWARM=$(docker info --format '{{{{.Swarm.LocalNodeState}}}}') >> {dir}/flush-{name}\n"
    )
}

fn told(instance: &Instance, name: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let file: &Path = &instance.dir().join(format!("flush-{name}"));
    let text = std::fs::read_to_string(file)?;
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}
