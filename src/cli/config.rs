//! `skep config`: prints every setting in force with its source.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::print;
use crate::clients::imds::Imds;
use crate::common::errors::chain;
use crate::common::instance::Instance;
use crate::config::{EXIT_CODE, KEYS, Loaded, Mistake, Origin, identity};

/// On an instance the metadata service answers in milliseconds; elsewhere it never answers.
const METADATA_PATIENCE: Duration = Duration::from_secs(2);

/// Variables that are shown in clear text; any other variable of the AWS SDK may be a secret.
const HARMLESS: [&str; 8] = [
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_DEFAULT_REGION",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE",
    "AWS_PROFILE",
    "AWS_REGION",
];
/// Prefix of the common endpoint and of each service's endpoint, which ends in the service's name.
const HARMLESS_PREFIX: &str = "AWS_ENDPOINT_URL";
const MASK: &str = "********";
/// Stands for a value that neither the operator nor the instance sets.
const NOTHING: &str = "-";

#[derive(Debug, Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Returns what `skep config --json` prints.
pub(super) async fn in_json(loaded: &Loaded) -> Value {
    picture(loaded).await.json()
}

async fn picture(loaded: &Loaded) -> Picture {
    let metadata = ask_metadata().await;
    let lossy = |text: OsString| text.to_string_lossy().into_owned();
    let variables = std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value)));
    Picture::of(loaded, metadata, variables)
}

/// Prints the settings in force. Values that come from the instance are read from its metadata; metadata that do not
/// answer are noted, and are no failure.
///
/// # Errors
/// When standard output cannot be written.
pub async fn print(arguments: &Arguments, loaded: &Loaded) -> anyhow::Result<ExitCode> {
    let picture = picture(loaded).await;
    print::to_stdout(&if arguments.json {
        format!("{:#}\n", picture.json())
    } else {
        picture.text()
    })?;
    for note in &picture.notes {
        eprintln!("skep: {note}");
    }
    for mistake in &picture.mistakes {
        eprintln!("skep: {mistake}");
    }
    Ok(if picture.mistakes.is_empty() { ExitCode::SUCCESS } else { EXIT_CODE.into() })
}

async fn ask_metadata() -> Result<Instance, String> {
    let imds = Imds::from_env().map_err(|error| chain(&error))?;
    let deadline = Instant::now() + METADATA_PATIENCE;
    imds.fetch_instance(deadline).await.map_err(|error| chain(&error))
}

/// The content of the output.
struct Picture {
    settings: Vec<InForce>,
    /// The AWS SDK's variables, by name, secrets masked.
    environment: Vec<(String, String)>,
    notes: Vec<String>,
    mistakes: Vec<Mistake>,
}

struct InForce {
    key: &'static str,
    value: Value,
    origin: Origin,
}

impl Picture {
    fn of(
        loaded: &Loaded,
        metadata: Result<Instance, String>,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Self {
        let mut mistakes = Vec::new();
        let mut settings = Vec::new();
        for key in KEYS {
            let (mut value, mut origin) = (key.value(&loaded.settings), loaded.origin(key.name));
            if let (Value::Null, Ok(instance)) = (&value, &metadata) {
                match told_by(instance, key.name) {
                    Ok(Some(told)) => (value, origin) = told,
                    Ok(None) => {}
                    Err(mistake) => mistakes.push(mistake),
                }
            }
            settings.push(InForce { key: key.name, value, origin });
        }
        let notes = metadata.err().map(|problem| {
            format!("the instance metadata does not answer; its values are missing here: {problem}")
        });
        let mut environment: Vec<(String, String)> = variables
            .filter(|(name, value)| name.starts_with("AWS_") && !value.is_empty())
            .map(|(name, value)| {
                let value = if is_harmless(&name) { value } else { MASK.into() };
                (name, value)
            })
            .collect();
        environment.sort();
        Self { settings, environment, notes: notes.into_iter().collect(), mistakes }
    }

    fn text(&self) -> String {
        let mut rows = vec![["KEY", "VALUE", "FROM"].map(String::from)];
        rows.extend(self.settings.iter().map(|InForce { key, value, origin }| {
            let value = plain(value);
            let origin = if value == NOTHING { String::new() } else { origin.to_string() };
            [(*key).to_string(), value, origin]
        }));
        let mut text = print::table(&rows);
        if !self.environment.is_empty() {
            let mut rows = vec![["AWS VARIABLE", "VALUE"].map(String::from)];
            rows.extend(self.environment.iter().map(|(name, value)| [name.clone(), value.clone()]));
            text.push('\n');
            text.push_str(&print::table(&rows));
        }
        text
    }

    fn json(&self) -> Value {
        let settings: Map<String, Value> = self
            .settings
            .iter()
            .map(|InForce { key, value, origin }| {
                let origin = (!value.is_null()).then(|| origin.to_string());
                ((*key).to_string(), json!({ "value": value, "origin": origin }))
            })
            .collect();
        let environment: Map<String, Value> =
            self.environment.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let mistakes: Vec<String> = self.mistakes.iter().map(ToString::to_string).collect();
        json!({
            "settings": settings,
            "environment": environment,
            "notes": self.notes,
            "mistakes": mistakes,
        })
    }
}

/// Returns the instance's value for a key that the operator has not set.
fn told_by(instance: &Instance, key: &str) -> Result<Option<(Value, Origin)>, Mistake> {
    const METADATA: Origin = Origin::Metadata("instance metadata");
    let stack = instance.stack.as_ref();
    let fact = match key {
        "cluster" => {
            return identity::cluster_of(instance)
                .map(|(name, origin)| Some((json!(name), origin)));
        }
        "role" => {
            return identity::role_of(instance).map(|(role, origin)| Some((json!(role), origin)));
        }
        "region" => Some(json!(instance.region)),
        "swarm.advertise_address" => Some(json!(instance.private_address)),
        "cloudformation.stack" => stack.map(|stack| json!(stack.stack)),
        "cloudformation.resource" => stack.map(|stack| json!(stack.logical_id)),
        "autoscaling.group" => instance.group.as_ref().map(|group| json!(group)),
        _ => None,
    };
    Ok(fact.map(|value| (value, METADATA)))
}

/// Whether the value of a variable of the AWS SDK may be shown.
pub(super) fn is_harmless(variable: &str) -> bool {
    HARMLESS.contains(&variable) || variable.starts_with(HARMLESS_PREFIX)
}

/// Formats a value as an operator would write it.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => NOTHING.into(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => NOTHING.into(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::instance::{Market, StackResource};
    use crate::config::{Flag, Inputs, load};

    fn instance() -> Instance {
        Instance {
            id: "i-0abc".into(),
            arn: String::new(),
            instance_type: "t3.small".into(),
            zone: "eu-central-1a".into(),
            region: "eu-central-1".into(),
            private_address: [10, 0, 0, 7].into(),
            market: Market::OnDemand,
            group: Some("prod-WorkerAsg-1X".into()),
            stack: Some(StackResource { stack: "prod".into(), logical_id: "Asg".into() }),
            tags: [("skep:cluster".into(), "tagged".into())].into(),
        }
    }

    fn loaded() -> Loaded {
        let directory = tempfile::TempDir::new().unwrap();
        let set =
            |key: &str, value: &str| Flag { flag: "--set", key: key.into(), value: value.into() };
        let flags =
            vec![set("boot.deadline", "90s"), set("swarm.address_pool", "10.1.0.0/16,10.2.0.0/16")];
        load(&Inputs { directory: Some(directory.path().into()), variables: vec![], flags })
            .unwrap()
    }

    fn picture(metadata: Result<Instance, String>) -> Picture {
        let variables = [
            ("AWS_SECRET_ACCESS_KEY", "canary"),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "canary"),
            ("AWS_ENDPOINT_URL_SSM", "http://169.254.169.254:4566"),
            ("AWS_REGION", "eu-central-1"),
            ("AWS_SESSION_TOKEN", ""),
            ("PATH", "/bin"),
        ];
        let variables = variables.map(|(name, value)| (name.to_string(), value.to_string()));
        Picture::of(&loaded(), metadata, variables.into_iter())
    }

    /// Returns the value and the origin in the line of a key.
    fn line(text: &str, key: &str) -> Vec<String> {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(key));
        let columns = line.unwrap_or_else(|| panic!("no {key} in {text}")).split("  ");
        columns.map(str::trim).filter(|cell| !cell.is_empty()).skip(1).map(String::from).collect()
    }

    #[test]
    fn every_key_has_a_line_with_its_value_and_origin() {
        let text = picture(Ok(instance())).text();
        for key in KEYS {
            line(&text, key.name);
        }
        assert_eq!(line(&text, "boot.deadline"), ["90s", "--set"]);
        assert_eq!(line(&text, "boot.lease"), ["30s", "default"]);
        assert_eq!(line(&text, "swarm.address_pool"), ["10.1.0.0/16,10.2.0.0/16", "--set"]);
        assert_eq!(line(&text, "tokens.kms_key"), ["-"]);
    }

    #[test]
    fn what_nobody_set_is_what_the_instance_says() {
        let text = picture(Ok(instance())).text();
        assert_eq!(line(&text, "cluster"), ["tagged", "tag skep:cluster"]);
        assert_eq!(line(&text, "role"), ["worker", "Auto Scaling group name"]);
        assert_eq!(line(&text, "region"), ["eu-central-1", "instance metadata"]);
        assert_eq!(line(&text, "swarm.advertise_address"), ["10.0.0.7", "instance metadata"]);
        assert_eq!(line(&text, "cloudformation.resource"), ["Asg", "instance metadata"]);
    }

    #[test]
    fn without_metadata_the_rest_is_shown() {
        let picture = picture(Err("no route".into()));
        assert_eq!(line(&picture.text(), "cluster"), ["-"]);
        assert_eq!(line(&picture.text(), "table"), ["skep", "default"]);
        assert_eq!(picture.notes.len(), 1);
        assert!(picture.notes[0].ends_with("missing here: no route"));
        assert_eq!(picture.mistakes, []);
    }

    #[test]
    fn a_role_that_cannot_be_told_is_a_mistake() {
        let picture = picture(Ok(Instance { group: None, ..instance() }));
        assert_eq!(picture.mistakes.len(), 1);
        assert_eq!(line(&picture.text(), "role"), ["-"]);
    }

    #[test]
    fn variables_that_may_be_secret_are_masked() {
        let picture = picture(Ok(instance()));
        for shown in [picture.text(), picture.json().to_string()] {
            assert!(!shown.contains("canary"), "{shown}");
            assert!(!shown.contains("AWS_SESSION_TOKEN"), "an empty variable is not in force");
            assert!(!shown.contains("/bin"), "{shown}");
        }
        let text = picture.text();
        assert_eq!(line(&text, "AWS_SECRET_ACCESS_KEY"), [MASK]);
        assert_eq!(line(&text, "AWS_CONTAINER_AUTHORIZATION_TOKEN"), [MASK]);
        assert_eq!(line(&text, "AWS_REGION"), ["eu-central-1"]);
        let endpoint = line(&text, "AWS_ENDPOINT_URL_SSM");
        assert_eq!(endpoint, ["http://169.254.169.254:4566"]);
    }

    #[test]
    fn json_keeps_the_types() {
        let shown = picture(Ok(instance())).json();
        let deadline = json!({ "value": "90s", "origin": "--set" });
        assert_eq!(shown["settings"]["boot.deadline"], deadline);
        assert_eq!(shown["settings"]["notices.spot"]["value"], json!(true));
        assert_eq!(shown["settings"]["leave.flush_share"]["value"], json!(0.2));
        let pool = json!(["10.1.0.0/16", "10.2.0.0/16"]);
        assert_eq!(shown["settings"]["swarm.address_pool"]["value"], pool);
        assert_eq!(shown["settings"]["tokens.kms_key"], json!({ "value": null, "origin": null }));
        assert_eq!(shown["environment"]["AWS_SECRET_ACCESS_KEY"], MASK);
    }
}
