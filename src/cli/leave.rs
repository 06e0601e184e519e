//! `skep leave`: takes this node out of the swarm, and shows the progress.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::time::Instant;

use super::draw::{self, Block, terminal};
use super::view::Node;
use super::{EXIT_NOTHING_DONE, consent, leaving, print};
use crate::api::control::{Client, ClientError, parse_reason, socket_path};
use crate::common::outcome::Outcome;
use crate::common::printable::on_terminal;
use crate::common::state::Phase;
use crate::config::{Settings, parse_duration};
use crate::telemetry::event_log;

/// Time between two polls.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A skep that is restarted during a departure answers again within this time.
const RESTARTED_WITHIN: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
pub struct Arguments {
    /// Time within which the node must leave, such as 5m [default: the setting leave.deadline]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    deadline: Option<Duration>,
    /// Reason in one line, for the log, `skep events` and `skep status`
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: Option<String>,
    /// Return as soon as the departure has started
    #[arg(long)]
    no_wait: bool,
    /// Do not ask; without this flag, a manager's departure must be confirmed on a terminal
    #[arg(long)]
    yes: bool,
}

/// Asks the running skep to leave, and waits until the node has left. If the node is already leaving, a nearer
/// deadline replaces its deadline; a later one does not. Before and after the departure, standard error shows what
/// happens to the instance.
///
/// # Errors
/// When no skep runs here or it refuses, or standard output cannot be written. The exit code is also a failure when
/// the node has not left by its deadline, and when tasks were killed without their grace.
pub async fn ask(arguments: &Arguments, settings: &Settings) -> anyhow::Result<ExitCode> {
    let client = Client::new(socket_path(&settings.runtime_dir));
    let (was_leaving, node) = match client.node::<Node>().await {
        Ok(node) if node.is_leaving() => (true, None),
        Ok(node) => (false, Some(node)),
        // The running skep has another version, which still understands the request.
        Err(ClientError::Malformed(_)) => (false, None),
        Err(error) => return Err(error.into()),
    };
    if let Some(node) = &node {
        say(&before(node));
        let must_ask = node.is_manager() && !arguments.yes && consent::can_be_asked();
        if must_ask && !is_confirmed(&client).await? {
            eprintln!("skep: nothing was done");
            return Ok(EXIT_NOTHING_DONE.into());
        }
    }
    let begun = OffsetDateTime::now_utc();
    match client.leave(arguments.deadline, arguments.reason.as_deref()).await {
        Ok(()) if was_leaving => print::to_stdout(
            "This node is already leaving; its departure can no longer be withdrawn, and the nearer \
             of the two deadlines applies.\n",
        )?,
        Ok(()) if arguments.no_wait => {
            print::to_stdout(
                "This node is leaving the swarm; `skep status --watch` shows the progress.\n",
            )?;
        }
        Ok(()) => {
            print::to_stdout("This node is leaving the swarm; Ctrl-C ends this view alone.\n")?;
        }
        Err(ClientError::AlreadyLeaving { doing }) => {
            print::to_stdout(&format!("This node is {doing}\n"))?;
        }
        Err(error) => return Err(error.into()),
    }
    if arguments.no_wait {
        return Ok(ExitCode::SUCCESS);
    }
    let end = follow(&client, settings, begun).await?;
    print::to_stdout(&format!("{}\n", end.words))?;
    if let Some(node) = node.filter(|_| end.has_left) {
        say(&after(&node));
    }
    Ok(if end.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints a text to standard error, wrapped to the width of the terminal.
fn say(text: &str) {
    let width = terminal().map(|(width, _)| width);
    draw::wrap("", &on_terminal(text), width).iter().for_each(|line| eprintln!("{line}"));
}

/// Returns where the instance is, and the command that has it replaced.
fn words(node: &Node) -> (String, String) {
    let (id, group) = node.place().unwrap_or(("this instance", None));
    let where_it_is = match group {
        Some(group) => format!("{id} keeps running, InService in Auto Scaling group {group}"),
        None => format!("{id} keeps running, InService where an Auto Scaling group has it"),
    };
    let replace = format!(
        "aws autoscaling terminate-instance-in-auto-scaling-group --instance-id {id} \
         --no-should-decrement-desired-capacity"
    );
    (where_it_is, replace)
}

/// Text before the departure: its effects that an operator may not expect.
fn before(node: &Node) -> String {
    let (where_it_is, replace) = words(node);
    format!(
        "The node leaves the swarm. {where_it_is}: no replacement is launched, unless a load \
         balancer's health check has it replaced. To have it replaced, terminate it instead: {replace}"
    )
}

/// Text after the departure, with the command that brings the node back.
fn after(node: &Node) -> String {
    let (where_it_is, replace) = words(node);
    format!(
        "{where_it_is}, and is not in the swarm. To have it replaced: {replace}. To take it back: \
         systemctl start skep"
    )
}

/// Asks the operator to confirm, and shows how many managers may be lost.
async fn is_confirmed(client: &Client) -> anyhow::Result<bool> {
    let fleet = client.status::<Node>().await.ok().and_then(|report| report.fleet);
    let quorum = fleet.and_then(|fleet| fleet.quorum);
    let quorum = quorum.map_or("it is not known whether the swarm has a quorum".into(), |quorum| {
        super::status::quorum(&quorum)
    });
    say(&format!("This node is a manager; {quorum}."));
    Ok(consent::is_given("leave")?)
}

/// How the departure ended.
struct End {
    has_left: bool,
    /// `None` where it is not known.
    outcome: Option<Outcome>,
    /// Number of tasks that were killed without their grace.
    killed: u64,
    words: String,
}

impl End {
    fn is_clean(&self) -> bool {
        let is_success = self.outcome.is_some_and(|outcome| !outcome.is_failure());
        self.has_left && self.killed == 0 && is_success
    }
}

/// Shows the departure until it has ended. Returns the result with skep's text for it.
async fn follow(
    client: &Client,
    settings: &Settings,
    begun: OffsetDateTime,
) -> anyhow::Result<End> {
    let (mut block, mut last) = (Block::default(), String::new());
    let (mut answered, mut has_begun) = (Instant::now(), false);
    loop {
        match client.node::<Node>().await {
            Ok(node) if node.phase == Phase::Left => {
                let killed = node.killed.len() as u64;
                return Ok(End {
                    has_left: true,
                    outcome: node.outcome,
                    killed,
                    words: node.doing,
                });
            }
            Ok(node) if has_begun && has_failed(&node) => {
                let words =
                    node.failed_departure.unwrap_or_else(|| Outcome::Failed.as_str().to_owned());
                let outcome = Some(Outcome::Failed);
                return Ok(End { has_left: false, outcome, killed: 0, words });
            }
            Ok(node) => {
                answered = Instant::now();
                has_begun |= node.departure.is_some();
                show(&node, &mut block, &mut last)?;
            }
            // skep exits after the node has left; the event log has the result.
            Err(error) => match last_words(settings, begun) {
                Some(words) => return Ok(words),
                None if answered.elapsed() > RESTARTED_WITHIN => return Err(error.into()),
                None => {}
            },
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether the departure has failed, so that the node serves again. A skep that was restarted during the departure
/// does not report a failure: it resumes the departure before it serves.
fn has_failed(node: &Node) -> bool {
    node.departure.is_none() && (node.failed_departure.is_some() || node.phase == Phase::Ready)
}

fn show(node: &Node, block: &mut Block, last: &mut String) -> anyhow::Result<()> {
    let now = OffsetDateTime::now_utc();
    if let Some(size) = terminal() {
        block.draw(&leaving::block(node, now, size.0), size)?;
        return Ok(());
    }
    let line = leaving::line(node);
    if line != *last {
        let format = format_description!("[hour]:[minute]:[second]");
        print::to_stdout(&format!("{} {line}\n", now.format(format)?))?;
        *last = line;
    }
    Ok(())
}

fn last_words(settings: &Settings, begun: OffsetDateTime) -> Option<End> {
    let ends = [Phase::Left.as_str(), Phase::Failed.as_str()];
    let events = event_log::read(&settings.state_dir).ok()?;
    events.into_iter().rev().take_while(|event| event.at >= begun).find_map(|event| {
        let phase = event.fields.get("phase")?.as_str().filter(|phase| ends.contains(phase))?;
        let has_left = phase == Phase::Left.as_str();
        let killed =
            event.fields.get("killed").and_then(serde_json::Value::as_u64).unwrap_or_default();
        let outcome = event.fields.get("outcome").cloned();
        let outcome = outcome.and_then(|outcome| serde_json::from_value(outcome).ok());
        Some(End { has_left, outcome, killed, words: event.message })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(role: &str, group: Option<&str>) -> Node {
        let node = json!({
            "phase": "ready", "since": "2026-11-02T12:00:00Z", "doing": "serving", "role": "worker",
            "instance": {
                "id": "i-0abc", "instance_type": "t3.small", "zone": "a", "group": group,
                "private_address": "10.0.0.7",
            },
            "membership": { "node_id": "n1", "generation": 1, "role": role },
        });
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn only_a_departure_that_is_known_to_be_complete_is_clean() {
        let end =
            |has_left, outcome, killed| End { has_left, outcome, killed, words: "left".into() };
        assert!(end(true, Some(Outcome::Left), 0).is_clean());
        assert!(end(true, Some(Outcome::LeftUnconfirmed), 0).is_clean());
        assert!(!end(true, Some(Outcome::Left), 1).is_clean());
        for failure in [Outcome::TooLate, Outcome::DockerSilent, Outcome::Failed] {
            assert!(!end(true, Some(failure), 0).is_clean());
        }
        assert!(!end(true, None, 0).is_clean(), "no outcome was recorded");
        assert!(!end(false, Some(Outcome::Left), 0).is_clean());
    }

    #[test]
    fn an_operator_is_told_that_nothing_replaces_the_instance() {
        let (grouped, lone) = (node("worker", Some("workers")), node("worker", None));
        for text in [before(&grouped), after(&grouped), before(&lone), after(&lone)] {
            for part in ["i-0abc keeps running", "InService", "terminate-instance-in-auto-scaling"]
            {
                assert!(text.contains(part), "no {part:?} in {text}");
            }
        }
        assert!(before(&grouped).contains("group workers: no replacement is launched"));
        assert!(after(&grouped).contains("systemctl start skep"));
    }

    #[test]
    fn a_manager_is_one_by_dockers_word_and_whoever_leaves_is_not_asked_again() {
        assert!(node("manager", None).is_manager() && !node("worker", None).is_manager());
        let mut leaving = node("manager", None);
        assert!(!leaving.is_leaving());
        leaving.phase = Phase::Left;
        assert!(leaving.is_leaving());
    }
}
