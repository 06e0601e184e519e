//! `skep restore`: shows what a backup has and the swarm has not, and creates it.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::this_node::this_node;
use super::{EXIT_NOTHING_DONE, consent, print};
use crate::clients::docker::SwarmErrorKind;
use crate::clients::ledger::{Restoration, RestorationState};
use crate::config::Settings;
use crate::manager::backup::{BackupError, Snapshot, Store};
use crate::manager::restore::{Done, Note, Plan, Step, after, apply, choose, plan, present};
use crate::node::Node;

/// Everything was done that can be done, and something waits or was left out.
const EXIT_INCOMPLETE: u8 = 4;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Restore this backup, by its key or the key's last part
    #[arg(long, value_name = "KEY")]
    from: Option<String>,
    /// List the backups, newest first, and change nothing
    #[arg(long, conflicts_with_all = ["from", "yes"])]
    list: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print JSON; without --yes, change nothing and do not ask
    #[arg(long)]
    json: bool,
}

/// The plan as it is printed: names alone, because specs hold environment variables.
#[derive(Serialize)]
struct View<'a> {
    backup: &'a str,
    cluster: &'a str,
    generation: u64,
    #[serde(with = "time::serde::rfc3339")]
    taken_at: OffsetDateTime,
    create: Vec<[String; 2]>,
    waiting: Vec<WaitingView<'a>>,
    missing_secrets: &'a [String],
    left_out: Vec<[&'a str; 3]>,
    existing: Vec<[&'a str; 3]>,
    remarks: Vec<[&'a str; 3]>,
}

#[derive(Serialize)]
struct WaitingView<'a> {
    service: &'a str,
    secrets: &'a [String],
}

/// A backup in the list.
#[derive(Serialize)]
struct Listed {
    key: String,
    generation: u64,
    #[serde(with = "time::serde::rfc3339")]
    taken_at: OffsetDateTime,
}

/// Shows the plan, asks for confirmation, and carries it out.
///
/// # Errors
/// When the metadata, Docker, S3 or the ledger do not answer; what was created until then stays.
pub async fn ask(arguments: &Arguments, settings: &Settings) -> anyhow::Result<ExitCode> {
    let node = this_node(settings).await?;
    let Some(store) = Store::of(&node) else {
        return Ok(refuse("backup.to is not set: skep has stored no backup"));
    };
    if arguments.list {
        return list(&store, arguments.json).await;
    }
    let local = node.swarm.fetch_local_node().await?;
    if !local.is_manager {
        return Ok(refuse("this node is not a manager of a swarm"));
    }
    let cluster = match node.swarm.fetch_cluster().await {
        Err(error) if error.kind == SwarmErrorKind::NoLeader => {
            return Ok(refuse("the swarm has no leader; see `skep recover`"));
        }
        cluster => cluster?,
    };
    let Some(generation) = cluster.generation() else {
        return Ok(refuse("no skep has founded this swarm: it has no label skep.generation"));
    };
    let charter = node.ledger.fetch_charter().await?;
    if charter.as_ref().is_none_or(|charter| charter.swarm_id.as_ref() != Some(&cluster.id)) {
        return Ok(refuse("the charter does not name this swarm; see `skep status`"));
    }
    let recorded = node.ledger.fetch_restoration(generation).await?;
    let (key, snapshot) = match find(arguments, &store, &node, &cluster.id, recorded.as_ref()).await
    {
        Ok(found) => found,
        Err(Refusal::Why(why)) => return Ok(refuse(&why)),
        Err(Refusal::Failed(error)) => return Err(error),
    };
    let here = present(&node.swarm).await?;
    let plan = plan(&snapshot.content, &here);
    show(&plan, &key, &snapshot, arguments.json)?;
    if plan.steps.is_empty() {
        return Ok(end_of(&plan, 0));
    }
    if arguments.json && !arguments.yes {
        return Ok(ExitCode::SUCCESS);
    }
    if !arguments.yes && !consent::is_confirmed("restore", "restore")? {
        return Ok(refuse("it was not confirmed"));
    }
    carry_out(&node, generation, recorded.as_ref(), &key, &plan).await
}

/// Why there is no backup to restore.
enum Refusal {
    Why(String),
    Failed(anyhow::Error),
}

impl From<BackupError> for Refusal {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Newer { .. }
            | BackupError::Unreadable { .. }
            | BackupError::OtherCluster { .. }
            | BackupError::Missing { .. } => Self::Why(error.to_string()),
            error => Self::Failed(error.into()),
        }
    }
}

async fn find(
    arguments: &Arguments,
    store: &Store,
    node: &Node,
    swarm_id: &str,
    recorded: Option<&Restoration>,
) -> Result<(String, Snapshot), Refusal> {
    let keys = store.list().await?;
    let key = match &arguments.from {
        Some(named) => {
            let key = store.key_of(named).map_err(Refusal::Why)?;
            // Where IAM does not allow to list the whole bucket, S3 answers for an object that does not exist that the
            // access is denied.
            if !keys.iter().any(|it| it.text == key) {
                return Err(Refusal::Why(format!("there is no backup {key}; see --list")));
            }
            key
        }
        None => {
            let services = node.swarm.fetch_services().await.map_err(BackupError::from)?;
            let chosen = choose(&keys, recorded, swarm_id, !services.is_empty());
            let missing = || BackupError::Missing { place: store.place().to_owned() };
            chosen.ok_or_else(missing)?.text.clone()
        }
    };
    let snapshot = store.get(&key).await?;
    Ok((key, snapshot))
}

async fn carry_out(
    node: &Node,
    generation: u64,
    recorded: Option<&Restoration>,
    key: &str,
    plan: &Plan,
) -> anyhow::Result<ExitCode> {
    let mut refused = BTreeSet::new();
    let applied = apply(&node.swarm, plan, |step, done| {
        let what = step.object();
        match done {
            Done::Created => eprintln!("created {what}"),
            Done::Existed => eprintln!("{what} exists by now"),
            Done::Refused(why) => {
                eprintln!("skep: {what} was not created: {why}");
                refused.insert(what);
            }
        }
    });
    let failed = applied
        .await
        .context("the restore stopped half-way; run the same command again to continue")?;
    let row = Restoration {
        generation,
        state: RestorationState::Begun,
        backup: Some(key.to_owned()),
        by: node.instance.id.clone(),
        begun_at: OffsetDateTime::now_utc(),
        pending: BTreeSet::new(),
    };
    // Only now: a command that was stopped must not be continued by the leader.
    if !node.ledger.record_restoration(recorded, &after(plan, &refused, &row)).await? {
        eprintln!("skep: the leader restores from a backup, too; see `skep status` there");
    }
    Ok(end_of(plan, failed))
}

/// Prints what is left to do, and returns the exit code.
fn end_of(plan: &Plan, failed: usize) -> ExitCode {
    for waiting in &plan.waiting {
        let secrets = waiting.secrets.join(", ");
        eprintln!(
            "service {} waits for the secret {secrets}: create it, and run the same command again",
            waiting.service
        );
    }
    if failed > 0 {
        eprintln!("skep: {failed} of {} objects were not created", plan.steps.len());
        return ExitCode::FAILURE;
    }
    if plan.is_incomplete() { EXIT_INCOMPLETE.into() } else { ExitCode::SUCCESS }
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("skep: nothing was done: {why}");
    EXIT_NOTHING_DONE.into()
}

async fn list(store: &Store, json: bool) -> anyhow::Result<ExitCode> {
    let keys = store.list().await?;
    let listed: Vec<Listed> = keys
        .into_iter()
        .rev()
        .map(|key| Listed { key: key.text, generation: key.generation, taken_at: key.at })
        .collect();
    if json {
        print::to_stdout(&format!("{:#}\n", serde_json::to_value(&listed)?))?;
    } else if listed.is_empty() {
        eprintln!("there is no backup in {}", store.place());
    } else {
        let headings = ["TAKEN AT", "GENERATION", "KEY"].map(String::from);
        let row = |it: &Listed| {
            [
                it.taken_at.format(&Rfc3339).unwrap_or_default(),
                it.generation.to_string(),
                it.key.clone(),
            ]
        };
        let rows: Vec<_> = std::iter::once(headings).chain(listed.iter().map(row)).collect();
        print::to_stdout(&print::table(&rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(plan: &Plan, key: &str, snapshot: &Snapshot, json: bool) -> anyhow::Result<()> {
    let text = match json {
        true => format!("{:#}\n", serde_json::to_value(view(plan, key, snapshot))?),
        false => text(plan, key, snapshot),
    };
    Ok(print::to_stdout(&text)?)
}

fn view<'a>(plan: &'a Plan, key: &'a str, snapshot: &'a Snapshot) -> View<'a> {
    let notes = |notes: &'a [Note]| {
        notes.iter().map(|note| [note.kind, &*note.name, &*note.text]).collect::<Vec<_>>()
    };
    View {
        backup: key,
        cluster: &snapshot.cluster,
        generation: snapshot.generation,
        taken_at: snapshot.taken_at,
        create: plan.steps.iter().map(|step| [step.kind().to_owned(), step.name()]).collect(),
        waiting: plan
            .waiting
            .iter()
            .map(|it| WaitingView { service: &it.service, secrets: &it.secrets })
            .collect(),
        missing_secrets: &plan.missing_secrets,
        left_out: notes(&plan.left_out),
        existing: notes(&plan.existing),
        remarks: notes(&plan.remarks),
    }
}

fn text(plan: &Plan, key: &str, snapshot: &Snapshot) -> String {
    let taken_at = snapshot.taken_at.format(&Rfc3339).unwrap_or_default();
    let about = [
        ["backup".to_owned(), key.to_owned()],
        ["taken at".to_owned(), format!("{taken_at}, of generation {}", snapshot.generation)],
    ];
    let mut text = print::table(&about);
    let mut part = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            text.push_str(&format!("\n{title}:\n"));
            lines.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
        }
    };
    let notes = |notes: &[Note]| {
        let line = |note: &Note| format!("{}: {}", note.object(), note.text);
        notes.iter().map(line).collect::<Vec<_>>()
    };
    part("To be created", plan.steps.iter().map(Step::object).collect());
    part("Note", notes(&plan.remarks));
    let waiting =
        plan.waiting.iter().map(|it| format!("{}: {}", it.service, it.secrets.join(", ")));
    part("Services that wait for secrets", waiting.collect());
    part("Secrets that no backup holds; create them", plan.missing_secrets.clone());
    part("Left out", notes(&plan.left_out));
    part("Left alone", notes(&plan.existing));
    if plan.steps.is_empty() {
        text.push_str("\nNothing is to be created.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clients::docker::NodeView;
    use crate::common::instance::Role;
    use crate::manager::backup::{Content, FORMAT};
    use crate::manager::restore::Present;

    #[test]
    fn what_is_printed_names_objects_and_quotes_no_spec() {
        let container = json!({
            "Env": ["PASSWORD=hunter2"], "Mounts": [{ "Type": "volume" }],
        });
        let template = json!({ "ContainerSpec": container });
        let waits = json!({ "ContainerSpec": { "Secrets": [{ "SecretName": "key" }] } });
        let content = Content {
            services: vec![
                json!({ "Name": "api", "TaskTemplate": waits }),
                json!({ "Name": "db", "Mode": { "Replicated": {} }, "TaskTemplate": template }),
                json!({ "Name": "job", "Mode": { "ReplicatedJob": {} } }),
            ],
            configs: vec![json!({ "Name": "conf", "Data": "aHVudGVyMg==" })],
            secrets: vec![json!({ "Name": "key" })],
            ..Content::default()
        };
        let (format, cluster, swarm_id) = (FORMAT, "prod".to_owned(), "s1".to_owned());
        let taken_at = OffsetDateTime::UNIX_EPOCH;
        let snapshot = Snapshot { format, cluster, swarm_id, generation: 1, taken_at, content };
        let nodes = vec![NodeView::example("n1", Role::Worker)];
        let plan = plan(&snapshot.content, &Present { content: Content::default(), nodes });
        let text = text(&plan, "skep/prod/k.json", &snapshot);
        assert_eq!(
            text,
            "\
backup    skep/prod/k.json
taken at  1970-01-01T00:00:00Z, of generation 1

To be created:
  config conf
  service db

Note:
  service db: it has volumes or bind mounts, so it comes back with 0 replicas; it had 1

Services that wait for secrets:
  api: key

Secrets that no backup holds; create them:
  key

Left out:
  service job: it is a job, and jobs are never started
"
        );
        let json = serde_json::to_value(view(&plan, "k", &snapshot)).unwrap();
        assert_eq!(json["create"], json!([["config", "conf"], ["service", "db"]]));
        assert_eq!(json["waiting"], json!([{ "service": "api", "secrets": ["key"] }]));
        let all = json.to_string();
        assert!(!all.contains("hunter2") && !all.contains("aHVudGVyMg"), "{all}");
    }
}
