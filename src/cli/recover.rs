//! `skep recover`: re-creates a lost quorum on this manager, which has survived.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use serde_json::Value;
use tokio::time::Instant;

use super::{EXIT_NOTHING_DONE, consent, print};
use crate::api::control::{Client, ClientError, socket_path};
use crate::common::report::{OtherManager, RecoveryPlan, StatusReport};
use crate::config::Settings;

/// Docker takes up to 40 s, and requests to a store that is down are retried.
const RECOVERED_WITHIN: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub struct Arguments {
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print the plan as JSON; without --yes, change nothing and do not ask
    #[arg(long)]
    json: bool,
}

/// Shows the plan, asks for confirmation, starts the recovery, and waits for its end.
///
/// # Errors
/// When no skep runs here, it cannot make a plan, or the recovery does not end in time.
pub async fn ask(arguments: &Arguments, settings: &Settings) -> anyhow::Result<ExitCode> {
    let client = Client::new(socket_path(&settings.runtime_dir));
    if !arguments.json {
        eprintln!("Checking whether a leader answers; this takes 20 s.");
    }
    let is_begun = if arguments.yes {
        true
    } else {
        let plan = said(client.plan_recovery().await)?;
        show(&plan, arguments.json)?;
        if plan.refusal.is_some() {
            return Ok(EXIT_NOTHING_DONE.into());
        }
        if arguments.json {
            return Ok(ExitCode::SUCCESS);
        }
        consent::is_confirmed("recover", "recover")?
    };
    if !is_begun {
        eprintln!("skep: nothing was done");
        return Ok(EXIT_NOTHING_DONE.into());
    }
    // skep makes the plan again, so that changes in the meantime count.
    let plan = said(client.recover().await)?;
    if arguments.yes {
        show(&plan, arguments.json)?;
    } else if let Some(refusal) = &plan.refusal {
        eprintln!("skep: nothing was done: {refusal}");
    }
    if plan.refusal.is_some() {
        return Ok(EXIT_NOTHING_DONE.into());
    }
    follow(&client, plan.generation + 1).await?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the plan, or the reason of a refusal, which is a complete message.
fn said(answer: Result<RecoveryPlan, ClientError>) -> anyhow::Result<RecoveryPlan> {
    match answer {
        Err(ClientError::Refused { why, .. }) => bail!(why),
        answer => Ok(answer?),
    }
}

fn show(plan: &RecoveryPlan, json: bool) -> anyhow::Result<()> {
    let text = if json { format!("{:#}\n", serde_json::to_value(plan)?) } else { text(plan) };
    Ok(print::to_stdout(&text)?)
}

fn text(plan: &RecoveryPlan) -> String {
    let swarm = plan.swarm_id.as_deref().unwrap_or("none");
    let about = [
        ["cluster", &*format!("{}, generation {}: swarm {swarm}", plan.cluster, plan.generation)],
        ["this node", &*plan.instance_id],
    ];
    let mut text = print::table(&about.map(|row| row.map(String::from)));
    if !plan.managers.is_empty() {
        let headings = ["OTHER MANAGER", "ADDRESS", "AUTO SCALING", "PORT 2377", "LEDGER"];
        let rows: Vec<_> = std::iter::once(headings.map(String::from))
            .chain(plan.managers.iter().map(row))
            .collect();
        text.push_str(&format!("\n{}", print::table(&rows)));
    }
    if let Some(refusal) = &plan.refusal {
        text.push_str(&format!("\nNot possible now: {refusal}\n"));
        return text;
    }
    for (title, sentences) in [("What is done", &plan.steps), ("What it costs", &plan.costs)] {
        text.push_str(&format!("\n{title}:\n"));
        for sentence in sentences {
            text.push_str(&format!("  - {sentence}\n"));
        }
    }
    text
}

fn row(manager: &OtherManager) -> [String; 5] {
    [
        manager.instance_id.clone(),
        manager.address.to_string(),
        manager.auto_scaling.clone().unwrap_or_else(|| "no answer".into()),
        if manager.listens { "answers" } else { "silent" }.into(),
        format!("{} s ago", manager.seen_seconds_ago),
    ]
}

/// Prints what the node does until it is a member of that generation.
async fn follow(client: &Client, generation: u64) -> anyhow::Result<()> {
    let end = Instant::now() + RECOVERED_WITHIN;
    let mut told = String::new();
    while Instant::now() < end {
        // A skep that is restarted during the recovery continues; it does not answer for a moment.
        if let Ok(report) = client.status::<Value>().await {
            let StatusReport { node, .. } = report;
            if node["membership"]["generation"] == generation {
                eprintln!(
                    "Recovered: generation {generation}. Replacements and workers join next; see `skep status`."
                );
                return Ok(());
            }
            let doing = node["doing"].as_str().unwrap_or_default();
            if doing != told && !doing.is_empty() {
                eprintln!("{doing}");
                doing.clone_into(&mut told);
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bail!(
        "not recovered within {RECOVERED_WITHIN:?}; last status: {told}; this node continues by itself, see `skep status` and its log"
    )
}
