//! Which lines about the present phase are in the log already.
//!
//! Guarantees: a line that comes back within [`REPEATED_AFTER`] is not logged again, such as where what is tried and
//! why it has failed take turns; the line that lasts is the last one in the log, at the latest after that time. Each
//! phase begins anew. Assumes that whoever does something says so again and again.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Phase;

/// What goes on failing for an hour is 60 lines.
const REPEATED_AFTER: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct RecentLines {
    phase: Option<Phase>,
    /// The last one in the log.
    last: String,
    /// When each was logged.
    logged: BTreeMap<String, Instant>,
}

impl RecentLines {
    /// Takes in what is done now, and says whether that is to be logged.
    pub(super) fn note(&mut self, phase: Phase, doing: &str, now: Instant) -> bool {
        if self.phase.replace(phase) != Some(phase) {
            self.logged.clear();
            self.last.clear();
        }
        self.logged.retain(|_, at| now - *at < REPEATED_AFTER);
        if self.last == doing || self.logged.contains_key(doing) {
            return false;
        }
        doing.clone_into(&mut self.last);
        self.logged.insert(doing.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKS: &str = "asking the managers to drain this node";
    const FAILS: &str = "trying again after: the ledger refuses";

    /// The lines that are logged, with the second of each.
    fn logged(lines: &mut RecentLines, said: &[(u64, Phase, &'static str)]) -> Vec<(u64, String)> {
        let start = Instant::now();
        let at = |second: u64| start + Duration::from_secs(second);
        let news =
            said.iter().filter(|(second, phase, doing)| lines.note(*phase, doing, at(*second)));
        news.map(|(second, _, doing)| (*second, (*doing).to_owned())).collect()
    }

    #[test]
    fn lines_that_take_turns_are_logged_once_a_minute() {
        let mut said = vec![];
        for turn in 0..36 {
            said.extend([(5 * turn, Phase::Leaving, ASKS), (5 * turn, Phase::Leaving, FAILS)]);
        }
        let seconds: Vec<u64> = logged(&mut RecentLines::default(), &said)
            .into_iter()
            .map(|(second, _)| second)
            .collect();
        assert_eq!(seconds, [0, 0, 60, 60, 120, 120], "for three minutes");
    }

    #[test]
    fn the_line_that_lasts_is_the_last_one_in_the_log() {
        const WAITS: &str = "waiting for the tasks to stop";
        let mut said = vec![(0, Phase::Leaving, WAITS), (1, Phase::Leaving, FAILS)];
        said.extend((2..90).map(|second| (second, Phase::Leaving, WAITS)));
        let logged = logged(&mut RecentLines::default(), &said);
        let expected = [(0, WAITS), (1, FAILS), (60, WAITS)];
        assert_eq!(logged, expected.map(|(second, line)| (second, line.to_owned())), "and once");
    }

    #[test]
    fn each_phase_begins_anew() {
        let said = [
            (0, Phase::Ready, "worker n1"),
            (1, Phase::Booting, FAILS),
            (2, Phase::Ready, "worker n1"),
        ];
        assert_eq!(logged(&mut RecentLines::default(), &said).len(), 3);
    }
}
