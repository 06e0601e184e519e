//! Remembers the lines about the present phase that are in the log already.
//!
//! Guarantees: a line that comes again within [`REPEATED_AFTER`] is not logged again, for example if an attempt and its
//! error alternate. The line that stays is the last one in the log, at the latest after that time. Each phase starts
//! with an empty memory. Assumes that callers report an action again with every attempt.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Phase;

/// An attempt that fails for an hour makes 60 lines.
const REPEATED_AFTER: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct RecentLines {
    phase: Option<Phase>,
    /// The last line in the log.
    last: String,
    /// The time when each line was logged.
    logged: BTreeMap<String, Instant>,
}

impl RecentLines {
    /// Notes the present action; returns whether the caller must log it.
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
    const FAILS: &str = "retrying after: the ledger refuses";

    /// Returns the lines that are logged, each with its second.
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
