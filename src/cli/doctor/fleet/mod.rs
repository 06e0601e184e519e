//! `skep doctor --fleet`: collects on a manager the findings of every node.
//!
//! Guarantees: a node whose findings are not known is never shown as ok; the answers of other nodes are limited in time,
//! size and characters. They are unproven: a node shows what its skep says, or whoever has taken over that node.

mod ask;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::bail;
use futures_util::StreamExt as _;
use futures_util::stream;
use serde::Serialize;
use serde_json::json;

use super::{EXIT_WARNINGS, lines_of};
use crate::api::control::{Client, socket_path};
use crate::cli::view::Node;
use crate::cli::{draw, print};
use crate::common::instance::Role;
use crate::common::report::{FleetMember, FleetView, StatusReport};
use crate::config::Settings;
use crate::doctor::{Finding, Verdict, examine};
use crate::telemetry::logging::wants_colour;

use ask::{Answer, Told, ask};

/// Nodes that are asked at the same time: each one's checks make about 30 calls to AWS, some of them of APIs whose limits
/// the whole account shares.
const AT_A_TIME: usize = 16;
/// The judgement of a node, ordered from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum NodeVerdict {
    Ok,
    CannotTell,
    Warning,
    Failed,
}

struct Examined {
    member: FleetMember,
    is_this_node: bool,
    answer: Answer,
}

impl Examined {
    fn verdict(&self) -> NodeVerdict {
        let Ok(told) = &self.answer else { return NodeVerdict::CannotTell };
        match told.findings.iter().map(|finding| finding.verdict).max() {
            Some(Verdict::Ok | Verdict::Skipped) => NodeVerdict::Ok,
            Some(Verdict::Warning) => NodeVerdict::Warning,
            Some(Verdict::Failed) => NodeVerdict::Failed,
            // No skep has no findings.
            None => NodeVerdict::CannotTell,
        }
    }
}

/// Prints the findings of every node; the worst node decides the exit code.
///
/// # Errors
/// When no skep answers here, this node is not a manager, or standard output cannot be written.
pub async fn examine_and_print(json: bool, settings: &Settings) -> anyhow::Result<ExitCode> {
    let client = Client::new(socket_path(&settings.runtime_dir));
    let StatusReport { node, fleet } = client.status::<Node>().await?;
    let Some(fleet) = fleet else {
        bail!("this node is not a manager of a swarm: run `skep doctor --fleet` on a manager");
    };
    let own = node.membership.map(|member| member.node_id);
    if !json && draw::terminal().is_some() {
        eprintln!("Asking {} nodes; this takes up to two minutes.", fleet.members.len());
    }
    let examined = ask_all(&fleet, own.as_deref(), settings).await;
    let problem = fleet.problem.as_deref();
    print::to_stdout(&if json {
        format!("{:#}\n", report(&examined, problem))
    } else {
        let width = draw::terminal().map(|(width, _)| width);
        text(&examined, problem, width, wants_colour(&std::io::stdout()))
    })?;
    Ok(match worst(&examined, problem) {
        NodeVerdict::Ok => ExitCode::SUCCESS,
        NodeVerdict::CannotTell | NodeVerdict::Warning => EXIT_WARNINGS.into(),
        NodeVerdict::Failed => ExitCode::FAILURE,
    })
}

/// Returns the worst verdict. A view that lacks nodes leaves it open whether these are well.
fn worst(examined: &[Examined], problem: Option<&str>) -> NodeVerdict {
    let unseen = (problem.is_some() || examined.is_empty()).then_some(NodeVerdict::CannotTell);
    examined.iter().map(Examined::verdict).chain(unseen).max().unwrap_or(NodeVerdict::CannotTell)
}

async fn ask_all(fleet: &FleetView, own: Option<&str>, settings: &Settings) -> Vec<Examined> {
    // All nodes of a cluster have the same health port.
    let port = settings.health.listen.port();
    let asked = fleet.members.iter().enumerate().map(|(at, member)| async move {
        let is_this_node = own.is_some() && member.node_id.as_deref() == own;
        let answer = if is_this_node {
            // On the heap: every node's future would have its size.
            let findings = Box::pin(examine(settings)).await;
            Ok(Told { findings, age_seconds: 0 })
        } else {
            ask(member, port).await
        };
        (at, Examined { member: member.clone(), is_this_node, answer })
    });
    // In the order of the members, whichever answers first.
    let examined: BTreeMap<usize, Examined> =
        stream::iter(asked).buffer_unordered(AT_A_TIME).collect().await;
    examined.into_values().collect()
}

fn report(examined: &[Examined], problem: Option<&str>) -> serde_json::Value {
    let node = |it: &Examined| {
        let told = it.answer.as_ref().ok();
        json!({
            "instance_id": it.member.instance_id,
            "node_id": it.member.node_id,
            "role": it.member.role,
            "address": it.member.address,
            "verdict": it.verdict(),
            "why": it.answer.as_ref().err(),
            "age_seconds": told.map(|told| told.age_seconds),
            "findings": told.map(|told| &told.findings),
        })
    };
    json!({
        "worst": worst(examined, problem),
        "problem": problem,
        "nodes": examined.iter().map(node).collect::<Vec<_>>(),
    })
}

/// Returns a paragraph for each node: what is wrong with it, with the remedies.
fn text(
    examined: &[Examined],
    problem: Option<&str>,
    width: Option<usize>,
    colour: bool,
) -> String {
    let mut lines = Vec::new();
    for it in examined {
        let name = name(&it.member, it.is_this_node);
        let (summary, bad) = match &it.answer {
            Err(why) => (format!("cannot tell: {why}"), vec![]),
            Ok(told) => {
                let is_bad = |it: &&Finding| it.verdict >= Verdict::Warning;
                let bad: Vec<Finding> = told.findings.iter().filter(is_bad).cloned().collect();
                (summary(&told.findings), bad)
            }
        };
        lines.extend(draw::wrap("", &format!("{name}: {summary}"), width));
        for line in lines_of(&bad, width.map(|width| width.saturating_sub(2)), colour) {
            lines.push(format!("  {line}"));
        }
    }
    if let Some(problem) = problem {
        lines.push(String::new());
        lines.extend(draw::wrap("", &format!("Not the whole fleet: {problem}"), width));
    }
    let count = |verdict| examined.iter().filter(|it| it.verdict() == verdict).count();
    lines.push(String::new());
    lines.push(format!(
        "{} ok, {} with warnings, {} with failures, {} cannot tell",
        count(NodeVerdict::Ok),
        count(NodeVerdict::Warning),
        count(NodeVerdict::Failed),
        count(NodeVerdict::CannotTell)
    ));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// `i-0abc (manager, 10.0.0.1, this node)`
fn name(member: &FleetMember, is_this_node: bool) -> String {
    let id = member.instance_id.as_ref().or(member.node_id.as_ref());
    let role = match member.role {
        Role::Manager => "manager",
        Role::Worker => "worker",
    };
    let address = member.address.map(|address| format!(", {address}")).unwrap_or_default();
    let own = if is_this_node { ", this node" } else { "" };
    format!("{} ({role}{address}{own})", id.map_or("-", String::as_str))
}

/// `ok`, or `1 warning, 2 failed`.
fn summary(findings: &[Finding]) -> String {
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let counted = [(count(Verdict::Warning), "warning"), (count(Verdict::Failed), "failed")];
    let counted: Vec<String> = counted
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| {
            let plural = if *what == "warning" && *count > 1 { "s" } else { "" };
            format!("{count} {what}{plural}")
        })
        .collect();
    match counted.as_slice() {
        [] if findings.is_empty() => "cannot tell: its answer has no findings".to_owned(),
        [] => "ok".to_owned(),
        counted => counted.join(", "),
    }
}
