//! `aws-check` tries a stack in the local cloud, through the real `aws` command line, and leaves nothing behind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, ensure};
use harness::departures::options_with;
use harness::{PATIENCE, policies, secs};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use skep_sim::cloud::{Deny, Fault, LifecycleState, Service, Who};
use skep_sim::fleet::{Fleet, FleetOptions, IMAGE as SERVICE};

/// Name of the stack, and so of the cluster and the table.
const NAME: &str = "trial";
const IMAGE: &str = "ami-0123456789abcdef0";
/// The last manager waits for a replacement until its deadline.
const CONFIG: &str = "[leave]\ndeadline = \"30s\"\n";

/// How many stacks a test creates; each has a swarm of its own.
#[derive(PartialEq)]
enum Stacks {
    One,
    Several,
}

/// A fleet without a stack, and the directory for transcripts.
async fn account(stacks: Stacks) -> anyhow::Result<(Fleet, PathBuf)> {
    let options = options_with(CONFIG);
    // What UserData writes on AWS.
    let table = ("SKEP_TABLE".to_owned(), NAME.to_owned());
    let options = FleetOptions {
        skep_env: [table].into(),
        // The service has a published port.
        ingress: true,
        daemon: serde_json::Map::new(),
        one_swarm: stacks == Stacks::One,
        ..options
    };
    let fleet = harness::fleet(options).await?;
    policies::enforce_on_table(fleet.cloud(), &[NAME], &["ssm"], NAME)?;
    fleet.cloud().register_image(IMAGE, "skep", "123456789012");
    let directory = fleet.dir().join("aws-check");
    Ok((fleet, directory))
}

/// `aws-check` with an environment of its own: a developer's account is out of reach.
fn aws_check(fleet: &Fleet, directory: &Path, command: &str, arguments: &str) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let programs = root.join(".venv/bin");
    let mut check = Command::new(programs.join("python"));
    check.arg("-B").arg(root.join("aws-check/aws-check")).arg(command);
    check.args(["--stack", NAME, "--poll", "5", "--json", "--dir"]).arg(directory);
    check.args(arguments.split_whitespace());
    check.env_clear().envs([
        ("AWS_ENDPOINT_URL", fleet.endpoint().as_str()),
        ("AWS_DEFAULT_REGION", "eu-central-1"),
        ("AWS_ACCESS_KEY_ID", "AKIALOCALCLOUD000000"),
        ("AWS_SECRET_ACCESS_KEY", "local"),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ("PATH", &format!("{}:/usr/bin:/bin", programs.display())),
    ]);
    check.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    check
}

fn start(fleet: &Fleet, directory: &Path, arguments: &str) -> anyhow::Result<Child> {
    let arguments = format!("--yes --image {IMAGE} --service-image {SERVICE} {arguments}");
    aws_check(fleet, directory, "run", &arguments).spawn().context("cannot start aws-check")
}

/// The result of a run.
struct Report {
    code: Option<i32>,
    json: Value,
    errors: String,
}

impl Report {
    async fn of(check: Child) -> anyhow::Result<Report> {
        let output: Output = tokio::task::spawn_blocking(|| check.wait_with_output()).await??;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let json = match output.stdout.as_slice() {
            [] => Value::Null,
            text => serde_json::from_slice(text).context(errors.clone())?,
        };
        Ok(Report { code: output.status.code(), json, errors })
    }

    /// Answer and evidence by fact.
    fn facts(&self) -> BTreeMap<&str, (&str, &str)> {
        let facts = self.json["facts"].as_array().into_iter().flatten();
        facts
            .filter_map(|fact| {
                let [id, answer, evidence] =
                    ["id", "answer", "evidence"].map(|key| fact[key].as_str());
                Some((id?, (answer?, evidence?)))
            })
            .collect()
    }

    fn answers(&self, answer: &str, facts: &[&str]) -> anyhow::Result<()> {
        let all = self.facts();
        for fact in facts {
            ensure!(
                all.get(fact).is_some_and(|it| it.0 == answer),
                "{fact}: {:?}\n{}",
                all.get(fact),
                self.errors
            );
        }
        Ok(())
    }
}

fn nothing_is_left(fleet: &Fleet, report: &Report) -> anyhow::Result<()> {
    let cloud = fleet.cloud();
    let stack = cloud.stack(NAME).map(|stack| stack.status);
    ensure!(
        stack.as_deref().is_none_or(|status| status == "DELETE_COMPLETE"),
        "the stack is {stack:?}\n{}",
        report.errors
    );
    ensure!(cloud.groups().is_empty() && cloud.instances().is_empty(), "{}", report.errors);
    ensure!(cloud.rows(NAME).is_err(), "the table is left\n{}", report.errors);
    ensure!(cloud.parameter_names().is_empty(), "{:?}", cloud.parameter_names());
    Ok(())
}

#[tokio::test]
async fn nodes_come_and_go_and_every_fact_has_an_answer() -> anyhow::Result<()> {
    let (fleet, directory) = account(Stacks::One).await?;
    // Otherwise the hook of a manager without tasks can be over between two looks of aws-check.
    let slow = Fault { latency_ms: Some((3000, 3000)), ..Fault::default() };
    fleet.cloud().faults().set(Service::AutoScaling, Some("CompleteLifecycleAction"), slow);
    let steps = "service,scale-out,scale-in,manager,leader,group,spot";
    let report =
        Report::of(start(&fleet, &directory, &format!("--managers 3 --only {steps}"))?).await?;
    ensure!(report.code == Some(0), "{:?}\n{}", report.code, report.errors);
    report.answers(
        "yes",
        &[
            "template",
            "signals",
            "groups-order",
            "source-instance",
            "foreign-rows",
            "cluster-rows",
            "manager-token",
            "worker-role",
            "manager-role",
            "describe-instances",
            "scale-out",
            "scale-in",
            "manager",
            "leader",
            "delete",
        ],
    )?;
    // This cloud deletes the table at once after the last manager, so that the last phase may not be seen.
    let (answer, evidence) = report.facts()["charter-closed"];
    let is_unseen =
        answer == "not tried" && evidence == "the last phase that could be read was open";
    ensure!(answer == "yes" || is_unseen, "{answer}: {evidence}\n{}", report.errors);
    // It learns from the answers of the endpoint what this cloud cannot do.
    let facts = report.facts();
    for (fact, why) in [
        ("balancer", "there is no load balancer"),
        ("settings-in-ssm", "creates no parameter of the stack's own"),
        ("references", "creates nothing of workers.yaml"),
        ("nothing-left", "this endpoint has no resourcegroupstaggingapi:get-resources"),
        ("deregistered", "was not seen as a target of a load balancer"),
        ("leader-requests", "no client requests the service"),
        ("spot-notice", "this endpoint has no fis:list-experiment-templates"),
        ("update", "the step was not chosen"),
        ("kms", "aws-check has no step for it"),
    ] {
        let (answer, evidence) = facts[fact];
        ensure!(answer == "not tried" && evidence.contains(why), "{fact}: {answer}, {evidence}");
    }
    nothing_is_left(&fleet, &report)?;
    let transcript = std::fs::read_to_string(
        directory.join(format!("aws-check-{NAME}")).join("transcript.txt"),
    )?;
    for secret in ["SWMTKN", "123456789012", "AKIALOCAL"] {
        ensure!(!transcript.contains(secret), "the transcript has {secret}");
    }
    ensure!(transcript.contains("another worker's rows"), "{transcript}");
    fleet.stop().await
}

#[tokio::test]
async fn an_update_and_a_warm_pool() -> anyhow::Result<()> {
    let (fleet, directory) = account(Stacks::One).await?;
    let check = start(&fleet, &directory, "--managers 1 --only update,warm-pool")?;
    let report = Report::of(check).await?;
    ensure!(report.code == Some(0), "{:?}\n{}", report.code, report.errors);
    report.answers("yes", &["update", "warm-pool", "delete"])?;
    nothing_is_left(&fleet, &report)?;
    fleet.stop().await
}

#[tokio::test]
async fn a_signal_or_a_refusal_leaves_nothing() -> anyhow::Result<()> {
    let (fleet, directory) = account(Stacks::Several).await?;
    let cloud = fleet.cloud();
    cloud.deny(Deny::new(Who::Anyone, Service::CloudFormation, "CreateStack"));
    let report = Report::of(start(&fleet, &directory, "--managers 1")?).await?;
    ensure!(report.code == Some(3), "{:?}\n{}", report.code, report.errors);
    ensure!(
        report.errors.contains("cloudformation:create-stack: AccessDenied"),
        "{}",
        report.errors
    );
    nothing_is_left(&fleet, &report)?;
    cloud.allow_all();
    policies::enforce_on_table(cloud, &[NAME], &["ssm"], NAME)?;

    // While the first instances boot.
    let check = start(&fleet, &directory, "--managers 1")?;
    fleet.wait_until("an instance", PATIENCE, async || Ok(!fleet.instances().is_empty())).await?;
    interrupt(&check, Signal::SIGINT).await?;
    was_interrupted(&fleet, check).await?;

    // In the middle of a step, after a call that is refused.
    cloud.deny(Deny::new(Who::Anyone, Service::Ssm, "SendCommand"));
    let check = start(&fleet, &directory, "--managers 1 --only scale-out")?;
    let serve = |count| {
        let all = fleet.cloud().instances();
        all.iter().filter(|it| it.lifecycle == LifecycleState::InService).count() == count
    };
    fleet.wait_until("three instances in service", PATIENCE, async || Ok(serve(3))).await?;
    // The step does not end before the signal.
    let (service, action) = (Service::AutoScaling, Some("CompleteLifecycleAction"));
    cloud.faults().set(service, action, Fault { error: 1.0, ..Fault::default() });
    let workers = format!("{NAME}-workers");
    fleet
        .wait_until("a third worker", PATIENCE, async || Ok(fleet.group(&workers).len() == 3))
        .await?;
    interrupt(&check, Signal::SIGTERM).await?;
    cloud.faults().remove(service, action);
    let report = was_interrupted(&fleet, check).await?;
    let (answer, evidence) = report.facts()["run-command"];
    ensure!(
        answer == "not tried" && evidence.contains("no permission for ssm:send-command"),
        "{answer}: {evidence}"
    );
    fleet.stop().await
}

async fn interrupt(check: &Child, signal: Signal) -> anyhow::Result<()> {
    tokio::time::sleep(secs(1)).await;
    Ok(kill(Pid::from_raw(check.id().try_into()?), signal)?)
}

async fn was_interrupted(fleet: &Fleet, check: Child) -> anyhow::Result<Report> {
    let report = Report::of(check).await?;
    ensure!(report.code == Some(130), "{:?}\n{}", report.code, report.errors);
    ensure!(report.json["interrupted"] == true, "{}", report.json);
    nothing_is_left(fleet, &report)?;
    Ok(report)
}
