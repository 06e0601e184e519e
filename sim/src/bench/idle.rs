//! Measures the cost of an idle node: memory, CPU time, calls.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::time::{Instant, interval};

use super::stats::Spread;
use crate::cloud::{Cloud, Request, Service};
use crate::fleet::{Cost, Instance};

const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// `USER_HZ`, the unit of the times in `/proc/<pid>/stat`, on every architecture of Linux.
const TICKS_PER_SECOND: f64 = 100.0;
const SECONDS_PER_HOUR: f64 = 3600.0;

/// One node's cost.
#[derive(Clone, Debug, Serialize)]
pub struct Idle {
    pub rss_mib: Spread,
    pub cpu_percent: f64,
    pub aws_calls_at_boot: usize,
    pub aws_calls_while_idle: usize,
    /// Reads of the ledger (`GetItem`, `BatchGetItem`, `Query`) while idle, extrapolated.
    pub ledger_reads_per_hour: f64,
    /// The read units that AWS charges for them.
    pub ledger_read_units_per_hour: f64,
    /// Requests to Docker while idle, by skep's own counter, extrapolated.
    pub docker_calls_per_hour: f64,
    /// Calls at boot plus the extrapolated idle calls: for a node that boots once in this hour.
    pub aws_calls_per_hour: f64,
    /// Requests to the metadata service while idle, extrapolated. They cost nothing.
    pub metadata_requests_per_hour: f64,
}

/// A node to measure.
pub struct Subject {
    pub instance: Arc<Instance>,
    pub aws_calls_at_boot: usize,
}

/// Measures all subjects at the same time for `length`.
pub async fn watch(
    cloud: &Cloud,
    subjects: &[Subject],
    length: Duration,
) -> anyhow::Result<Vec<Idle>> {
    let pids = subjects.iter().map(|subject| {
        let id = subject.instance.id();
        subject.instance.skep_pid().with_context(|| format!("skep does not run on {id}"))
    });
    let pids: Vec<i32> = pids.collect::<anyhow::Result<_>>()?;
    let (start, start_date) = (Instant::now(), cloud.now());
    let docker_before = docker_calls(subjects).await?;
    let before: Vec<f64> = pids.iter().map(|pid| cpu_seconds(*pid)).collect::<Result<_, _>>()?;
    let mut resident = vec![Vec::new(); pids.len()];
    let mut ticks = interval(SAMPLE_EVERY);
    while start.elapsed() < length {
        ticks.tick().await;
        for (samples, pid) in resident.iter_mut().zip(&pids) {
            samples.push(Cost::of(*pid).context("skep has ended")?.mib);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let after: Vec<f64> = pids.iter().map(|pid| cpu_seconds(*pid)).collect::<Result<_, _>>()?;
    let docker_after = docker_calls(subjects).await?;
    let requests = cloud.requests();
    let per_hour = |count: f64| count * SECONDS_PER_HOUR / seconds;
    let to_hour = |count: usize| per_hour(count as f64);
    let mut costs = Vec::new();
    for (index, subject) in subjects.iter().enumerate() {
        let id = subject.instance.id();
        let own = || of_instance(&requests, id, start_date);
        let aws = own().filter(|it| is_of_aws(it)).count();
        let metadata = own().filter(|it| it.service == Service::Imds).count();
        let reads = own().filter(|it| is_ledger_read(it));
        costs.push(Idle {
            rss_mib: Spread::of(resident[index].iter().copied()).context("nothing was sampled")?,
            cpu_percent: (after[index] - before[index]) / seconds * 100.0,
            aws_calls_at_boot: subject.aws_calls_at_boot,
            aws_calls_while_idle: aws,
            ledger_reads_per_hour: to_hour(reads.clone().count()),
            ledger_read_units_per_hour: per_hour(reads.map(|it| it.read_units).sum()),
            docker_calls_per_hour: to_hour(docker_after[index] - docker_before[index]),
            aws_calls_per_hour: subject.aws_calls_at_boot as f64 + to_hour(aws),
            metadata_requests_per_hour: to_hour(metadata),
        });
    }
    Ok(costs)
}

/// Number of AWS calls of an instance since a moment.
pub fn aws_calls(cloud: &Cloud, instance: &str, since: OffsetDateTime) -> usize {
    of_instance(&cloud.requests(), instance, since).filter(|it| is_of_aws(it)).count()
}

fn is_of_aws(request: &Request) -> bool {
    request.service != Service::Imds
}

fn is_ledger_read(request: &Request) -> bool {
    let is_read = matches!(request.action.as_str(), "GetItem" | "BatchGetItem" | "Query");
    request.service == Service::DynamoDb && is_read
}

/// Returns each subject's sum of `skep_docker_calls_total`.
async fn docker_calls(subjects: &[Subject]) -> anyhow::Result<Vec<usize>> {
    // An instance's network is its own: the request is made there.
    const GET: &str = r"exec 3<>/dev/tcp/127.0.0.1/44554
        printf 'GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3
        cat <&3";
    let mut sums = Vec::new();
    for subject in subjects {
        let mut bash = Command::new("bash");
        bash.args(["-c", GET]);
        let page = subject.instance.run(bash).await?.stdout;
        let page = String::from_utf8_lossy(&page);
        let of_docker = page.lines().filter(|line| line.starts_with("skep_docker_calls_total"));
        let counts = of_docker.filter_map(|line| line.rsplit(' ').next());
        let counts: Vec<usize> = counts.map(str::parse).collect::<Result<_, _>>()?;
        // Every skep that serves has asked Docker.
        ensure!(!counts.is_empty(), "{} shows no metrics", subject.instance.id());
        sums.push(counts.iter().sum());
    }
    Ok(sums)
}

fn of_instance<'a>(
    requests: &'a [Request],
    instance: &'a str,
    since: OffsetDateTime,
) -> impl Iterator<Item = &'a Request> + Clone {
    let own = move |request: &&Request| request.instance_id.as_deref() == Some(instance);
    requests.iter().filter(own).filter(move |request| request.at >= since)
}

/// User and system time of a process, all its threads included.
fn cpu_seconds(pid: i32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // proc(5): the name, in parentheses, is the second field; utime and stime are fields 14 and 15.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).context("no name in stat")?;
    let mut times = fields.split_whitespace().skip(11);
    let mut ticks = || times.next().context("no times in stat")?.parse::<f64>().context("a time");
    Ok((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_own_process() {
        let pid = std::process::id().cast_signed();
        assert!(cpu_seconds(pid).unwrap() >= 0.0);
    }
}
