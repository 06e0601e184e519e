//! `skep adopt`: takes over a swarm that exists and that skep did not found.

use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use secrecy::SecretString;

use super::this_node::this_node;
use super::{EXIT_NOTHING_DONE, consent, print};
use crate::clients::secrets::JoinToken;
use crate::common::report::{AdoptedNode, AdoptionPlan};
use crate::config::Settings;
use crate::lifecycle::adopt::{self, Entrance};
use crate::node::Node;

/// The path that stands for standard input.
const STDIN: &str = "-";
/// What an operator must know after a join that no adoption followed.
const STILL_MANAGER: &str = "This node is a manager of the swarm: run `skep adopt` again without --join; or take it out, with `docker node demote` on another manager and `docker swarm leave` here";
/// A token has fewer bytes than this.
const LARGEST_TOKEN: u64 = 1024;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print the plan as JSON; without --yes, change nothing and do not ask
    #[arg(long)]
    json: bool,
    /// First join the swarm as a manager: for nodes on which nothing can be installed
    #[arg(long, requires = "manager", requires = "token_file")]
    join: bool,
    /// Private address of a manager of the swarm
    #[arg(long, value_name = "ADDRESS", requires = "join")]
    manager: Option<IpAddr>,
    /// File with the join token of managers; - is standard input
    #[arg(long, value_name = "FILE", requires = "join")]
    token_file: Option<PathBuf>,
}

/// Joins if that is wanted, shows the plan, asks for confirmation, and adopts the swarm.
///
/// # Errors
/// When the metadata, Docker, the ledger or the token store fails, or the token cannot be read.
pub async fn ask(arguments: &Arguments, settings: &Settings) -> anyhow::Result<ExitCode> {
    if arguments.join && arguments.json && !arguments.yes {
        eprintln!("skep: --join with --json needs --yes: the plan is only known after the join");
        return nothing_done();
    }
    let node = this_node(settings).await?;
    if let Some((manager, token_file)) = arguments.manager.zip(arguments.token_file.as_deref()) {
        let entrance = Entrance { manager, token: read_token(token_file)? };
        if !arguments.yes && !may_join(&node, manager)? {
            return nothing_done();
        }
        eprintln!("Joining the swarm of {manager} as a manager.");
        if let Err(refusal) = adopt::join(&node, &entrance).await? {
            eprintln!("skep: {refusal}");
            return Ok(EXIT_NOTHING_DONE.into());
        }
        eprintln!("Joined: this node is a manager of that swarm now.");
    }
    let adopted = adopt(&node, arguments).await;
    if arguments.join && adopted.is_err() {
        eprintln!("skep: {STILL_MANAGER}");
    }
    adopted
}

async fn adopt(node: &Node, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let is_joined = arguments.join;
    if !arguments.yes {
        let plan = adopt::look(node).await?;
        show(&plan, arguments.json)?;
        if plan.refusal.is_some() {
            return refused(is_joined);
        }
        if arguments.json {
            return Ok(ExitCode::SUCCESS);
        }
        if !consent::is_confirmed("adopt", "adopt")? {
            return refused(is_joined);
        }
    }
    // The plan is made again, so that changes in the meantime count.
    let plan = adopt::carry_out(node).await?;
    if arguments.yes {
        show(&plan, arguments.json)?;
    } else if let Some(refusal) = &plan.refusal {
        eprintln!("skep: nothing was written: {refusal}");
    }
    if plan.refusal.is_some() {
        return refused(is_joined);
    }
    eprintln!(
        "Adopted: the swarm is generation {} of {}. Start skep here and on its other nodes: `systemctl enable --now skep`; see `skep status`.",
        plan.generation.unwrap_or_default(),
        plan.cluster
    );
    Ok(ExitCode::SUCCESS)
}

fn nothing_done() -> anyhow::Result<ExitCode> {
    eprintln!("skep: nothing was done");
    Ok(EXIT_NOTHING_DONE.into())
}

fn refused(is_joined: bool) -> anyhow::Result<ExitCode> {
    if !is_joined {
        return nothing_done();
    }
    eprintln!("skep: the swarm was not adopted. {STILL_MANAGER}");
    Ok(EXIT_NOTHING_DONE.into())
}

/// Reads a token. No error contains any part of it.
fn read_token(file: &Path) -> anyhow::Result<JoinToken> {
    let mut text = String::new();
    let read = if file == Path::new(STDIN) {
        std::io::stdin().lock().take(LARGEST_TOKEN).read_to_string(&mut text)
    } else {
        let opened = std::fs::File::open(file);
        opened.and_then(|opened| opened.take(LARGEST_TOKEN).read_to_string(&mut text))
    };
    let place =
        if file == Path::new(STDIN) { "standard input".into() } else { file.display().to_string() };
    read.with_context(|| format!("cannot read the join token from {place}"))?;
    let token = JoinToken::parse(SecretString::from(text));
    token.with_context(|| format!("{place} holds no join token"))
}

fn may_join(node: &Node, manager: IpAddr) -> anyhow::Result<bool> {
    eprintln!(
        "{} joins the swarm of {manager} as a manager, at {}: raft has one member more from then on.\nWhat adopting it would write is shown after that, and asked again.",
        node.instance.id, node.address
    );
    Ok(consent::is_confirmed("adopt", "join")?)
}

fn show(plan: &AdoptionPlan, json: bool) -> anyhow::Result<()> {
    let text = if json { format!("{:#}\n", serde_json::to_value(plan)?) } else { text(plan) };
    Ok(print::to_stdout(&text)?)
}

fn text(plan: &AdoptionPlan) -> String {
    let about = [
        ["cluster", &*plan.cluster],
        ["swarm", plan.swarm_id.as_deref().unwrap_or("none that answers here")],
        ["this node", &*plan.instance_id],
    ];
    let mut text = print::table(&about.map(|row| row.map(String::from)));
    if !plan.nodes.is_empty() {
        let headings = ["NODE", "ROLE", "BY TAGS", "STATE", "ADDRESS", "INSTANCE", "GROUP"];
        let rows: Vec<_> =
            std::iter::once(headings.map(String::from)).chain(plan.nodes.iter().map(row)).collect();
        text.push_str(&format!("\n{}", print::table(&rows)));
    }
    for (title, blocks) in [("Must be resolved first", true), ("Worth a look", false)] {
        let mut found = plan.conflicts.iter().filter(|it| it.blocks == blocks).peekable();
        if found.peek().is_some() {
            text.push_str(&format!("\n{title}:\n"));
        }
        for it in found {
            text.push_str(&format!("  - {}: {}\n    {}\n", it.subject, it.what, it.remedy));
        }
    }
    if let Some(refusal) = &plan.refusal {
        text.push_str(&format!("\nNot possible now: {refusal}\n"));
        return text;
    }
    text.push_str("\nWhat is done:\n");
    for step in &plan.steps {
        text.push_str(&format!("  - {step}\n"));
    }
    text
}

fn row(node: &AdoptedNode) -> [String; 7] {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    [
        if node.hostname.is_empty() { node.node_id.clone() } else { node.hostname.clone() },
        node.role.to_string(),
        or_none(node.role_by_tags.map(|role| role.to_string())),
        node.state.clone(),
        or_none(node.address.clone()),
        or_none(node.instance_id.clone()),
        or_none(node.group.clone()),
    ]
}
