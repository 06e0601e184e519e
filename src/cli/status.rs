//! `skep status`: this node, its swarm, what it does and waits for; on a manager, the fleet.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::macros::format_description;

use super::print;
use crate::config::Settings;
use crate::control::{Client, FleetMember, FleetView, QuorumView, StatusReport, socket_path};
use crate::flushed::{Flushed, Outcome};
use crate::instance::{Departure, Quiet, Role};
use crate::logging::wants_colour;
use crate::state::{Phase, Progress};

/// Where something is not known.
const UNKNOWN: &str = "-";
const NOT_YET: &str = "not known yet";

#[derive(Debug, Args)]
pub struct Arguments {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Go on: drawn anew on a terminal, a line per change in a pipe
    #[arg(long)]
    watch: bool,
}

/// What is shown of the running skep's [`NodeState`](crate::state::NodeState).
#[derive(Debug, Deserialize)]
pub(super) struct Node {
    pub(super) phase: Phase,
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
    pub(super) doing: String,
    instance: Option<Instance>,
    cluster: Option<String>,
    role: Option<Role>,
    membership: Option<Membership>,
    pub(super) departure: Option<Departure>,
    #[serde(default)]
    pub(super) why: Option<String>,
    #[serde(default)]
    pub(super) progress: Option<Progress>,
    /// A skep of before does not say it.
    #[serde(default)]
    quiet: Option<Quiet>,
    /// A skep of before does not say it.
    #[serde(default)]
    flush: Vec<Outcome>,
    /// A skep of before does not say it.
    #[serde(default)]
    trouble: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Instance {
    id: String,
    instance_type: String,
    zone: String,
    private_address: IpAddr,
}

#[derive(Debug, Deserialize)]
struct Membership {
    node_id: String,
    generation: u64,
    role: Role,
}

/// Asks the skep that runs on this host.
///
/// # Errors
/// When none runs or it does not answer, or standard output cannot be written.
pub async fn print(arguments: &Arguments, settings: &Settings) -> anyhow::Result<ExitCode> {
    let client = Client::new(socket_path(&settings.runtime_dir));
    if arguments.watch {
        return super::watch::follow(&client, arguments.json).await;
    }
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
        if let Some(problem) = &fleet.problem {
            text.push_str(&format!("\nNot the whole fleet: {problem}\n"));
        }
    }
    text
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
            Some(role) => format!("{cluster}: to be a {role}, not a member now"),
            None => format!("{cluster}: not a member now"),
        },
        (None, _) => NOT_YET.into(),
    };
    let phase = paint(node.phase, colour);
    let phase = format!("{phase} for {}, since {}", span(now - node.since), at(node.since));
    let mut rows = vec![
        ("instance", instance),
        ("swarm", swarm),
        ("phase", phase),
        ("doing", node.doing.clone()),
    ];
    if let Some(trouble) = &node.trouble {
        rows.push(("trouble", trouble.clone()));
    }
    if let Some(quiet) = node.quiet {
        rows.push(("quiet", quiet.explain().to_owned()));
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

/// The fleet, under a line of headings; this node has a star.
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
    // Only an availability that keeps tasks away is news.
    let away = member.docker_availability.as_ref().filter(|availability| *availability != "active");
    let docker = member.docker_state.clone().into_iter().chain(away.cloned());
    let docker = docker.collect::<Vec<_>>().join(", ");
    [
        name,
        format!("{}{leader}", member.role),
        or_unknown(member.address.map(|address| address.to_string())),
        or_unknown(member.zone.clone()),
        or_unknown(member.generation.map(|generation| generation.to_string())),
        or_unknown(member.state.clone()),
        if docker.is_empty() { UNKNOWN.into() } else { docker },
        or_unknown(member.departure.clone().or_else(|| stays(member))),
        or_unknown(member.updated_at.map(|at| format!("{} ago", span(now - at)))),
    ]
}

/// `standby: stays`
fn stays(member: &FleetMember) -> Option<String> {
    member.quiet.as_ref().map(|quiet| format!("{quiet}: stays"))
}

/// `quorum: 3 managers, 3 reachable, 1 may be lost`
fn quorum(quorum: &QuorumView) -> String {
    let QuorumView { managers, reachable, may_be_lost } = quorum;
    let plural = if *managers == 1 { "" } else { "s" };
    let lost = if *may_be_lost == 0 { "none".to_owned() } else { may_be_lost.to_string() };
    format!("quorum: {managers} manager{plural}, {reachable} reachable, {lost} may be lost")
}

pub(super) fn leaving(departure: &Departure, now: OffsetDateTime) -> String {
    let left = departure.deadline - now;
    let when = if left.is_positive() {
        format!("to be gone in {}", span(left))
    } else {
        format!("overdue by {}", span(-left))
    };
    let noticed = span(now - departure.noticed_at);
    format!("{} notice {noticed} ago; {when}, at {}", departure.reason, at(departure.deadline))
}

/// `fluent-bit: took too long after 24s, 812 sent, 40 unsent: 3 chunks`
fn flush(outcome: &Outcome) -> String {
    let mut text = format!("{}: {}", outcome.name, outcome.result.as_str());
    if !matches!(outcome.result, Flushed::Running | Flushed::NotHere) {
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

/// `2h 5m`: no more than the two largest units, and no fractions of a second.
pub(super) fn span(duration: time::Duration) -> String {
    let seconds = Duration::from_secs(duration.whole_seconds().max(0).unsigned_abs());
    let text = humantime::format_duration(seconds).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn at(time: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    let utc = time.to_offset(time::UtcOffset::UTC);
    utc.format(format).unwrap_or_else(|_| UNKNOWN.into())
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::control::ViewSource;
    use crate::instance::{self, Market, Reason};
    use crate::state::StateHandle;

    const NOW: OffsetDateTime = datetime!(2026-11-02 12:00:00 UTC);

    /// What the running skep would send: its own types, through JSON.
    fn report(departure: Option<Departure>, fleet: Option<FleetView>) -> StatusReport<Node> {
        let state = StateHandle::default();
        state.enter(Phase::Ready, "serving");
        state.update(|state| {
            state.since = datetime!(2026-11-02 09:54:57 UTC);
            state.cluster = Some("prod".into());
            state.role = Some(Role::Manager);
            state.departure = departure;
            state.instance = Some(instance::Instance {
                id: "i-0abc".into(),
                instance_type: "m6g.large".into(),
                zone: "eu-central-1a".into(),
                region: "eu-central-1".into(),
                private_address: [10, 0, 0, 7].into(),
                market: Market::Spot,
                group: None,
                stack: None,
                tags: [].into(),
            });
            state.membership = Some(instance::Membership {
                node_id: "n1".into(),
                swarm_id: "s1".into(),
                generation: 3,
                role: Role::Manager,
            });
        });
        let sent = serde_json::to_value(StatusReport { node: state.now(), fleet }).unwrap();
        serde_json::from_value(sent).unwrap()
    }

    fn member(instance_id: &str, node_id: &str) -> FleetMember {
        FleetMember {
            instance_id: Some(instance_id.into()),
            role: Role::Manager,
            node_id: Some(node_id.into()),
            address: Some([10, 0, 0, 7].into()),
            zone: Some("eu-central-1a".into()),
            group: None,
            generation: Some(3),
            leaving: None,
            state: Some("ready".into()),
            docker_state: Some("ready".into()),
            docker_availability: Some("active".into()),
            labels: [].into(),
            leader: true,
            joined_at: None,
            departure: None,
            quiet: None,
            verdict: None,
            updated_at: Some(datetime!(2026-11-02 11:59:18 UTC)),
        }
    }

    #[test]
    fn a_node_tells_who_it_is_what_it_does_and_since_when() {
        assert_eq!(
            text(&report(None, None), NOW, false),
            "instance  i-0abc m6g.large in eu-central-1a, 10.0.0.7\n\
             swarm     prod, generation 3: manager, node n1\n\
             phase     ready for 2h 5m, since 2026-11-02 09:54:57 UTC\n\
             doing     serving\n"
        );
    }

    #[test]
    fn a_departure_tells_why_and_how_long_there_is() {
        let departure = |deadline| Departure {
            reason: Reason::Spot,
            noticed_at: datetime!(2026-11-02 11:59:48 UTC),
            deadline,
        };
        let text_of = |deadline| text(&report(Some(departure(deadline)), None), NOW, false);
        assert!(text_of(datetime!(2026-11-02 12:01:30 UTC)).ends_with(
            "leaving   spot notice 12s ago; to be gone in 1m 30s, at 2026-11-02 12:01:30 UTC\n"
        ));
        assert!(text_of(datetime!(2026-11-02 11:59:58 UTC)).contains("overdue by 2s, at"));
    }

    #[test]
    fn a_flusher_tells_what_came_of_it_and_what_is_left() {
        let mut report = report(None, None);
        report.node.flush = vec![
            Outcome { result: Flushed::Done, seconds: 0.04, ..Outcome::running("journal") },
            Outcome {
                result: Flushed::TimedOut,
                seconds: 24.0,
                sent: Some(812),
                unsent: Some(40),
                detail: Some("3 chunks".into()),
                ..Outcome::running("fluent-bit")
            },
        ];
        assert!(text(&report, NOW, false).ends_with(
            "doing     serving\n\
             flush     journal: flushed after 0.0s\n\
             flush     fluent-bit: took too long after 24.0s, 812 sent, 40 unsent: 3 chunks\n"
        ));
    }

    #[test]
    fn a_node_that_is_quiet_and_stays_tells_why() {
        let mut report = report(None, None);
        report.node.quiet = Some(Quiet::Standby);
        let text = text(&report, NOW, false);
        assert!(
            text.ends_with("quiet     in Standby: no tasks here until it is InService again\n")
        );
        let quiet = FleetMember { quiet: Some("standby".into()), ..member("i-0abc", "n1") };
        assert_eq!(row(&quiet, None, NOW)[7], "standby: stays");
        let leaves = FleetMember { departure: Some("spot: draining".into()), ..quiet };
        assert_eq!(row(&leaves, None, NOW)[7], "spot: draining", "which is more");
    }

    #[test]
    fn trouble_has_a_line_of_its_own() {
        let mut report = report(None, None);
        report.node.trouble = Some("the secret store is down".into());
        let text = text(&report, NOW, false);
        assert!(
            text.ends_with("doing     serving\ntrouble   the secret store is down\n"),
            "{text}"
        );
    }

    #[test]
    fn what_is_not_known_is_said_to_be_so() {
        let mut report = report(None, None);
        report.node.membership = None;
        assert!(text(&report, NOW, false).contains("prod: to be a manager, not a member now"));
        (report.node.instance, report.node.cluster) = (None, None);
        let text = text(&report, NOW, false);
        assert!(text.starts_with("instance  not known yet\nswarm     not known yet\n"), "{text}");
    }

    #[test]
    fn colour_is_only_where_it_is_asked_for() {
        assert!(!text(&report(None, None), NOW, false).contains('\x1b'));
        assert!(text(&report(None, None), NOW, true).contains("\x1b[32mready\x1b[0m for"));
    }

    #[test]
    fn a_manager_shows_the_fleet() {
        let drained = FleetMember {
            role: Role::Worker,
            zone: None,
            state: Some("leaving".into()),
            docker_availability: Some("drain".into()),
            leader: false,
            departure: Some("spot: draining".into()),
            ..member("i-0def", "n2")
        };
        let stranger = FleetMember {
            instance_id: None,
            address: None,
            generation: None,
            state: None,
            docker_state: None,
            docker_availability: None,
            leader: false,
            verdict: Some("Down for 35 s; nobody knows which instance it was".into()),
            updated_at: None,
            ..member("", "n3")
        };
        let fleet = FleetView {
            source: ViewSource::LedgerAndDocker,
            quorum: Some(QuorumView { managers: 3, reachable: 3, may_be_lost: 1 }),
            members: vec![member("i-0abc", "n1"), drained, stranger],
            problem: Some("the ledger is slow".into()),
        };
        let text = text(&report(None, Some(fleet)), NOW, false);
        let (_, fleet) = text.split_once("\n\n").unwrap();
        let cells = |line: &str| -> Vec<String> {
            line.split("  ").map(str::trim).filter(|c| !c.is_empty()).map(String::from).collect()
        };
        let lines: Vec<Vec<String>> = fleet.lines().map(cells).collect();
        let manager =
            ["i-0abc *", "manager (leader)", "10.0.0.7", "eu-central-1a", "3", "ready", "ready"];
        assert_eq!(lines[1], [&manager[..], &["-", "42s ago"]].concat());
        let worker = ["i-0def", "worker", "10.0.0.7", "-", "3", "leaving", "ready, drain"];
        assert_eq!(lines[2], [&worker[..], &["spot: draining", "42s ago"]].concat());
        assert_eq!(lines[3], ["n3", "manager", "-", "eu-central-1a", "-", "-", "-", "-", "-"]);
        assert_eq!(lines[5], ["n3: Down for 35 s; nobody knows which instance it was"]);
        assert_eq!(lines[7], ["quorum: 3 managers, 3 reachable, 1 may be lost"]);
        assert_eq!(lines[9], ["Not the whole fleet: the ledger is slow"]);
        let alone = QuorumView { managers: 1, reachable: 1, may_be_lost: 0 };
        assert_eq!(quorum(&alone), "quorum: 1 manager, 1 reachable, none may be lost");
    }

    #[test]
    fn only_a_member_has_a_star() {
        let unknown = FleetMember { node_id: None, ..member("i-0abc", "") };
        assert_eq!(row(&unknown, None, NOW)[0], "i-0abc");
        assert_eq!(row(&member("i-0def", "n2"), Some("n1"), NOW)[0], "i-0def");
    }

    #[test]
    fn a_span_is_short_and_never_negative() {
        let seconds = time::Duration::seconds;
        assert_eq!(span(seconds(0)), "0s");
        assert_eq!(span(seconds(59)), "59s");
        assert_eq!(span(seconds(93_784)), "1day 2h");
        assert_eq!(span(seconds(-5)), "0s");
    }
}
