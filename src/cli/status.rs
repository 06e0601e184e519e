//! `skep status`: shows this node, its swarm, what it does and waits for; on a manager, also the fleet.

#[cfg(test)]
mod tests;

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;
use time::OffsetDateTime;

use super::print;
use super::view::{Node, leaving, span};
use crate::api::control::{Client, socket_path};
use crate::common::flush_result::{FlushResult, Outcome};
use crate::common::report::{FleetMember, FleetView, QuorumView, StatusReport};
use crate::common::state::{Phase, in_utc};
use crate::config::Settings;
use crate::telemetry::logging::wants_colour;

/// Stands for an unknown value.
const UNKNOWN: &str = "-";
const NOT_YET: &str = "not known yet";
/// Docker's state of a node that the managers have not received a heartbeat from.
const UNHEARD_OF: &str = "unknown";

#[derive(Debug, Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Keep showing: redrawn on a terminal, one line per change in a pipe
    #[arg(long)]
    pub(super) watch: bool,
}

/// Prints the status that the skep on this host reports.
///
/// # Errors
/// When none runs or it does not answer, or standard output cannot be written.
pub async fn print(arguments: &Arguments, settings: &Settings) -> anyhow::Result<ExitCode> {
    let client = Client::new(socket_path(&settings.runtime_dir));
    print::to_stdout(&if arguments.json {
        let report: StatusReport<Value> = client.status().await?;
        format!("{:#}\n", serde_json::to_value(report)?)
    } else {
        let report = client.status().await?;
        text(&report, OffsetDateTime::now_utc(), wants_colour(&std::io::stdout()))
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn text(report: &StatusReport<Node>, now: OffsetDateTime, colour: bool) -> String {
    let mut text = print::table(&about(&report.node, now, colour));
    if let Some(fleet) = &report.fleet {
        let own = report.node.membership.as_ref().map(|member| member.node_id.as_str());
        text.push('\n');
        text.push_str(&print::table(&rows(fleet, own, now)));
        for member in &fleet.members {
            if let Some(verdict) = &member.verdict {
                text.push_str(&format!("\n{}: {verdict}\n", name(member)));
            }
        }
        if let Some(quorum) = &fleet.quorum {
            text.push_str(&format!("\n{}\n", self::quorum(quorum)));
        }
        for warning in &fleet.warnings {
            text.push_str(&format!("\nwarning: {warning}\n"));
        }
        if let Some(problem) = &fleet.problem {
            text.push_str(&format!("\nNot the whole fleet: {problem}\n"));
        }
    }
    text
}

/// Describes a node without a membership. Before the boot has read Docker's state, Docker may still have the node in
/// the swarm.
fn no_member(phase: Phase) -> &'static str {
    match phase {
        Phase::Left => "no longer a member",
        Phase::Warmed => "not a member now",
        _ => "not confirmed as a member",
    }
}

fn about(node: &Node, now: OffsetDateTime, colour: bool) -> Vec<[String; 2]> {
    let instance = node.instance.as_ref().map_or(NOT_YET.into(), |it| {
        format!("{} {} in {}, {}", it.id, it.instance_type, it.zone, it.private_address)
    });
    let swarm = match (&node.cluster, &node.membership) {
        (Some(cluster), Some(member)) => format!(
            "{cluster}, generation {}: {}, node {}",
            member.generation, member.role, member.node_id
        ),
        (Some(cluster), None) => match node.role {
            Some(role) => format!("{cluster}: configured as {role}, {}", no_member(node.phase)),
            None => format!("{cluster}: {}", no_member(node.phase)),
        },
        (None, _) => NOT_YET.into(),
    };
    let phase = paint(node.phase, colour);
    let phase = format!("{phase} for {}, since {}", span(now - node.since), in_utc(node.since));
    let mut rows = vec![
        ("instance", instance),
        ("swarm", swarm),
        ("phase", phase),
        ("doing", node.doing.clone()),
    ];
    if let Some(trouble) = &node.trouble {
        rows.push(("trouble", trouble.clone()));
    }
    if let Some(scheduling_hold) = node.scheduling_hold {
        rows.push(("hold", scheduling_hold.explain().to_owned()));
    }
    if let Some(departure) = &node.departure {
        rows.push(("leaving", leaving(departure, now)));
    }
    rows.extend(node.flush.iter().map(|outcome| ("flush", flush(outcome))));
    if let Some(why) = &node.why {
        rows.push(("why", why.clone()));
    }
    rows.into_iter().map(|(label, text)| [label.into(), text]).collect()
}

/// Returns the fleet's table with a line of headings; this node has a star.
fn rows(fleet: &FleetView, own: Option<&str>, now: OffsetDateTime) -> Vec<[String; 9]> {
    let headings =
        ["NODE", "ROLE", "ADDRESS", "ZONE", "GEN", "LEDGER", "DOCKER", "DEPARTURE", "SEEN"];
    let members = fleet.members.iter().map(|member| row(member, own, now));
    std::iter::once(headings.map(String::from)).chain(members).collect()
}

fn name(member: &FleetMember) -> String {
    let known = member.instance_id.as_ref().or(member.node_id.as_ref());
    known.cloned().unwrap_or_else(|| UNKNOWN.into())
}

fn row(member: &FleetMember, own: Option<&str>, now: OffsetDateTime) -> [String; 9] {
    let or_unknown = |text: Option<String>| text.unwrap_or_else(|| UNKNOWN.into());
    let mut name = name(member);
    if own.is_some() && member.node_id.as_deref() == own {
        name.push_str(" *");
    }
    let leader = if member.leader { " (leader)" } else { "" };
    // `active` is the usual case and not worth showing.
    let away = member.docker_availability.as_ref().filter(|availability| *availability != "active");
    let docker = member.docker_state.clone().into_iter().chain(away.cloned());
    let docker = docker.collect::<Vec<_>>().join(", ");
    [
        name,
        format!("{}{leader}", member.role),
        or_unknown(member.address.map(|address| address.to_string())),
        or_unknown(member.zone.clone()),
        or_unknown(member.generation.map(|generation| generation.to_string())),
        or_unknown(ledger(member)),
        if docker.is_empty() { UNKNOWN.into() } else { docker },
        or_unknown(member.departure.clone().or_else(|| stays(member))),
        or_unknown(member.updated_at.map(|at| format!("{} ago", span(now - at)))),
    ]
}

/// Returns the state in the ledger, or `unknown` if Docker reports that no manager receives the node's heartbeats:
/// then the row is outdated.
fn ledger(member: &FleetMember) -> Option<String> {
    let is_unheard_of = member.docker_state.as_deref() == Some(UNHEARD_OF);
    let is_ready = member.state.as_deref() == Some("ready");
    if is_unheard_of && is_ready { member.docker_state.clone() } else { member.state.clone() }
}

/// `standby: stays`
fn stays(member: &FleetMember) -> Option<String> {
    member.scheduling_hold.as_ref().map(|scheduling_hold| format!("{scheduling_hold}: stays"))
}

/// `quorum: 3 managers, 3 reachable, 1 may be lost`
pub(super) fn quorum(quorum: &QuorumView) -> String {
    let QuorumView { managers, reachable, may_be_lost } = quorum;
    let plural = if *managers == 1 { "" } else { "s" };
    let lost = if *may_be_lost == 0 { "none".to_owned() } else { may_be_lost.to_string() };
    format!("quorum: {managers} manager{plural}, {reachable} reachable, {lost} may be lost")
}

/// `fluent-bit: timed out after 24s, 812 sent, 40 unsent: 3 chunks`
fn flush(outcome: &Outcome) -> String {
    let mut text = format!("{}: {}", outcome.name, outcome.result.as_str());
    if !matches!(outcome.result, FlushResult::Running | FlushResult::NotHere) {
        text.push_str(&format!(" after {:.1}s", outcome.seconds));
    }
    for (count, what) in [(outcome.sent, "sent"), (outcome.unsent, "unsent")] {
        if let Some(count) = count {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    if let Some(detail) = &outcome.detail {
        text.push_str(&format!(": {detail}"));
    }
    text
}

fn paint(phase: Phase, colour: bool) -> String {
    let code = match phase {
        _ if !colour => return phase.as_str().into(),
        Phase::Ready => 32,
        Phase::Starting | Phase::Warmed | Phase::Booting | Phase::Leaving => 33,
        Phase::Left => 2,
        Phase::Failed => 31,
    };
    format!("\x1b[{code}m{}\x1b[0m", phase.as_str())
}
