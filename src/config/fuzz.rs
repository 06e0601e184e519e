//! Feeds any bytes to the sources of the configuration: a file, variables and flags, separated by lines of `---`.

use std::path::Path;

use super::*;
use crate::fuzz::{Target, kind, run};

const FILE: &str = "cluster = 'prod'
role = 'worker'
notices.spot = false
[boot] # slow
deadline = '5m'
lost_after = '10m'
[swarm]
address_pool = ['10.0.0.0/8', '172.16.0.0/12']
subnet_size = 24
[labels]
disk = 'ssd'
com.example.tier = 'web'
[flush]
shippers = ['vector', 'fluent-bit']
http = 'http://127.0.0.1:2020/api/v1/metrics output.cloudwatch.retries == 0'
[health]
listen = '0.0.0.0:44554'
hosts = ['swarm.example.com']
[webhook]
url_file = '/etc/skep/webhook'
secret_file = '/etc/skep/secret'
";
const VARIABLES: &str = "SKEP_CLUSTER=prod
SKEP_LABELS=disk=ssd,tier=web
SKEP_BOOT_DEADLINE=1h 30m
SKEP_SWARM_ADDRESS_POOL=[\"10.0.0.0/8\"]
SKEP_NOTICE_SPOT=true
DOCKER_HOST=unix:///run/docker.sock
AWS_REGION=eu-central-1
STATE_DIRECTORY=/var/lib/skep:/var/lib/other";

/// Returns every setting with its default, and in every form that a source accepts.
fn corpus() -> Vec<Vec<u8>> {
    let settings = KEYS.iter().filter_map(|key| Some((key, key.default?)));
    let flags: Vec<String> =
        settings.clone().map(|(key, default)| format!("{}={default}", key.name)).collect();
    let file: Vec<String> =
        settings.map(|(key, default)| format!("{} = {default:?}", key.name)).collect();
    // Most inputs are small, and so fast.
    let each = file.iter().cloned().chain(flags.iter().map(|flag| format!("---\n---\n{flag}")));
    let whole = [
        format!("{FILE}---\n{VARIABLES}\n---\n{}", flags.join("\n")),
        format!("{}\n---\n{VARIABLES}", file.join("\n")),
        FILE.to_owned(),
        format!("---\n{VARIABLES}"),
    ];
    each.chain(whole).map(String::into_bytes).collect()
}

fn words() -> Vec<&'static str> {
    let own = [
        "---\n",
        "[labels]\n",
        "\"\"\"",
        "'''",
        " = ",
        "[[",
        "]]",
        "1979-05-27T07:32:00Z",
        "0x1F",
        "1_000",
        "48h",
        "0s",
        "1y",
        "18446744073709551615y",
        "0.0.0.0/0",
        "[::]:0",
        "10.0.0.0/33",
        "unix://",
        "https://u:p@x/",
        "s3://b/p",
        "arn:aws:kms:::",
        ">=",
        "==",
        "info,skep=trace",
        "skep.zone",
    ];
    own.into_iter().chain(KEYS.iter().map(|key| key.name)).collect()
}

/// Splits a source of `key=value` lines.
fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| line.split_once('='))
}

#[test]
fn no_source_of_the_configuration_stops_skep() {
    let nowhere = tempfile::tempdir().unwrap();
    let words = words();
    let target = Target { name: "configuration", corpus: corpus(), words: &words };
    run(&target, |input| {
        let text = String::from_utf8_lossy(input);
        let mut sources = text.split("---\n");
        let mut found = Found::default();
        fragment::read(Path::new("skep.toml"), sources.next().unwrap_or_default(), &mut found);
        let variables = pairs(sources.next().unwrap_or_default());
        let flags = pairs(sources.next().unwrap_or_default());
        let flag = |(key, value): (&str, &str)| Flag {
            flag: "--set",
            key: key.to_owned(),
            value: value.to_owned(),
        };
        let more = Inputs {
            directory: Some(nowhere.path().to_owned()),
            variables: variables.map(|(name, value)| (name.into(), value.into())).collect(),
            flags: flags.map(flag).collect(),
        };
        let more = more.read();
        found.given.extend(more.given);
        found.mistakes.extend(more.mistakes);
        let (loaded, mistakes) = settle(found);
        // Every value in force can be shown.
        let is_shown = |key: &Key| !key.value(&loaded.settings).to_string().is_empty();
        assert!(!mistakes.is_empty() || KEYS.iter().all(is_shown));
        let problems = mistakes.iter().map(|mistake| {
            assert!(!mistake.to_string().is_empty());
            kind(&mistake.problem)
        });
        problems.collect::<std::collections::BTreeSet<_>>()
    });
}
