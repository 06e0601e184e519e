//! Parses each kind of setting: turns a [`Raw`] value into a checked one, or a [`Problem`] with the remedy.

#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::Ipv4Net;
use tracing::level_filters::LevelFilter;

use super::condition::{self, Condition};
use super::nearest::{did_you_mean, nearest};
use super::raw::{Problem, Raw};
use super::values::{
    BackupPlace, Choice, Destination, DockerHost, JoinAvailability, LogFilter, LogFormat,
    OWN_TARGET, Rebalance, Shipper, TokenStore, is_private, overlap,
};
use crate::common::instance::Role;
use crate::common::labels;
use reqwest::Url;

type Parsed<T> = Result<T, Problem>;

/// The longest time for which Auto Scaling keeps an instance waiting, with or without heartbeats.
const LONGEST: Duration = Duration::from_secs(48 * 60 * 60);
/// Below this, polling the metadata costs more than a sooner notice is worth.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(500);
/// Below this, joins would race rotations all the time.
const SHORTEST_ROTATION: Duration = Duration::from_secs(60);
/// Ten years: a longer interval means that the key should be left out.
const LONGEST_ROTATION: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
/// A running manager writes its ledger row every minute: a wait of a minute or less could miss that.
const SHORTEST_PATIENCE: Duration = Duration::from_secs(75);
/// With more, draining would have less time than flushing.
const LARGEST_SHARE: f64 = 0.5;
/// The longest prefix that Docker accepts for an overlay network.
const LONGEST_SUBNET_PREFIX: u8 = 29;
/// Limit for each source that skep ships itself; more lines need a real shipper.
const MOST_LINES: u32 = 100_000;
/// The limit of Auto Scaling and CloudFormation for names.
const LONGEST_NAME: usize = 255;
/// The limit of DNS.
const LONGEST_HOST_NAME: usize = 253;
/// Leaves space in the names of SSM parameters.
const LONGEST_CLUSTER: usize = 100;
/// DynamoDB's limits.
const TABLE_LENGTH: std::ops::RangeInclusive<usize> = 3..=255;
/// SSM allows 15 levels; the cluster, the token and its generation are three of them.
const MOST_PATH_LEVELS: usize = 12;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

pub fn role(raw: &Raw) -> Parsed<Role> {
    choice(raw)
}

pub fn token_store(raw: &Raw) -> Parsed<TokenStore> {
    choice(raw)
}

pub fn log_format(raw: &Raw) -> Parsed<LogFormat> {
    choice(raw)
}

pub fn join_availability(raw: &Raw) -> Parsed<JoinAvailability> {
    choice(raw)
}

pub fn rebalance(raw: &Raw) -> Parsed<Rebalance> {
    choice(raw)
}

pub fn shippers(raw: &Raw) -> Parsed<Vec<Shipper>> {
    let mut shippers = raw.list()?.into_iter().map(one_of).collect::<Parsed<Vec<Shipper>>>()?;
    let mut seen = Vec::new();
    shippers.retain(|shipper| {
        !seen.contains(shipper) && {
            seen.push(*shipper);
            true
        }
    });
    Ok(shippers)
}

pub fn conditions(raw: &Raw) -> Parsed<Vec<Condition>> {
    // Not split at commas, because the labels of a sample contain commas.
    if let Raw::Bare(text) = raw {
        return Ok(vec![text.parse()?]);
    }
    raw.list()?.into_iter().map(str::parse).collect()
}

/// Parses `logs:<group>` or `s3://<bucket>/<prefix>`.
pub fn destination(raw: &Raw) -> Parsed<Destination> {
    let text = raw.text()?;
    if let Some(group) = text.strip_prefix("logs:").filter(|group| consists_of(group, "._-/#")) {
        return Ok(Destination::Logs(group.to_owned()));
    }
    if let Some((bucket, prefix)) = bucket_and_prefix(text) {
        return Ok(Destination::S3 { bucket, prefix });
    }
    Err(format!("\"{text}\" is neither \"logs:<log group>\" nor \"s3://<bucket>/<prefix>\""))
}

/// Parses `s3://<bucket>/<prefix>`.
pub fn backup_place(raw: &Raw) -> Parsed<BackupPlace> {
    let text = raw.text()?;
    let place = bucket_and_prefix(text).map(|(bucket, prefix)| BackupPlace { bucket, prefix });
    place.ok_or_else(|| format!("\"{text}\" is not \"s3://<bucket>/<prefix>\""))
}

/// Reads `s3://<bucket>/<prefix>`; the prefix has no slash at its ends, and may be empty.
fn bucket_and_prefix(text: &str) -> Option<(String, String)> {
    let place = text.strip_prefix("s3://")?;
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let prefix = prefix.trim_matches('/');
    let is_right = consists_of(bucket, ".-") && (prefix.is_empty() || consists_of(prefix, "._-/"));
    is_right.then(|| (bucket.to_owned(), prefix.to_owned()))
}

/// Whether a name has only ASCII letters, digits and `others`, and is not empty.
fn consists_of(name: &str, others: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

pub fn endpoint(raw: &Raw) -> Parsed<Url> {
    condition::url_of(raw.text()?, &["http", "https"]).map_err(|problem| {
        format!("{problem}; write an endpoint such as \"https://minio.example.com\"")
    })
}

pub fn files(raw: &Raw) -> Parsed<Vec<PathBuf>> {
    raw.list()?.into_iter().map(|path| directory(&Raw::Text(path.to_owned()))).collect()
}

pub fn lines(raw: &Raw) -> Parsed<u32> {
    let lines = number(raw)?;
    if (1..=MOST_LINES).contains(&lines) {
        return Ok(lines);
    }
    Err(format!("{lines} is out of range: from 1 to {MOST_LINES}"))
}

pub fn http_url(raw: &Raw) -> Parsed<Url> {
    condition::http_url(raw.text()?)
}

fn choice<T: Choice>(raw: &Raw) -> Parsed<T> {
    one_of(raw.text()?)
}

fn one_of<T: Choice>(text: &str) -> Parsed<T> {
    T::ALL.iter().copied().find(|choice| choice.word() == text).ok_or_else(|| {
        let words: Vec<_> = T::ALL.iter().map(|choice| choice.word()).collect();
        format!("\"{text}\" is not one of {}", words.join(", "))
    })
}

pub fn boolean(raw: &Raw) -> Parsed<bool> {
    raw.boolean()
}

/// Parses a name in AWS that may contain spaces.
pub fn text(raw: &Raw) -> Parsed<String> {
    let text = raw.text()?;
    match text.chars().count() {
        0 => Err("the value is empty; leave the key out instead".into()),
        1..=LONGEST_NAME if !text.chars().any(char::is_control) => Ok(text.into()),
        1..=LONGEST_NAME => Err("the value contains control characters".into()),
        _ => Err(format!("the value is longer than {LONGEST_NAME} characters")),
    }
}

/// Parses a name without white space, an id or an ARN.
pub fn word(raw: &Raw) -> Parsed<String> {
    let word = text(raw)?;
    if word.contains(char::is_whitespace) {
        return Err(format!("\"{word}\" contains white space; write a name, an id or an ARN"));
    }
    Ok(word)
}

pub fn cluster(raw: &Raw) -> Parsed<String> {
    let name = text(raw)?;
    named(name, "a cluster name has", 1..=LONGEST_CLUSTER, "._-")
}

pub fn table(raw: &Raw) -> Parsed<String> {
    let name = text(raw)?;
    named(name, "a table name has", TABLE_LENGTH, "._-")
}

pub fn hook(raw: &Raw) -> Parsed<String> {
    let name = text(raw)?;
    named(name, "a lifecycle hook's name has", 1..=LONGEST_NAME, "-_/")
}

/// Parses names of hosts; returns them in lower case, without a dot at the end.
pub fn host_names(raw: &Raw) -> Parsed<Vec<String>> {
    let names = raw.list()?.into_iter().map(|text| {
        let name = text.trim_end_matches('.').to_ascii_lowercase();
        named(name, "a host name has", 1..=LONGEST_HOST_NAME, ".-")
    });
    names.collect()
}

/// Checks that a name consists of ASCII letters, digits and `others`.
fn named(
    name: String,
    subject: &str,
    length: std::ops::RangeInclusive<usize>,
    others: &str,
) -> Parsed<String> {
    let right = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
    if length.contains(&name.len()) && name.chars().all(right) {
        return Ok(name);
    }
    let (least, most) = length.into_inner();
    Err(format!("\"{name}\": {subject} {least} to {most} letters, digits and {others}"))
}

pub fn region(raw: &Raw) -> Parsed<String> {
    let region = raw.text()?;
    let right = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if region.contains('-') && region.chars().all(right) {
        return Ok(region.into());
    }
    Err(format!("\"{region}\" is not a region such as \"eu-central-1\""))
}

pub fn parameter_path(raw: &Raw) -> Parsed<String> {
    let path = raw.text()?;
    let right = |level: &str| {
        !level.is_empty() && level.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    let levels: Vec<&str> = path.split('/').skip(1).collect();
    let whole = path.starts_with('/') && levels.iter().copied().all(right);
    if !whole || levels.len() > MOST_PATH_LEVELS {
        return Err(format!(
            "\"{path}\" is not a parameter path: it begins with / and does not end with it, with \
             at most {MOST_PATH_LEVELS} levels of letters, digits and ._-"
        ));
    }
    let first = levels[0].to_ascii_lowercase();
    if first.starts_with("aws") || first.starts_with("ssm") {
        return Err(format!("\"{path}\": names that begin with aws or ssm are reserved for AWS"));
    }
    Ok(path.into())
}

/// Parses a duration of more than 0, and at most the time that Auto Scaling waits.
pub fn duration(raw: &Raw) -> Parsed<Duration> {
    if let Raw::Number(digits) = raw {
        return Err(format!("{digits} has no unit; write \"{digits}s\" for seconds"));
    }
    let text = raw.text()?;
    let duration = humantime::parse_duration(text).map_err(|problem| {
        format!("\"{text}\" is not a duration ({problem}); write \"90s\", \"10m\" or \"1h 30m\"")
    })?;
    if duration.is_zero() || duration > LONGEST {
        return Err(format!("\"{text}\" is out of range: more than 0s, at most 48h"));
    }
    Ok(duration)
}

pub fn wait(raw: &Raw) -> Parsed<Duration> {
    match raw.text() {
        Ok("0s") => Ok(Duration::ZERO),
        _ => duration(raw),
    }
}

pub fn rotation(raw: &Raw) -> Parsed<Duration> {
    let text = raw.text()?;
    let interval = humantime::parse_duration(text)
        .map_err(|problem| format!("\"{text}\" is not a duration ({problem}); write \"30d\""))?;
    if (SHORTEST_ROTATION..=LONGEST_ROTATION).contains(&interval) {
        return Ok(interval);
    }
    Err(format!("\"{text}\" is out of range: from 1m to 3650d"))
}

/// Parses an age.
pub fn age(raw: &Raw) -> Parsed<Duration> {
    let text = raw.text()?;
    let age = humantime::parse_duration(text)
        .map_err(|problem| format!("\"{text}\" is not a duration ({problem}); write \"7d\""))?;
    if age.is_zero() || age > LONGEST_ROTATION {
        return Err(format!("\"{text}\" is out of range: more than 0s, at most 3650d"));
    }
    Ok(age)
}

pub fn interval(raw: &Raw) -> Parsed<Duration> {
    let interval = duration(raw)?;
    if interval < SHORTEST_INTERVAL {
        return Err(format!(
            "{} is too short: at least {}",
            humantime::format_duration(interval),
            humantime::format_duration(SHORTEST_INTERVAL),
        ));
    }
    Ok(interval)
}

/// Parses the time without a sign of life after which a swarm or a node counts as lost.
pub fn patience(raw: &Raw) -> Parsed<Duration> {
    let patience = duration(raw)?;
    if patience < SHORTEST_PATIENCE {
        return Err(format!(
            "{} is too short: at least {}, because a running manager writes its row once a minute",
            humantime::format_duration(patience),
            humantime::format_duration(SHORTEST_PATIENCE),
        ));
    }
    Ok(patience)
}

pub fn share(raw: &Raw) -> Parsed<f64> {
    let share: f64 = number(raw)?;
    if (0.0..=LARGEST_SHARE).contains(&share) {
        return Ok(share);
    }
    Err(format!("{share} is out of range: from 0 to {LARGEST_SHARE}"))
}

pub fn part(raw: &Raw) -> Parsed<f64> {
    let part: f64 = number(raw)?;
    if (0.0..=1.0).contains(&part) {
        return Ok(part);
    }
    Err(format!("{part} is out of range: from 0 to 1"))
}

pub fn subnet_size(raw: &Raw) -> Parsed<u8> {
    let size: u8 = number(raw)?;
    if (1..=LONGEST_SUBNET_PREFIX).contains(&size) {
        return Ok(size);
    }
    Err(format!("{size} is out of range: a prefix length from 1 to {LONGEST_SUBNET_PREFIX}"))
}

fn number<T: FromStr<Err: Display>>(raw: &Raw) -> Parsed<T> {
    let digits = raw.number()?;
    digits.parse().map_err(|problem| format!("\"{digits}\": {problem}"))
}

pub fn directory(raw: &Raw) -> Parsed<PathBuf> {
    let path = PathBuf::from(raw.text()?);
    if path.is_absolute() {
        return Ok(path);
    }
    Err(format!("\"{}\" is not an absolute path", path.display()))
}

pub fn docker_host(raw: &Raw) -> Parsed<DockerHost> {
    let host = raw.text()?;
    match host.strip_prefix("unix://") {
        Some(path) if path.len() > 1 && path.starts_with('/') => Ok(DockerHost(path.into())),
        Some(_) => {
            Err(format!("\"{host}\" has no socket path; write \"unix:///var/run/docker.sock\""))
        }
        None => Err(format!(
            "\"{host}\" is not a socket on this host, and skep joins the host that it runs on; \
             write \"unix:///var/run/docker.sock\""
        )),
    }
}

pub fn private_address(raw: &Raw) -> Parsed<IpAddr> {
    let text = raw.text()?;
    let address = text.parse().map_err(|_| format!("\"{text}\" is not an IP address"))?;
    if is_private(address) {
        return Ok(address);
    }
    Err(format!(
        "{address} is not a private address: 10/8, 172.16/12, 192.168/16, 100.64/10 or fc00::/7"
    ))
}

pub fn address_pool(raw: &Raw) -> Parsed<Vec<Ipv4Net>> {
    let mut pool: Vec<Ipv4Net> = Vec::new();
    for text in raw.list()? {
        let new = range(text)?;
        if let Some(other) = pool.iter().find(|other| overlap(other, &new)) {
            return Err(format!("{other} and {new} overlap"));
        }
        pool.push(new);
    }
    Ok(pool)
}

/// Parses an IPv4 range, such as `10.0.0.0/8`; the bits after the prefix must be zero.
pub fn range(text: &str) -> Parsed<Ipv4Net> {
    // The standard library refuses `010.0.0.0`, which some programs read as octal.
    let parsed = text.split_once('/').and_then(|(address, prefix)| {
        Ipv4Net::new(address.parse().ok()?, prefix.parse().ok()?).ok()
    });
    let range =
        parsed.ok_or_else(|| format!("\"{text}\" is not an IPv4 range such as \"10.0.0.0/8\""))?;
    let first = range.trunc();
    if first != range {
        return Err(format!("{range} has host bits set; write {first}"));
    }
    Ok(range)
}

pub fn labels(raw: &Raw) -> Parsed<Vec<(String, String)>> {
    let pairs = raw.pairs()?;
    if pairs.len() > labels::MOST {
        return Err(format!("{} labels; a node has at most {}", pairs.len(), labels::MOST));
    }
    let pairs = pairs
        .into_iter()
        .map(|(key, value)| labels::check(key, value).map(|()| (key.to_owned(), value.to_owned())));
    pairs.collect()
}

pub fn socket_address(raw: &Raw) -> Parsed<SocketAddr> {
    let text = raw.text()?;
    text.parse().map_err(|_| {
        format!("\"{text}\" is not an address and port such as \"0.0.0.0:44554\" or \"[::]:44554\"")
    })
}

/// Parses the log filter. Stricter than tracing-subscriber, which reads a misspelt level as a target at `trace`.
pub fn log_filter(raw: &Raw) -> Parsed<LogFilter> {
    let pairs = raw.text()?.split(',').map(|directive| {
        let (target, level) = match directive.trim().split_once('=') {
            Some((target, level)) => (target, level),
            None => (OWN_TARGET, directive.trim()),
        };
        if target.is_empty() || target.contains(char::is_whitespace) {
            return Err(format!(
                "\"{directive}\" has no target; write \"skep::lifecycle::boot=debug\""
            ));
        }
        if !LEVELS.contains(&level) {
            let hint = did_you_mean(&nearest(level, LEVELS));
            return Err(format!("\"{level}\" is not one of {}{hint}", LEVELS.join(", ")));
        }
        let level = level.parse::<LevelFilter>().map_err(|problem| problem.to_string())?;
        Ok((target.to_string(), level))
    });
    pairs.collect::<Parsed<_>>().map(LogFilter)
}
