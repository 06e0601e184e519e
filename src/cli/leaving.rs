//! Shows a departure: its current step, its remaining time, and the containers that it waits for.

use time::{Duration, OffsetDateTime};

use super::draw;
use super::view::{Node, leaving, span};
use crate::common::instance::Departure;
use crate::common::state::{Progress, Remaining};

/// A longer bar shows nothing more.
const LONGEST_BAR: usize = 50;
/// Number of containers that are named: the list must fit on a screen.
const NAMED: usize = 8;

/// Returns the lines that are redrawn while the node leaves.
pub fn block(node: &Node, now: OffsetDateTime, width: usize) -> Vec<String> {
    let row = |label: &str, text: &str| draw::wrap(&format!("{label:<9}"), text, Some(width));
    let mut lines = Vec::new();
    if let Some(departure) = &node.departure {
        lines.extend(row("leaving", &leaving(departure, now)));
    }
    lines.extend(node.why.iter().flat_map(|why| row("why", why)));
    lines.extend(row("doing", &node.doing));
    if let (Some(departure), Some(progress)) = (&node.departure, &node.progress) {
        lines.push(bar(departure, progress, now, width.min(LONGEST_BAR)));
        lines.extend(row("time", &shares(departure, progress, now)));
        lines.extend(waiting_for(&progress.containers));
    }
    lines
}

/// Draws `[#####-----===..]`: the time that is over, and the time that is left to drain, to flush and to leave.
fn bar(departure: &Departure, progress: &Progress, now: OffsetDateTime, width: usize) -> String {
    let cells = width.saturating_sub(2).max(1);
    let whole = (departure.deadline - departure.noticed_at).as_seconds_f64().max(1.0);
    let cell = |at: OffsetDateTime| {
        let share = (at - departure.noticed_at).as_seconds_f64() / whole;
        (share.clamp(0.0, 1.0) * cells as f64).round() as usize
    };
    let [over, drained, flushed] = [now, progress.drain_until, progress.flush_until].map(cell);
    let of = |n: usize| match n {
        _ if n < over => '#',
        _ if n < drained => '-',
        _ if n < flushed => '=',
        _ => '.',
    };
    format!("[{}]", (0..cells).map(of).collect::<String>())
}

fn shares(departure: &Departure, progress: &Progress, now: OffsetDateTime) -> String {
    let left = |from: OffsetDateTime, until: OffsetDateTime| {
        span((until - from.max(now)).max(Duration::ZERO))
    };
    format!(
        "{} to drain (-), {} to flush (=), {} to leave (.)",
        left(now, progress.drain_until),
        left(progress.drain_until, progress.flush_until),
        left(progress.flush_until, departure.deadline),
    )
}

fn waiting_for(containers: &[Remaining]) -> Vec<String> {
    if containers.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![format!("{} left:", count(containers.len()))];
    lines.extend(containers.iter().take(NAMED).map(|container| {
        let kind = if container.is_task { "" } else { ", no task" };
        let grace =
            container.grace_seconds.map_or(String::new(), |grace| format!(", grace {grace} s"));
        format!("  {}{kind}{grace}", container.name)
    }));
    if containers.len() > NAMED {
        lines.push(format!("  and {} more", containers.len() - NAMED));
    }
    lines
}

fn count(containers: usize) -> String {
    format!("{containers} container{}", if containers == 1 { "" } else { "s" })
}

/// Returns the departure as one line. It changes when something happens, and not with the time.
pub fn line(node: &Node) -> String {
    let phase = node.phase.as_str();
    let left = node.progress.as_ref().map_or(0, |progress| progress.containers.len());
    let left = if left == 0 { String::new() } else { format!(" ({} left)", count(left)) };
    format!("{phase}: {}{left}", node.doing)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::common::instance::Reason;

    const NOTICED: OffsetDateTime = datetime!(2026-11-02 12:00:00 UTC);

    fn node(containers: usize) -> Node {
        let departure = Departure {
            reason: Reason::Operator,
            noticed_at: NOTICED,
            deadline: NOTICED + Duration::seconds(100),
        };
        let remaining = (0..containers).map(|n| Remaining {
            name: format!("web.{n}.u5n8x2v1c9b7m4k3j6h5g2f1d"),
            is_task: n > 0,
            grace_seconds: (n == 0).then_some(30),
        });
        let progress = Progress {
            drain_until: NOTICED + Duration::seconds(60),
            flush_until: NOTICED + Duration::seconds(80),
            containers: remaining.collect(),
        };
        let node = serde_json::json!({
            "phase": "leaving", "since": "2026-11-02T12:00:00Z", "doing": "waiting for the tasks to stop",
            "departure": departure, "why": "a new kernel", "progress": progress,
        });
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn a_block_tells_time_and_containers() {
        let text = block(&node(2), NOTICED + Duration::seconds(30), 100).join("\n");
        assert!(
            text.contains("why      a new kernel\ndoing    waiting for the tasks to stop"),
            "{text}"
        );
        assert!(text.contains("30s to drain (-), 20s to flush (=), 20s to leave (.)"), "{text}");
        assert!(text.contains(
            "2 containers left:\n  web.0.u5n8x2v1c9b7m4k3j6h5g2f1d, no task, grace 30 s\n"
        ));
    }

    #[test]
    fn the_bar_shows_every_share() {
        let Node { departure, progress, .. } = node(0);
        let (departure, progress) = (departure.unwrap(), progress.unwrap());
        let at = |seconds| bar(&departure, &progress, NOTICED + Duration::seconds(seconds), 12);
        assert_eq!(at(0), "[------==..]");
        assert_eq!(at(70), "[#######=..]");
        assert_eq!(at(500), "[##########]");
    }

    #[test]
    fn a_long_list_is_cut_and_a_line_counts() {
        let text = block(&node(20), NOTICED, 40);
        assert_eq!(text.last().unwrap(), "  and 12 more");
        assert_eq!(line(&node(1)), "leaving: waiting for the tasks to stop (1 container left)");
        assert_eq!(line(&node(0)), "leaving: waiting for the tasks to stop");
    }
}
