//! Shared by the scenarios of trouble: a cloud that is prepared before an instance is switched on, the ledger's raw
//! rows, the `aws` command line, and checks of a node that could not join.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use skep_sim::cloud::{
    ActionResult, Cloud, EventKind, GroupSpec, HookSpec, StackResourceSpec, StackSpec, Transition,
};
use skep_sim::fleet::{
    Exit, Fleet, FleetOptions, Instance, LAUNCH_HOOK, Restart, TERMINATION_HOOK,
};

use crate::{PATIENCE, secs};

/// The cluster, and its stack.
pub const CLUSTER: &str = "test";
/// Auto Scaling's launch hook waits longer than any test.
const HOOK_TIMEOUT: Duration = secs(600);

/// A fleet that calls `prepare` for every instance before it is switched on.
///
/// # Errors
/// When the machine lacks a part that a fleet needs.
pub async fn fleet_prepared(
    options: FleetOptions,
    prepare: impl Fn(&Cloud, &Instance) -> anyhow::Result<()> + Send + Sync + 'static,
) -> anyhow::Result<Fleet> {
    let cloud = Arc::new(OnceLock::<Cloud>::new());
    let known = Arc::clone(&cloud);
    let prepare = move |instance: &Instance| {
        prepare(known.get().context("an instance before there was a cloud")?, instance)
    };
    let fleet = crate::fleet(FleetOptions { prepare: Some(Arc::new(prepare)), ..options }).await?;
    ensure!(cloud.set(fleet.cloud().clone()).is_ok(), "one fleet has one cloud");
    Ok(fleet)
}

/// [`fleet_prepared`] for checks of failures: the first instance of each group is switched on, and its replacements
/// stay off. They would fail in the same way, one after the other, and keep the machine busy.
///
/// # Errors
/// When the machine lacks a part that a fleet needs.
pub async fn fleet_of_firsts(
    options: FleetOptions,
    prepare: impl Fn(&Cloud, &Instance) -> anyhow::Result<()> + Send + Sync + 'static,
) -> anyhow::Result<Fleet> {
    let seen = Mutex::new(BTreeSet::new());
    let options = FleetOptions { restart: Restart::Never, ..options };
    fleet_prepared(options, move |cloud, instance| {
        let group = &instance.launch().group;
        let is_first = seen.lock().is_ok_and(|mut seen| seen.insert(group.clone()));
        ensure!(is_first, "only the first of {group} starts");
        prepare(cloud, instance)
    })
    .await
}

/// A group of one instance with both hooks, as the resource `Group` of a stack of the same name that waits for one
/// signal.
///
/// # Errors
/// When the cloud refuses.
pub fn create_group(fleet: &Fleet, name: &str, tags: &[(&str, &str)]) -> anyhow::Result<()> {
    create_group_with_hooks(fleet, name, tags, &[LAUNCH_HOOK, TERMINATION_HOOK])
}

/// [`create_group`] with these of its hooks.
///
/// # Errors
/// When the cloud refuses.
pub fn create_group_with_hooks(
    fleet: &Fleet,
    name: &str,
    tags: &[(&str, &str)],
    hooks: &[&str],
) -> anyhow::Result<()> {
    let group = GroupSpec { name: name.to_owned(), tags: tags_of(tags), ..GroupSpec::default() };
    create_group_in(fleet.cloud(), group, hooks)
}

/// [`create_group_with_hooks`] with the other settings of a group; its size, stack and role are set here.
///
/// # Errors
/// When the cloud refuses.
pub fn create_group_in(cloud: &Cloud, group: GroupSpec, hooks: &[&str]) -> anyhow::Result<()> {
    const RESOURCE: &str = "Group";
    let name = group.name.clone();
    cloud.create_stack(StackSpec {
        name: name.clone(),
        resources: vec![StackResourceSpec {
            logical_id: RESOURCE.to_owned(),
            group: Some(name.clone()),
            signals: 1,
            timeout: HOOK_TIMEOUT,
        }],
    })?;
    let group = GroupSpec {
        max: 10,
        desired: 1,
        stack: Some((name.clone(), RESOURCE.to_owned())),
        role_name: Some(format!("skep-{name}")),
        ..group
    };
    let hook = |hook: &&str| {
        let (transition, default) = match *hook {
            LAUNCH_HOOK => (Transition::Launching, ActionResult::Abandon),
            _ => (Transition::Terminating, ActionResult::Continue),
        };
        HookSpec::new(&name, hook, transition).timeout(HOOK_TIMEOUT, default)
    };
    let hooks = hooks.iter().map(hook).collect();
    Ok(cloud.create_group_with_hooks(group, hooks)?)
}

/// Tags in the cloud's format.
#[must_use]
pub fn tags_of(tags: &[(&str, &str)]) -> BTreeMap<String, String> {
    tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// The first instance of a group.
///
/// # Errors
/// When none is launched in time.
pub async fn first_of(fleet: &Fleet, group: &str) -> anyhow::Result<Arc<Instance>> {
    fleet
        .wait_for(&format!("an instance of {group}"), PATIENCE, async || {
            let mut all = fleet.all_instances().into_iter();
            Ok(all.find(|instance| instance.launch().group == group && instance.is_on()))
        })
        .await
}

/// Waits until this many instances have sent `READY=1`.
///
/// # Errors
/// When this does not happen in time.
pub async fn all_ready(fleet: &Fleet, count: usize) -> anyhow::Result<()> {
    fleet
        .wait_until(&format!("{count} nodes to be Ready"), PATIENCE * 2, async || {
            let instances = fleet.instances();
            Ok(instances.iter().filter(|instance| instance.is_ready()).count() == count)
        })
        .await
}

/// Every row of a table, in DynamoDB's own JSON.
///
/// # Errors
/// When there is no such table.
pub fn rows(fleet: &Fleet, table: &str) -> anyhow::Result<Vec<Value>> {
    fleet.cloud().rows(table)
}

/// One row of [`CLUSTER`] in the table `skep`, whichever partition it is in.
///
/// # Errors
/// When there is no such table.
pub fn row(fleet: &Fleet, item: &str) -> anyhow::Result<Option<Value>> {
    let is_it = |row: &Value| {
        let partition = row["cluster"]["S"].as_str().and_then(|it| it.split('#').next());
        partition == Some(CLUSTER) && row["item"]["S"] == item
    };
    Ok(rows(fleet, "skep")?.into_iter().find(is_it))
}

/// Puts a row unchanged.
///
/// # Errors
/// When DynamoDB refuses.
pub fn put_row(fleet: &Fleet, table: &str, row: &Value) -> anyhow::Result<()> {
    fleet.cloud().put_row(table, row)
}

/// Runs the `aws` command line as an operator, and returns its JSON.
///
/// # Errors
/// When it fails: its error output.
pub async fn aws(fleet: &Fleet, arguments: &[&str]) -> anyhow::Result<Value> {
    aws_at(&fleet.endpoint(), arguments).await
}

/// Runs the `aws` command line with another endpoint, and returns its JSON.
///
/// # Errors
/// When it fails: its error output.
pub async fn aws_at(endpoint: &str, arguments: &[&str]) -> anyhow::Result<Value> {
    let program = std::env::var_os("AWS_CLI").unwrap_or_else(|| "aws".into());
    let Output { status, stdout, stderr } = tokio::process::Command::new(program)
        .args(arguments)
        .args(["--output", "json"])
        .env("AWS_ENDPOINT_URL", endpoint)
        .env("AWS_ACCESS_KEY_ID", "AKIAOPERATOR00000000")
        .env("AWS_SECRET_ACCESS_KEY", "not-verified")
        .env_remove("AWS_SESSION_TOKEN")
        .env("AWS_DEFAULT_REGION", "eu-central-1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .env("AWS_PAGER", "")
        .output()
        .await
        .context("cannot run the aws command line: `make setup` installs it")?;
    ensure!(status.success(), "aws {}: {}", arguments[..2].join(" "), String::from_utf8(stderr)?);
    if stdout.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    Ok(serde_json::from_slice(&stdout)?)
}

/// The signals that CloudFormation received about an instance, in order.
#[must_use]
pub fn signals(fleet: &Fleet, instance: &Instance) -> Vec<String> {
    let events = fleet.cloud().events_since(0).into_iter();
    let signal = |kind| match kind {
        EventKind::Signalled { unique_id, status, .. } if unique_id == instance.id() => {
            Some(status)
        }
        _ => None,
    };
    events.filter_map(|event| signal(event.kind)).collect()
}

/// Every result with which an instance's launch hook was completed.
#[must_use]
pub fn launch_results(fleet: &Fleet, instance: &Instance) -> Vec<ActionResult> {
    let events = fleet.cloud().events_since(0).into_iter();
    let result = |kind| match kind {
        EventKind::HookCompleted { instance_id, hook, result }
            if instance_id == instance.id() && hook == LAUNCH_HOOK =>
        {
            Some(result)
        }
        _ => None,
    };
    events.filter_map(|event| result(event.kind)).collect()
}

/// A node whose skep has ended without joining the swarm.
pub struct Failure<'a> {
    fleet: &'a Fleet,
    pub instance: Arc<Instance>,
    pub exit: Exit,
}

impl<'a> Failure<'a> {
    /// Waits for the end of skep on the first instance of a group.
    ///
    /// # Errors
    /// When it still runs.
    pub async fn of(fleet: &'a Fleet, group: &str) -> anyhow::Result<Failure<'a>> {
        Self::of_instance(fleet, first_of(fleet, group).await?).await
    }

    /// Waits for the end of skep on an instance.
    ///
    /// # Errors
    /// When it still runs.
    pub async fn of_instance(
        fleet: &'a Fleet,
        instance: Arc<Instance>,
    ) -> anyhow::Result<Failure<'a>> {
        let group = &instance.launch().group;
        let what = format!("the end of skep on {} of {group}", instance.id());
        let exit =
            fleet.wait_for(&what, PATIENCE, async || Ok(instance.exits().first().copied())).await?;
        Ok(Failure { fleet, instance, exit })
    }

    /// The lines that report errors.
    #[must_use]
    pub fn errors(&self) -> Vec<String> {
        let log = self.instance.log();
        let tells = |line: &&str| line.contains(" ERROR ") || line.starts_with("skep: ");
        log.lines().filter(tells).map(str::to_owned).collect()
    }

    fn fails(&self, what: &str) -> anyhow::Error {
        let Failure { instance, exit, .. } = self;
        let (group, log) = (&instance.launch().group, instance.log());
        anyhow::anyhow!("{} of {group} ({exit}): {what}; its log:\n{log}", instance.id())
    }

    /// Checks that skep ended with this code, and that its last error, a single line, contains all these texts.
    ///
    /// # Errors
    /// When one of these is not true.
    pub fn says(&self, code: i32, words: &[&str]) -> anyhow::Result<()> {
        ensure!(self.exit == Exit::Code(code), self.fails(&format!("expected exit code {code}")));
        let errors = self.errors();
        let Some(last) = errors.last() else { bail!(self.fails("it reports no error")) };
        let missing: Vec<_> = words.iter().filter(|word| !last.contains(**word)).collect();
        ensure!(missing.is_empty(), self.fails(&format!("{missing:?} missing in: {last}")));
        ensure!(!last.contains(": retrying"), self.fails("it announces a retry"));
        Ok(())
    }

    /// [`Failure::says`], and that this is the only error.
    ///
    /// # Errors
    /// When one of these is not true.
    pub fn says_only(&self, code: i32, words: &[&str]) -> anyhow::Result<()> {
        self.says(code, words)?;
        ensure!(self.errors().len() == 1, self.fails("it reports more than one error"));
        Ok(())
    }

    /// Checks that CloudFormation and Auto Scaling received the failure, once each, and nothing else.
    ///
    /// # Errors
    /// When one of these is not true.
    pub fn is_known(&self) -> anyhow::Result<()> {
        let signals = signals(self.fleet, &self.instance);
        ensure!(signals == ["FAILURE"], self.fails(&format!("CloudFormation heard {signals:?}")));
        let results = launch_results(self.fleet, &self.instance);
        ensure!(
            results == [ActionResult::Abandon],
            self.fails(&format!("the launch hook got {results:?}"))
        );
        Ok(())
    }

    /// Checks that neither service received anything.
    ///
    /// # Errors
    /// When one of them did.
    pub fn is_unknown(&self) -> anyhow::Result<()> {
        let heard =
            (signals(self.fleet, &self.instance), launch_results(self.fleet, &self.instance));
        ensure!(heard.0.is_empty() && heard.1.is_empty(), self.fails(&format!("AWS: {heard:?}")));
        Ok(())
    }

    /// Checks that Docker is in no swarm, and that this node does not hold the charter.
    ///
    /// # Errors
    /// When one of these is not true.
    pub async fn has_left_nothing(&self) -> anyhow::Result<()> {
        let id = self.instance.id();
        if let Some(charter) = row(self.fleet, "charter")?.filter(|row| row["founder"]["S"] == id) {
            let lease = charter["lease_expires_at"]["N"].as_str().context("no lease")?;
            ensure!(
                charter["phase"]["S"] == "founding" && lease == "0",
                self.fails(&format!("the charter is still claimed: {charter}"))
            );
        }
        for item in [format!("member#manager#{id}"), format!("member#worker#{id}")] {
            ensure!(row(self.fleet, &item)?.is_none(), self.fails(&format!("{item} is left")));
        }
        if self.instance.dockerd_running() {
            let swarm = self.instance.wait_docker().await?.info().await?.swarm.unwrap_or_default();
            let state = swarm.local_node_state.map(|state| state.to_string()).unwrap_or_default();
            ensure!(
                state == "inactive" || state.is_empty(),
                self.fails(&format!("Docker: {state}"))
            );
        }
        Ok(())
    }
}
