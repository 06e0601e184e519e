//! `skep status`: shows this node, its swarm, what it does and waits for; on a manager, also the fleet.

mod table;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;
use time::OffsetDateTime;

use super::view::{Node, leaving, span};
use super::{draw, print};
use crate::api::control::{Client, socket_path};
use crate::common::flush_result::{FlushResult, Outcome};
use crate::common::report::{FleetView, Outsiders, QuorumView, StatusReport};
use crate::common::state::{Phase, in_utc};
use crate::config::Settings;
use crate::telemetry::logging::wants_colour;

pub(super) use table::{Look, MOST};

const NOT_YET: &str = "not known yet";
/// Label of the line with the phase.
const PHASE: &str = "phase";
/// Characters of the widest label of the upper part, and the gap after it.
const MARGIN: usize = 10;
/// Number of instances that are named.
const NAMED: usize = 8;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Keep showing: redrawn on a terminal, one line per change in a pipe
    #[arg(long)]
    pub(super) watch: bool,
    /// Show every node and every column, uncut; a pipe gets them anyway
    #[arg(long)]
    pub(super) wide: bool,
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
        let colour = wants_colour(&std::io::stdout());
        let look = match draw::columns().filter(|_| !arguments.wide) {
            Some(width) => Look { width: Some(width), rows: MOST, colour },
            None => Look::whole(colour),
        };
        text(&report, OffsetDateTime::now_utc(), look)
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn text(report: &StatusReport<Node>, now: OffsetDateTime, look: Look) -> String {
    let mut lines = Vec::new();
    for [label, text] in about(&report.node, now) {
        let mut about = draw::wrap(&format!("{label:<MARGIN$}"), &text, look.width);
        if label == PHASE
            && let Some(first) = about.first_mut()
        {
            let phase = report.node.phase;
            *first = first.replacen(phase.as_str(), &paint(phase, look.colour), 1);
        }
        lines.extend(about);
    }
    if let Some(fleet) = &report.fleet {
        let own = report.node.membership.as_ref().map(|member| member.node_id.as_str());
        lines.extend(of_fleet(fleet, own, now, look));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn of_fleet(fleet: &FleetView, own: Option<&str>, now: OffsetDateTime, look: Look) -> Vec<String> {
    let mut lines = Vec::new();
    let table = table::table(fleet, own, now, look);
    if !fleet.members.is_empty() {
        // The table has its own line ends, and is not wrapped.
        let rows = table.text.trim_end().split('\n').map(str::to_owned);
        lines.push(String::new());
        lines.extend(rows);
    }
    let mut say = |text: &str| {
        lines.push(String::new());
        lines.extend(draw::wrap("", text, look.width));
    };
    table.more.iter().for_each(|more| say(more));
    for (member, is_departure_cut) in table.shown {
        let name = table::name(member);
        if let Some(departure) = table::departure(member).filter(|_| is_departure_cut) {
            say(&format!("{name}: {departure}"));
        }
        if let Some(verdict) = &member.verdict {
            say(&format!("{name}: {verdict}"));
        }
    }
    if let Some(quorum) = &fleet.quorum {
        say(&self::quorum(quorum));
    }
    if let Some(outsiders) = outsiders(fleet.outsiders.as_ref(), now) {
        say(&outsiders);
    }
    for warning in &fleet.warnings {
        say(&format!("warning: {warning}"));
    }
    if let Some(problem) = &fleet.problem {
        say(&format!("Not the whole fleet: {problem}"));
    }
    lines
}

/// `in service and not members: i-0abc (workers), by Auto Scaling 42s ago`; `None` if there are none.
fn outsiders(outsiders: Option<&Outsiders>, now: OffsetDateTime) -> Option<String> {
    let Some(Outsiders { asked_at, instances }) = outsiders else {
        return Some("in service and not members: not known".to_owned());
    };
    let named = instances.iter().take(NAMED);
    let mut named: Vec<String> =
        named.map(|it| format!("{} ({})", it.instance_id, it.group)).collect();
    if instances.len() > NAMED {
        named.push(format!("and {} more", instances.len() - NAMED));
    }
    let (named, age) = (named.join(", "), span(now - *asked_at));
    (!instances.is_empty())
        .then(|| format!("in service and not members: {named}, by Auto Scaling {age} ago"))
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

fn about(node: &Node, now: OffsetDateTime) -> Vec<[String; 2]> {
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
    let (phase, since) = (node.phase.as_str(), in_utc(node.since));
    let phase = format!("{phase} for {}, since {since}", span(now - node.since));
    let mut rows = vec![
        ("instance", instance),
        ("swarm", swarm),
        (PHASE, phase),
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
