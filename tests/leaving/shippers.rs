//! Real shippers: all lines that tasks write until their last millisecond arrive, once, before their node leaves. With
//! the receiver down the node reports how many are unsent, and leaves in time.
//!
//! Every worker has a journald with systemd-journal-upload, and an rsyslog that forwards by RELP, with
//! `docs/examples/flush.d/rsyslog`; the manager's instance runs their receivers. Half of the tasks write to each.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, ensure};
use bollard::models::{ServiceSpec, TaskSpecLogDriver, TaskSpecPlacement};
use harness::PATIENCE;
use harness::departures::{Leaver, flusher, options_with, running, shell, standing};
use harness::secs;
use serde_json::Value;
use skep_sim::fleet::{ClusterSpec, ContainerEvent, Fleet, Instance, service};

/// Tasks of each of the two services: with those of the first worker that move to the second one, 51 end.
const TASKS: u32 = 17;
/// Lines that a task writes after SIGTERM, as fast as it can.
const LAST_WORDS: u64 = 200;
/// Deadline, in seconds, of the departure with the receivers down.
const DEADLINE: u64 = 40;

#[tokio::test]
async fn every_line_arrives_once_and_a_lost_receiver_holds_nobody() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 3);
    let options = options_with(
        "[flush]\nshippers = [\"journal-upload\"]\ntimeout = \"60s\"\n[leave]\nflush_share = 0.5\n",
    );
    let fleet = standing(options, &spec).await?;
    let receiver = fleet.group(&spec.managers_group()).pop().context("no manager")?;
    shell(&receiver, &receive(&receiver)).await?;
    let workers = fleet.group(&spec.workers_group());
    for worker in &workers {
        shell(worker, &forward(worker, &receiver)).await?;
        let script = include_str!("../../docs/examples/flush.d/rsyslog");
        let stats = format!("{}/stats", worker.dir().display());
        flusher(worker, "rsyslog", &script.replace("/var/log/rsyslog-stats.json", &stats))?;
    }
    let [first, second, third] = &workers[..] else { anyhow::bail!("three workers") };
    // Docker's log driver looks for the journal only when it starts.
    tokio::try_join!(first.restart_dockerd(), second.restart_dockerd(), third.restart_dockerd())?;

    let elsewhere = format!("node.hostname!={}", third.hostname());
    for driver in ["journald", "syslog"] {
        talking(&fleet, &format!("by-{driver}"), TASKS, driver, &elsewhere).await?;
        let only = format!("node.hostname=={}", third.hostname());
        talking(&fleet, &format!("on-{driver}"), 2, driver, &only).await?;
    }
    let mut ended = Vec::new();
    for worker in [first, second] {
        for driver in ["journald", "syslog"] {
            running(&fleet, &format!("by-{driver}"), TASKS as usize).await?;
        }
        let worker = Leaver::of(worker).await?;
        // The second worker's lines wait for receivers that are stopped for a while.
        let busy = worker.id() == second.id();
        if busy {
            shell(&receiver, "kill -STOP $(cat /run/receivers)").await?;
        }
        fleet.cloud().terminate(worker.id(), true)?;
        if busy {
            let flushes = async || Ok(worker.instance.log().contains("flushing the logs"));
            fleet.wait_until("the flush", PATIENCE, flushes).await?;
            // Long enough for the node to leave, if it did not wait.
            tokio::time::sleep(secs(10)).await;
            shell(&receiver, "kill -CONT $(cat /run/receivers)").await?;
        }
        worker.has_left_by_its_hook(&fleet).await?;
        let log = worker.instance.log();
        for name in ["journal", "journal-upload", "rsyslog"] {
            let is_it =
                |line: &&str| line.contains(&format!("{name}\"")) && line.contains("flushed");
            ensure!(log.lines().any(|line| is_it(&line)), "{name} has not flushed:\n{log}");
        }
        ended.extend(worker.tasks("die"));
    }
    ensure!(ended.len() >= 50, "only {} tasks have ended", ended.len());
    let dir = receiver.dir().display();
    let received =
        format!("journalctl --directory={dir}/journals --output=cat; cat {dir}/received");
    arrived_once(&shell(&receiver, &received).await?, &ended)?;

    for service in ["on-journald", "on-syslog"] {
        running(&fleet, service, 2).await?;
    }
    shell(&receiver, "kill $(cat /run/receivers)").await?;
    says_what_is_unsent_and_leaves_in_time(&fleet, &Leaver::of(third).await?).await?;
    fleet.stop().await
}

async fn says_what_is_unsent_and_leaves_in_time(
    fleet: &Fleet,
    worker: &Leaver,
) -> anyhow::Result<()> {
    let instance = &worker.instance;
    let begun = Instant::now();
    let deadline = format!("{DEADLINE}s");
    let said = instance.skep(["leave", "--no-wait", "--deadline", &deadline]).await?;
    ensure!(said.status.success(), "{said:?}");
    let counted = fleet.wait_until("unsent lines in the status", PATIENCE, async || {
        let status = instance.skep(["status", "--json"]).await?;
        let status: Value = serde_json::from_slice(&status.stdout)?;
        let flush = status["node"]["flush"].as_array().cloned().unwrap_or_default();
        let is_counted = |name: &str| {
            flush.iter().any(|it| {
                let is_it = it["name"].as_str().is_some_and(|own| own.ends_with(name));
                is_it && it["result"] == "running" && it["unsent"].as_u64() >= Some(2 * LAST_WORDS)
            })
        };
        Ok(is_counted("journal-upload") && is_counted("rsyslog"))
    });
    counted.await?;
    let text = instance.skep(["status"]).await?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    ensure!(text.contains("flush     journal-upload: running, "), "{text}");

    worker.skep_has_ended_well(fleet).await?;
    let took = begun.elapsed();
    ensure!(took < secs(DEADLINE), "it left after {took:?}");
    worker.has_left(fleet).await?;
    let log = instance.log();
    for name in ["journal-upload", "rsyslog"] {
        let line = log.lines().find(|line| line.contains(name) && line.contains("timed out"));
        let line = line.with_context(|| format!("no line about {name}:\n{log}"))?;
        let unsent = line.split("unsent=").nth(1).context("nothing unsent")?;
        let digits = unsent.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        ensure!(digits.parse::<u64>()? >= 2 * LAST_WORDS, "{line}");
    }
    Ok(())
}

/// Prints `<container> <n>` once a second, at SIGTERM as fast as it can, and then the number of lines.
fn talk() -> Vec<String> {
    let script = format!(
        "i=0; line() {{ i=$((i+1)); echo \"$HOSTNAME $i\"; }}\n\
         trap 'n=0; while [ $n -lt {LAST_WORDS} ]; do n=$((n+1)); line; done; \
         echo \"$HOSTNAME end $i\"; exit 0' TERM\n\
         while :; do line; sleep 1 & wait $!; done"
    );
    ["sh", "-c", &script].map(str::to_owned).to_vec()
}

/// A service of tasks that [`talk`], each with its own host name.
pub fn talkers(name: &str, tasks: u32) -> anyhow::Result<ServiceSpec> {
    let mut spec = service(name, tasks, talk(), secs(20))?;
    spec.task_template.as_mut().context("a task")?.networks = None;
    Ok(spec)
}

/// Starts tasks that [`talk`] with a log driver.
async fn talking(
    fleet: &Fleet,
    name: &str,
    tasks: u32,
    driver: &str,
    constraint: &str,
) -> anyhow::Result<()> {
    let mut spec = talkers(name, tasks)?;
    let template = spec.task_template.as_mut().context("a task")?;
    let options = match driver {
        "syslog" => [("syslog-address".to_owned(), "tcp://127.0.0.1:1514".to_owned())].into(),
        _ => [].into(),
    };
    template.log_driver =
        Some(TaskSpecLogDriver { name: Some(driver.to_owned()), options: Some(options) });
    template.placement = Some(TaskSpecPlacement {
        constraints: Some(vec!["node.role==worker".to_owned(), constraint.to_owned()]),
        ..Default::default()
    });
    fleet.manager_docker().await?.create_service(spec, None).await?;
    Ok(())
}

/// Checks that every line of every ended container has arrived, and none twice.
pub fn arrived_once(text: &str, ended: &[ContainerEvent]) -> anyhow::Result<()> {
    let mut seen: BTreeMap<&str, BTreeMap<&str, u32>> = BTreeMap::new();
    for line in text.lines() {
        if let Some((container, said)) = line.trim().split_once(' ') {
            *seen.entry(container).or_default().entry(said).or_default() += 1;
        }
    }
    for death in ended {
        ensure!(death.exit_code == Some(0), "{death:?}");
        let container = &death.container[..12];
        let lines = seen.get(container).with_context(|| format!("nothing of {container}"))?;
        let last = lines.keys().find_map(|line| line.strip_prefix("end "));
        let last: u64 =
            last.with_context(|| format!("no end of {container}: {lines:?}"))?.parse()?;
        ensure!(last > LAST_WORDS, "{container} ends at {last}");
        for number in 1..=last {
            let times = lines.get(number.to_string().as_str()).copied().unwrap_or(0);
            ensure!(times == 1, "line {number} of {last} of {container}: {times} times");
        }
        ensure!(lines.len() as u64 == last + 1 && lines.values().all(|times| *times == 1));
    }
    Ok(())
}

/// Script that starts both receivers; their pids are in `/run/receivers`.
fn receive(instance: &Instance) -> String {
    let dir = instance.dir().display();
    format!(
        r#"set -e
mkdir -p {dir}/journals
cat >{dir}/receive.conf <<'CONF'
global(workDirectory="{dir}")
module(load="imrelp")
input(type="imrelp" port="2514" ruleset="in")
template(name="raw" type="string" string="%msg%\n")
ruleset(name="in") {{ action(type="omfile" file="{dir}/received" template="raw") }}
CONF
rsyslogd -n -f {dir}/receive.conf -i /run/rsyslogd.pid >{dir}/receive.log 2>&1 & echo $! >/run/receivers
/lib/systemd/systemd-journal-remote --listen-http=19532 --output={dir}/journals --split-mode=host \
    >{dir}/journal-remote.log 2>&1 & echo $! >>/run/receivers
"#
    )
}

/// Script that starts the instance's own journald and both shippers.
fn forward(instance: &Instance, to: &Instance) -> String {
    let (dir, to) = (instance.dir().display(), to.address());
    format!(
        r#"set -e
mount -t tmpfs tmpfs /var/lib/systemd
[ ! -d /var/log/journal ] || mount -t tmpfs tmpfs /var/log/journal
mkdir -p /run/systemd/journald.conf.d /run/systemd/journal /var/lib/systemd/journal-upload
cat >/run/systemd/journald.conf.d/test.conf <<'CONF'
[Journal]
Storage=volatile
RateLimitBurst=0
ReadKMsg=no
Audit=no
ForwardToSyslog=no
CONF
/lib/systemd/systemd-journald >{dir}/journald.log 2>&1 &
until [ -S /run/systemd/journal/socket ]; do sleep 0.1; done
while :; do
    /lib/systemd/systemd-journal-upload --save-state --url=http://{to}:19532 || sleep 1
done >{dir}/journal-upload.log 2>&1 &
cat >{dir}/forward.conf <<'CONF'
global(workDirectory="{dir}")
module(load="imtcp")
module(load="omrelp")
module(load="impstats" interval="1" format="json" resetCounters="off" log.syslog="off" log.file="{dir}/stats")
input(type="imtcp" port="1514" ruleset="out")
ruleset(name="out") {{
    action(name="forward" type="omrelp" target="{to}" port="2514" queue.type="LinkedList" queue.size="100000"
        queue.filename="forward" action.resumeRetryCount="-1" action.resumeInterval="1")
}}
CONF
rsyslogd -n -f {dir}/forward.conf -i /run/rsyslogd.pid >{dir}/forward.log 2>&1 &
"#
    )
}
