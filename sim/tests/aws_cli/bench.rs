//! A cloud with one group, and the command line that calls it.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use skep_sim::cloud::{Cloud, CloudOptions, GroupSpec, StackResourceSpec, StackSpec};
use skep_sim::machines::{Disturbance, Executed, Launch, Machines};
use time::macros::format_description;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::oneshot;

const REGION: &str = "eu-central-1";

/// Machines that only record their orders.
#[derive(Default)]
pub struct Noted(pub Mutex<Vec<String>>);

impl Machines for Noted {
    fn launch(&self, launch: Launch) {
        self.0.lock().unwrap().push(format!("launch {}", launch.instance_id));
    }

    fn stop(&self, instance_id: &str) {
        self.0.lock().unwrap().push(format!("stop {instance_id}"));
    }

    fn start(&self, instance_id: &str) {
        self.0.lock().unwrap().push(format!("start {instance_id}"));
    }

    fn terminate(&self, instance_id: &str) {
        self.0.lock().unwrap().push(format!("terminate {instance_id}"));
    }

    fn replace_root_volume(&self, instance_id: &str, image_id: &str) {
        self.0.lock().unwrap().push(format!("new volume {instance_id} {image_id}"));
    }

    /// The script `deaf` is not received; every other one prints itself, and ends with 3.
    fn execute(&self, _instance_id: &str, script: String) -> Option<oneshot::Receiver<Executed>> {
        let (tell, executed) = oneshot::channel();
        let executed = (script != "deaf").then_some(executed)?;
        tell.send(Executed { code: 3, out: script }).ok()?;
        Some(executed)
    }

    fn disturb(&self, instance_id: &str, what: Disturbance) -> anyhow::Result<()> {
        self.0.lock().unwrap().push(format!("{what:?} {instance_id}"));
        Ok(())
    }
}

pub struct Bench {
    pub cloud: Cloud,
    pub machines: Arc<Noted>,
    endpoint: SocketAddr,
}

impl Bench {
    /// Starts a cloud with one group of two, in a stack that waits for two signals.
    pub async fn start() -> Self {
        let cloud = Cloud::new(CloudOptions {
            region: REGION.to_owned(),
            zones: vec![format!("{REGION}a"), format!("{REGION}b")],
            subnet: (Ipv4Addr::new(10, 78, 0, 0), 24),
            seed: 7,
        })
        .unwrap();
        let machines = Arc::new(Noted::default());
        cloud.set_machines(machines.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap();
        tokio::spawn(cloud.clone().serve_aws(listener));
        cloud
            .create_stack(StackSpec {
                name: "demo".to_owned(),
                resources: vec![StackResourceSpec {
                    logical_id: "Nodes".to_owned(),
                    group: Some("nodes".to_owned()),
                    signals: 2,
                    timeout: Duration::from_secs(600),
                }],
            })
            .unwrap();
        cloud
            .create_group(GroupSpec {
                name: "nodes".to_owned(),
                min: 1,
                max: 4,
                desired: 2,
                stack: Some(("demo".to_owned(), "Nodes".to_owned())),
                ..GroupSpec::default()
            })
            .unwrap();
        Self { cloud, machines, endpoint }
    }

    /// Runs `aws`; returns its JSON, or its standard error.
    pub async fn try_aws(&self, arguments: &[&str]) -> Result<Value, String> {
        let program = std::env::var_os("AWS_CLI").unwrap_or_else(|| OsString::from("aws"));
        let output = Command::new(&program)
            .args(arguments)
            .args(["--output", "json"])
            .env("AWS_ENDPOINT_URL", format!("http://{}", self.endpoint))
            .env("AWS_ACCESS_KEY_ID", "AKIAOPERATOR00000000")
            .env("AWS_SECRET_ACCESS_KEY", "not-verified")
            .env_remove("AWS_SESSION_TOKEN")
            .env("AWS_DEFAULT_REGION", REGION)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .env("AWS_MAX_ATTEMPTS", "1")
            // Version 2 would show long answers in a pager.
            .env("AWS_PAGER", "")
            .output()
            .await
            .unwrap_or_else(|error| {
                panic!(
                    "cannot run {}: {error}. This test needs the aws command line: `make setup` \
                     installs it, or set AWS_CLI to its path.",
                    program.to_string_lossy()
                )
            });
        let text = String::from_utf8(output.stdout).unwrap();
        if !output.status.success() {
            return Err(String::from_utf8(output.stderr).unwrap());
        }
        Ok(if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() })
    }

    /// Sends parameters in the Query protocol, as an operator; returns the body of the answer.
    pub async fn post(&self, form: &str) -> String {
        let authorization = "AWS4-HMAC-SHA256 Credential=AKIAOPERATOR00000000/20261130/r/s/aws4_request, \
                             SignedHeaders=host, Signature=00";
        let now = self.cloud.now();
        let date = format_description!("[year][month][day]T[hour][minute][second]Z");
        let request = reqwest::Client::new()
            .post(format!("http://{}/", self.endpoint))
            .header("authorization", authorization)
            .header("x-amz-date", now.format(date).unwrap())
            .body(form.to_owned());
        request.send().await.unwrap().text().await.unwrap()
    }

    pub async fn aws(&self, arguments: &[&str]) -> Value {
        self.try_aws(arguments).await.unwrap_or_else(|error| panic!("aws {arguments:?}: {error}"))
    }

    pub async fn refused(&self, arguments: &[&str]) -> String {
        match self.try_aws(arguments).await {
            Ok(answer) => panic!("aws {arguments:?} was not refused: {answer}"),
            Err(error) => error,
        }
    }

    /// Runs a command of `skep-sim`; returns whether it succeeds.
    pub async fn skep_sim(&self, arguments: &[&str]) -> bool {
        let endpoint = format!("http://{}", self.endpoint);
        let mut command = Command::new(env!("CARGO_BIN_EXE_skep-sim"));
        command.args(arguments).args(["--endpoint", &endpoint]);
        command.output().await.unwrap().status.success()
    }

    pub fn oldest(&self) -> String {
        self.cloud.instances()[0].id.clone()
    }
}

/// Returns one member of every item of a list.
pub fn names<'a>(answer: &'a Value, list: &str, name: &str) -> Vec<&'a str> {
    let items = answer[list].as_array().unwrap_or_else(|| panic!("no {list} in {answer}"));
    items.iter().map(|item| item[name].as_str().unwrap()).collect()
}

/// Waits until the work in the background has got that far.
pub async fn soon(is_so: impl Fn() -> bool) {
    for _ in 0..600 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within a minute");
}
