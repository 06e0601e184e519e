//! Writes `/etc/skep/skep.toml` as it is installed: every key with its meaning, and none of them set.

use skep::config::{KEYS, Key, Settings};

const HEADER: &str = "\
# Settings of skep. With tags on the instance none is needed; what is shown is the default, or an
# example where there is none. Fragments in conf.d/*.toml, SKEP_* variables and flags win over this
# file. `skep config` prints what is in force and why; skep.service reads it when it starts. Pages
# such as docs/configuration.md are in /usr/share/doc/skep.
";

/// Values for the keys without a default, as TOML.
const EXAMPLES: [(&str, &str); 27] = [
    ("cluster", "\"prod\""),
    ("role", "\"worker\""),
    ("region", "\"eu-central-1\""),
    ("labels", "{ disk = \"ssd\" }"),
    ("tokens.kms_key", "\"alias/skep\""),
    ("tokens.rotate_every", "\"30d\""),
    ("swarm.advertise_address", "\"10.0.1.10\""),
    ("swarm.address_pool", "[\"10.200.0.0/16\"]"),
    ("cloudformation.stack", "\"prod-swarm\""),
    ("cloudformation.resource", "\"WorkerGroup\""),
    ("autoscaling.group", "\"prod-workers\""),
    ("autoscaling.launch_hook", "\"skep-launch\""),
    ("autoscaling.termination_hook", "\"skep-terminate\""),
    ("leave.linger_spot", "\"15s\""),
    ("leave.linger_maintenance", "\"1m\""),
    ("leave.linger_rebalance", "\"1m\""),
    ("leave.linger_shutdown", "\"15s\""),
    ("leave.linger_operator", "\"1m\""),
    ("webhook.url_file", "\"/etc/skep/webhook.url\""),
    ("webhook.secret_file", "\"/etc/skep/webhook.secret\""),
    ("ship.to", "\"logs:/skep/prod\""),
    ("ship.endpoint", "\"https://storage.example.com\""),
    ("backup.to", "\"s3://backups/skep\""),
    ("backup.kms_key", "\"alias/skep\""),
    ("backup.region", "\"eu-west-1\""),
    ("backup.endpoint", "\"https://storage.example.com\""),
    ("health.hosts", "[\"swarm.example.com\"]"),
];

/// Maximum length of a line of prose.
const WIDTH: usize = 98;

/// Returns the file. Prose begins with `# `, a setting with `#` alone. The sections' names are not commented out, so
/// that a single setting can be uncommented.
pub fn configuration() -> String {
    let mut text = HEADER.to_owned();
    let mut section = None;
    for key in KEYS {
        if key.section() != section {
            section = key.section();
            text += &format!("\n[{}]\n", section.unwrap_or_default());
        }
        let name = key.name.rsplit('.').next().unwrap_or(key.name);
        text += &format!("\n{}#{name} = {}\n", prose(key.doc), shown(key));
    }
    text
}

/// Returns the example or the default as TOML; JSON's strings, numbers and lists are TOML, too.
fn shown(key: &Key) -> String {
    let example = EXAMPLES.iter().find(|(name, _)| *name == key.name);
    match example {
        Some((_, value)) => (*value).to_owned(),
        None => key.value(&Settings::default()).to_string(),
    }
}

fn prose(doc: &str) -> String {
    let mut lines = String::new();
    let mut line = String::from("#");
    for word in doc.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            lines += &line;
            lines.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line += word;
    }
    lines + &line + "\n"
}

#[cfg(test)]
mod tests {
    use std::fs;

    use skep::config::{Inputs, Loaded, Mistakes, load};

    use super::*;

    fn loaded(text: &str) -> Result<Loaded, Mistakes> {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("skep.toml"), text).unwrap();
        load(&Inputs { directory: Some(directory.path().into()), ..Inputs::default() })
    }

    fn uncommented() -> String {
        let setting = |line: &str| {
            line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).map(String::from)
        };
        configuration().lines().map(|line| setting(line).unwrap_or(line.into()) + "\n").collect()
    }

    #[test]
    fn as_installed_it_sets_nothing() {
        assert_eq!(loaded(&configuration()).unwrap().settings, Settings::default());
    }

    #[test]
    fn uncommented_it_sets_every_key_and_none_is_wrong() {
        let loaded = loaded(&uncommented()).unwrap();
        for key in KEYS {
            let origin = loaded.origin(key.name).to_string();
            assert!(origin.contains("skep.toml"), "{} comes from {origin}", key.name);
            if key.default.is_some() {
                let default = key.value(&Settings::default());
                assert_eq!(key.value(&loaded.settings), default, "{}", key.name);
            }
        }
    }

    #[test]
    fn examples_stand_only_where_there_is_no_default() {
        for (name, _) in EXAMPLES {
            let key = KEYS.iter().find(|key| key.name == name);
            assert!(key.is_some_and(|key| key.default.is_none()), "{name}");
        }
    }
}
