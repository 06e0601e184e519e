//! `skep leave`: takes this node out of the swarm, and shows the progress.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::time::Instant;

use super::draw::{self, Block, terminal};
use super::fate::Fate;
use super::view::Node;
use super::{EXIT_NOTHING_DONE, consent, leaving, print};
use crate::api::control::{Client, ClientError, parse_reason, socket_path};
use crate::clients::systemd;
use crate::common::outcome::Outcome;
use crate::common::printable::on_terminal;
use crate::common::state::Phase;
use crate::config::{Settings, parse_duration};
use crate::telemetry::event_log;

/// Time between two polls.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A skep that is restarted during a departure answers again within this time.
const RESTARTED_WITHIN: Duration = Duration::from_secs(20);
/// skep ends within this time after the node has left.
const ENDED_WITHIN: Duration = Duration::from_secs(30);

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
    /// After the node has left, power the machine off: its Auto Scaling group then replaces it
    #[arg(long, conflicts_with = "no_wait")]
    terminate: bool,
    /// Do not ask; without this flag, the departure must be confirmed on a terminal
    #[arg(long)]
    yes: bool,
}

/// Asks the running skep to leave, and waits until the node has left. If the node is already leaving, a nearer
/// deadline replaces its deadline; a later one does not. Before and after the departure, standard error shows what
/// happens to the instance.
///
/// # Errors
/// When no skep runs here or it refuses, standard output cannot be written, or the machine cannot be powered off. The
/// exit code is also a failure when the node has not left by its deadline, and when tasks were killed without their
/// grace.
pub async fn ask(arguments: &Arguments, settings: &Settings) -> anyhow::Result<ExitCode> {
    let client = Client::new(socket_path(&settings.runtime_dir));
    let node = match client.node::<Node>().await {
        Ok(node) => Some(node),
        // The running skep has another version, which still understands the request.
        Err(ClientError::Malformed(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let was_leaving = node.as_ref().is_some_and(Node::is_leaving);
    let fate = Fate::of(node.as_ref(), settings.autoscaling.group.as_deref());
    if arguments.terminate
        && let Err(why) = fate.can_be_replaced()
    {
        say(&format!("skep: nothing was done: {why}"));
        return Ok(EXIT_NOTHING_DONE.into());
    }
    if changes_something(arguments, was_leaving) {
        say(&if arguments.terminate { fate.before_power_off() } else { fate.before() });
    }
    if must_ask(arguments, was_leaving, consent::can_be_asked())
        && !is_confirmed(&client, node.as_ref(), arguments.terminate).await?
    {
        eprintln!("skep: nothing was done");
        return Ok(EXIT_NOTHING_DONE.into());
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
    if arguments.terminate && end.has_surely_left() {
        until_ended(&client).await;
        systemd::power_off().await.with_context(|| fate.not_powered_off())?;
        say(&fate.after_power_off());
    } else if arguments.terminate {
        say(&fate.not_powered_off());
    } else if end.has_left && !was_leaving {
        say(&fate.after());
    }
    Ok(if end.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether the command does more than to bring a deadline nearer.
fn changes_something(arguments: &Arguments, was_leaving: bool) -> bool {
    !was_leaving || arguments.terminate
}

/// Whether the operator must confirm. A script is not asked.
fn must_ask(arguments: &Arguments, was_leaving: bool, can_be_asked: bool) -> bool {
    can_be_asked && !arguments.yes && changes_something(arguments, was_leaving)
}

/// Prints a text to standard error, wrapped to the width of the terminal.
fn say(text: &str) {
    let width = terminal().map(|(width, _)| width);
    draw::wrap("", &on_terminal(text), width).iter().for_each(|line| eprintln!("{line}"));
}

/// Waits until skep has ended, which it does right after its last message: it still closes its log and its socket.
async fn until_ended(client: &Client) {
    let give_up = Instant::now() + ENDED_WITHIN;
    while client.node::<Node>().await.is_ok() && Instant::now() < give_up {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Asks the operator to confirm, and for a manager shows how many managers may be lost.
async fn is_confirmed(
    client: &Client,
    node: Option<&Node>,
    terminate: bool,
) -> anyhow::Result<bool> {
    if node.is_some_and(Node::is_manager) {
        let fleet = client.status::<Node>().await.ok().and_then(|report| report.fleet);
        let quorum = fleet.and_then(|fleet| fleet.quorum);
        let quorum = quorum
            .map_or("it is not known whether the swarm has a quorum".into(), |quorum| {
                super::status::quorum(&quorum)
            });
        say(&format!("This node is a manager; {quorum}."));
    }
    Ok(consent::is_given(if terminate { "terminate" } else { "leave" })?)
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

    /// Whether nothing of the swarm is left on the machine. What a kill cost is lost already.
    fn has_surely_left(&self) -> bool {
        self.has_left && self.outcome.is_some_and(|outcome| !outcome.is_failure())
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
    use super::*;

    #[test]
    fn an_operator_on_a_terminal_is_asked_before_something_changes() {
        let arguments = |yes, terminate| Arguments {
            deadline: None,
            reason: None,
            no_wait: false,
            terminate,
            yes,
        };
        let (plain, terminate) = (arguments(false, false), arguments(false, true));
        assert!(must_ask(&plain, false, true) && must_ask(&terminate, false, true));
        assert!(must_ask(&terminate, true, true), "the machine would have stayed");
        assert!(!must_ask(&plain, true, true), "it leaves anyway");
        assert!(!must_ask(&plain, false, false) && !must_ask(&terminate, false, false));
        for terminate in [false, true] {
            assert!(!must_ask(&arguments(true, terminate), false, true));
        }
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
        assert!(end(true, Some(Outcome::Left), 1).has_surely_left(), "the kill is over");
        for unsure in [end(true, None, 0), end(true, Some(Outcome::DockerSilent), 0)] {
            assert!(!unsure.has_surely_left());
        }
        assert!(!end(false, Some(Outcome::Left), 0).has_surely_left());
        assert!(!end(false, Some(Outcome::Left), 0).is_clean());
    }
}
