//! Tests all sources together, as [`load`] reads them, and `docs/configuration.md`.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// Creates a configuration directory with these files.
fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = TempDir::new().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    directory
}

fn inputs(directory: &Path, variables: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Inputs {
    let flags = flags.iter().map(|(key, value)| Flag {
        flag: "--set",
        key: (*key).into(),
        value: (*value).into(),
    });
    Inputs {
        directory: Some(directory.into()),
        variables: variables.iter().map(|(k, v)| (k.into(), v.into())).collect(),
        flags: flags.collect(),
    }
}

/// Returns the mistakes as an operator reads them, without the directory's name.
fn mistakes(inputs: &Inputs) -> Vec<String> {
    let directory = format!("{}/", inputs.directory.as_ref().unwrap().display());
    let mistakes = load(inputs).unwrap_err().0;
    mistakes.iter().map(|mistake| mistake.to_string().replace(&directory, "")).collect()
}

#[test]
fn with_nothing_said_the_defaults_are_in_force() {
    let empty = directory(&[]);
    let loaded = load(&inputs(empty.path(), &[], &[])).unwrap();
    assert_eq!(loaded.settings, Settings::default());
    let settings = loaded.settings;
    assert_eq!(settings.table, "skep");
    assert_eq!(settings.tokens.store, TokenStore::Ssm);
    assert_eq!(settings.boot.deadline, Duration::from_secs(600));
    assert_eq!(settings.health.listen, SocketAddr::from(([0, 0, 0, 0], 44554)));
    assert_eq!((settings.cluster, settings.role), (None, None));
}

#[test]
fn a_default_is_shown_as_it_is_written() {
    let settings = Settings::default();
    for key in KEYS {
        let shown = match key.value(&settings) {
            serde_json::Value::Null => None,
            serde_json::Value::Array(items) if items.is_empty() => None,
            serde_json::Value::String(text) => Some(text),
            other => Some(other.to_string()),
        };
        assert_eq!(shown.as_deref(), key.default, "{}", key.name);
    }
}

#[test]
fn labels_of_all_sources_add_up_and_every_mistake_in_them_is_told() {
    let files = [
        ("skep.toml", "[labels]\ndisk = 'hdd'\ntier = 'web'\n"),
        ("conf.d/10-x.toml", "labels.rack = '7'\nlabels.disk = 'ssd'\n"),
    ];
    let right = directory(&files);
    let loaded = load(&inputs(right.path(), &[("SKEP_LABELS", "tier=db")], &[])).unwrap();
    let labels: Vec<_> = loaded.settings.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(labels, ["disk=ssd", "rack=7", "tier=db"]);
    assert_eq!(loaded.origin("labels").to_string(), "SKEP_LABELS");

    let text = "[labels]\ndisk = 1\nskep.zone = 'mine'\nrack = '7'\n'a b' = 'x'\n";
    let wrong = directory(&[("skep.toml", text)]);
    let expected = [
        "skep.toml:2: labels: \"disk\": expected text, found a number; write it in quotes",
        "skep.toml:3: labels: \"skep.zone\": labels that begin with skep. are reserved for skep",
        "skep.toml:5: labels: \"a b\": a label's key has 1 to 128 letters, digits and ._-, and its \
         value 256 characters at most, on one line",
    ];
    assert_eq!(mistakes(&inputs(wrong.path(), &[], &[])), expected);
}

#[test]
fn every_key_has_a_variable_of_its_own() {
    let mut variables: Vec<String> = KEYS.iter().map(Key::variable).collect();
    assert!(variables.contains(&"SKEP_TOKENS_KMS_KEY".into()));
    assert!(variables.contains(&"SKEP_STATE_DIR".into()));
    variables.extend(["SKEP_CONFIG_DIR".into(), "SKEP_BOOT_ID".into()]);
    let all = variables.len();
    variables.sort();
    variables.dedup();
    assert_eq!(variables.len(), all);
}

#[test]
fn every_mistake_is_reported_at_once_with_its_source_and_key() {
    let directory = directory(&[
        ("skep.toml", "cluster = 'a/b'\n[boot]\ndeadlin = '5m'\nlease = 30\n"),
        ("conf.d/10-x.toml", "role = 'leader'\ntable =\n"),
        ("conf.d/20-y.toml", "[notices]\nspot = 'yes'\ninterval = '100ms'\n"),
        ("conf.d/notes.txt", "not TOML at all"),
    ]);
    let inputs = inputs(
        directory.path(),
        &[
            ("SKEP_NOTICES_SPOTS", "true"),
            ("SKEP_HEALTH_LISTEN", "44554"),
            ("SKEP_CLUSTER", "fine-and-in-force"),
            ("SKEP_CONFIG_DIR", "/nowhere"),
            ("SKEP_BOOT_ID", "7"),
            ("UNRELATED", "x"),
        ],
        &[("log.levle", "debug"), ("docker.host", "tcp://10.0.0.1:2375")],
    );
    let found = mistakes(&inputs);
    let expected = [
        "conf.d/10-x.toml:1: role: \"leader\" is not one of manager, worker",
        "conf.d/10-x.toml:2: ",
        "conf.d/20-y.toml:2: notices.spot: expected true or false, found text",
        "conf.d/20-y.toml:3: notices.interval: 100ms is too short",
        "skep.toml:1: cluster: \"a/b\": a cluster name has",
        "skep.toml:3: boot.deadlin: unknown key; did you mean boot.deadline?",
        "skep.toml:4: boot.lease: 30 has no unit; write \"30s\"",
        "SKEP_HEALTH_LISTEN: health.listen: \"44554\" is not an address and port",
        "SKEP_NOTICES_SPOTS: unknown variable; did you mean SKEP_NOTICES_SPOT?",
        "--set: docker.host: \"tcp://10.0.0.1:2375\" is not a socket on this host",
        "--set: log.levle: unknown key; did you mean log.level?",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for expected in expected {
        assert!(
            found.iter().any(|mistake| mistake.starts_with(expected)),
            "{expected}\n{found:#?}"
        );
    }
    assert!(found.is_sorted_by_key(|mistake| {
        ["conf.d", "skep.toml", "SKEP", "--"].iter().position(|start| mistake.starts_with(start))
    }));
}

#[test]
fn a_file_that_cannot_be_read_is_a_mistake_and_one_that_is_not_there_is_none() {
    let directory = directory(&[("skep.toml/inside", ""), ("conf.d", "a file")]);
    let found = mistakes(&inputs(directory.path(), &[], &[]));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("conf.d: cannot be read: "), "{found:?}");
    assert!(found[1].starts_with("skep.toml: cannot be read: "), "{found:?}");
}

#[test]
fn a_directory_that_was_named_must_be_there() {
    let flag = inputs(Path::new("/nowhere"), &[("SKEP_CONFIG_DIR", "/neither")], &[]);
    let text = load(&flag).unwrap_err().to_string();
    assert_eq!(text, "--config-dir: /nowhere is not a directory");
    let variable = Inputs { directory: None, ..flag };
    let text = load(&variable).unwrap_err().to_string();
    assert_eq!(text, "SKEP_CONFIG_DIR: /neither is not a directory");
}

#[test]
fn the_variable_names_the_directory() {
    let directory = directory(&[("skep.toml", "cluster = 'here'")]);
    let variable = ("SKEP_CONFIG_DIR".into(), directory.path().into());
    let inputs = Inputs { variables: vec![variable], ..Inputs::default() };
    assert_eq!(load(&inputs).unwrap().settings.cluster.as_deref(), Some("here"));
}

#[test]
fn an_empty_variable_is_not_set() {
    let empty = directory(&[]);
    let loaded =
        load(&inputs(empty.path(), &[("SKEP_CLUSTER", ""), ("DOCKER_HOST", "")], &[])).unwrap();
    assert_eq!(loaded.settings, Settings::default());
    assert_eq!(loaded.origin("cluster"), Origin::Default);
}

#[test]
fn the_variable_of_another_program_stands_in_for_the_default_only() {
    let dir = directory(&[("skep.toml", "state_dir = '/data/skep'")]);
    let variables = [
        ("STATE_DIRECTORY", "/var/lib/other"),
        ("RUNTIME_DIRECTORY", "/run/a:/run/b"),
        ("DOCKER_HOST", "tcp://somewhere:2375"),
        ("SKEP_DOCKER_HOST", "unix:///run/docker.sock"),
        ("AWS_REGION", "eu-west-3"),
    ];
    let loaded = load(&inputs(dir.path(), &variables, &[])).unwrap();
    assert_eq!(loaded.settings.state_dir, Path::new("/data/skep"));
    assert_eq!(loaded.settings.runtime_dir, Path::new("/run/a"));
    assert_eq!(loaded.origin("runtime_dir").to_string(), "RUNTIME_DIRECTORY");
    assert_eq!(loaded.settings.docker.host.socket(), Path::new("/run/docker.sock"));
    assert_eq!(loaded.settings.region.as_deref(), Some("eu-west-3"));

    let found = mistakes(&inputs(dir.path(), &[("DOCKER_HOST", "tcp://somewhere:2375")], &[]));
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("DOCKER_HOST: docker.host: "), "{found:?}");
}

#[test]
fn a_stack_needs_its_resource() {
    let dir = directory(&[("skep.toml", "[cloudformation]\nstack = 'prod'\n")]);
    assert_eq!(
        mistakes(&inputs(dir.path(), &[], &[])),
        ["skep.toml:2: cloudformation.stack: cloudformation.resource is missing; set both or \
         neither"]
    );
    let both = inputs(dir.path(), &[("SKEP_CLOUDFORMATION_RESOURCE", "Workers")], &[]);
    assert!(load(&both).is_ok());
    let wrong = inputs(dir.path(), &[("SKEP_CLOUDFORMATION_RESOURCE", "a b")], &[]);
    assert_eq!(mistakes(&wrong).len(), 1);
}

#[test]
fn the_former_key_of_the_webhook_names_the_new_one_and_not_its_value() {
    let dir = directory(&[("skep.toml", "[webhook]\nurl = 'https://example.com/T0KEN'\n")]);
    let variable = [("SKEP_WEBHOOK_URL", "https://example.com/T0KEN")];
    let inputs = inputs(dir.path(), &variable, &[("webhook.url", "https://example.com/T0KEN")]);
    let expected = [
        "skep.toml:2: webhook.url: unknown key; did you mean webhook.url_file?",
        "SKEP_WEBHOOK_URL: unknown variable; did you mean SKEP_WEBHOOK_URL_FILE?",
        "--set: webhook.url: unknown key; did you mean webhook.url_file?",
    ];
    assert_eq!(mistakes(&inputs), expected);
}

#[test]
fn a_pool_holds_at_least_one_subnet() {
    let dir = directory(&[("skep.toml", "[swarm]\naddress_pool = ['10.9.0.0/26']\n")]);
    assert_eq!(
        mistakes(&inputs(dir.path(), &[], &[])),
        ["skep.toml:2: swarm.address_pool: 10.9.0.0/26 is smaller than one /24 subnet; see \
         swarm.subnet_size"]
    );
    assert!(load(&inputs(dir.path(), &[("SKEP_SWARM_SUBNET_SIZE", "26")], &[])).is_ok());
    assert_eq!(mistakes(&inputs(dir.path(), &[("SKEP_SWARM_SUBNET_SIZE", "99")], &[])).len(), 1);
}

/// Keys of several types, each with valid values (as shown) and a wrong one.
const SAMPLES: [(&str, [&str; 3], &str); 5] = [
    ("table", ["one", "two", "three"], "#"),
    ("boot.deadline", ["1m", "2m", "3m"], "soon"),
    ("log.format", ["text", "json", "journal"], "xml"),
    ("notices.interval", ["1s", "2s", "3s"], "1ms"),
    ("flush.dir", ["/a", "/b", "/c"], "here"),
];

/// Generates the content of one source for each sample: nothing, a valid value or the wrong one.
fn source() -> impl Strategy<Value = [Option<Option<usize>>; SAMPLES.len()]> {
    let mostly_right = prop_oneof![
        2 => Just(None),
        4 => (0..3_usize).prop_map(|n| Some(Some(n))),
        1 => Just(Some(None)),
    ];
    proptest::array::uniform(mostly_right)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The last source with a value wins, and every wrong value in any source is reported.
    #[test]
    fn the_last_word_wins_and_no_mistake_is_lost(sources in proptest::array::uniform5(source())) {
        let said = |source: usize| {
            SAMPLES.iter().zip(sources[source]).filter_map(|((key, right, wrong), said)| {
                said.map(|n| (*key, n.map_or(*wrong, |n| right[n])))
            })
        };
        let toml = |source| {
            said(source).map(|(key, value)| format!("{key} = '{value}'\n")).collect::<String>()
        };
        let dir = directory(&[
            ("skep.toml", &toml(0)),
            ("conf.d/10.toml", &toml(1)),
            ("conf.d/20.toml", &toml(2)),
        ]);
        let inputs = Inputs {
            directory: Some(dir.path().into()),
            variables: said(3).map(|(key, value)| {
                (format!("SKEP_{}", key.replace('.', "_").to_uppercase()).into(), value.into())
            }).collect(),
            flags: said(4).map(|(key, value)| {
                Flag { flag: "--set", key: key.into(), value: value.into() }
            }).collect(),
        };
        let wrong = sources.iter().flatten().filter(|said| **said == Some(None)).count();
        match load(&inputs) {
            Err(mistakes) => prop_assert_eq!(mistakes.0.len(), wrong),
            Ok(loaded) => {
                prop_assert_eq!(wrong, 0);
                for (n, (name, right, _)) in SAMPLES.iter().enumerate() {
                    let key = KEYS.iter().find(|key| key.name == *name).unwrap();
                    let last = (0..5).rev().find_map(|s| sources[s][n].flatten().map(|v| (s, v)));
                    let expected = last.map_or(key.default, |(_, v)| Some(right[v]));
                    let shown = key.value(&loaded.settings);
                    prop_assert_eq!(shown.as_str(), expected);
                    let origin = loaded.origin(name).to_string();
                    let source = last.map_or(5, |(source, _)| source);
                    let names = ["skep.toml:", "10.toml:", "20.toml:", "SKEP_", "--set", "default"];
                    prop_assert!(origin.contains(names[source]), "{}: {}", name, origin);
                }
            }
        }
    }
}

/// Returns the part of `docs/configuration.md` that follows from the table of keys.
fn reference() -> String {
    let mut sections = vec![(None, String::new())];
    sections.extend(SECTIONS.iter().map(|(name, doc)| (Some(*name), tidy(doc))));
    let mut text = String::new();
    for (section, doc) in sections {
        if let Some(section) = section {
            text += &format!("\n### `[{section}]`\n\n{doc}\n\n");
        }
        text += "| Key | Default | Meaning |\n|---|---|---|\n";
        for key in KEYS.iter().filter(|key| key.section() == section) {
            let name = key.name.rsplit('.').next().unwrap();
            let mut default = key.default.map_or("none".into(), |default| format!("`{default}`"));
            if let Some(variable) = key.stand_in {
                default = format!("`{variable}`, else {default}");
            }
            text += &format!("| `{name}` | {default} | {} |\n", tidy(key.doc));
        }
    }
    text
}

/// Joins a doc comment to one line.
fn tidy(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md"));

#[test]
fn the_page_lists_exactly_these_keys_and_defaults() {
    let (_, rest) = PAGE.split_once("<!-- keys -->\n").unwrap();
    let (listed, _) = rest.split_once("<!-- end of keys -->").unwrap();
    assert!(listed == reference(), "docs/configuration.md should list:\n{}", reference());
}

#[test]
fn the_examples_on_the_page_are_right() {
    let examples: Vec<&str> = PAGE
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("```").map(|(example, _)| example))
        .collect();
    assert!(!examples.is_empty());
    for example in examples {
        let dir = directory(&[("skep.toml", example)]);
        let loaded = load(&inputs(dir.path(), &[], &[])).unwrap();
        assert_ne!(loaded.settings, Settings::default());
    }
}
