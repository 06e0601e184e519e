//! Remembers the troubles that are in the log already.
//!
//! Guarantees: each text of a trouble is logged once, also if two texts alternate, or if the trouble comes and goes
//! with each attempt. A trouble is logged as resolved only after an absence of [`AWAY`]. Assumes that a duty which has
//! had a trouble keeps reporting.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

/// Longer than any pause between two attempts, with the SDK's own retries: a trouble that returns within this time was
/// never resolved.
const AWAY: Duration = Duration::from_secs(120);
/// Texts of one trouble. Without a limit, texts that never repeat would fill memory and log.
const MOST_TEXTS: usize = 16;

/// The troubles, by the name of the reporter.
#[derive(Debug, Default)]
pub(super) struct TroubleLog {
    troubles: BTreeMap<&'static str, Trouble>,
}

#[derive(Debug, Default)]
struct Trouble {
    logged: BTreeSet<String>,
    last: String,
    /// Time of the first report without the trouble.
    away_since: Option<Instant>,
}

/// The line that a report adds to the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Trouble(String),
    Resolved(String),
}

impl TroubleLog {
    /// Notes a report; returns the line that the caller must log.
    pub(super) fn note(
        &mut self,
        who: &'static str,
        what: Option<&str>,
        now: Instant,
    ) -> Option<Line> {
        let Some(text) = what else { return self.note_absence(who, now) };
        let trouble = self.troubles.entry(who).or_default();
        trouble.away_since = None;
        text.clone_into(&mut trouble.last);
        if trouble.logged.len() >= MOST_TEXTS || !trouble.logged.insert(text.to_owned()) {
            return None;
        }
        Some(Line::Trouble(text.to_owned()))
    }

    fn note_absence(&mut self, who: &'static str, now: Instant) -> Option<Line> {
        let trouble = self.troubles.get_mut(who)?;
        let since = *trouble.away_since.get_or_insert(now);
        if now - since < AWAY {
            return None;
        }
        self.troubles.remove(who).map(|trouble| Line::Resolved(trouble.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATTEMPT: Duration = Duration::from_secs(14);

    fn lines(log: &mut TroubleLog, start: Instant, reports: &[Option<&str>]) -> Vec<Line> {
        let at = |turn: usize| start + ATTEMPT * u32::try_from(turn).unwrap();
        let note = |(turn, what): (usize, &Option<&str>)| log.note("store", *what, at(turn));
        reports.iter().enumerate().filter_map(note).collect()
    }

    #[test]
    fn a_trouble_that_comes_and_goes_with_each_attempt_is_logged_once() {
        let mut log = TroubleLog::default();
        let (start, down) = (Instant::now(), "the store is down");
        let outage = [Some(down), None].repeat(20);
        assert_eq!(lines(&mut log, start, &outage), [Line::Trouble(down.into())]);
        let after = start + ATTEMPT * 40;
        let resolved = Line::Resolved(down.into());
        assert_eq!(lines(&mut log, after, &[None; 20]), [resolved], "once");
        let again = after + ATTEMPT * 20;
        assert_eq!(lines(&mut log, again, &[Some(down)]), [Line::Trouble(down.into())]);
    }

    #[test]
    fn two_texts_that_take_turns_are_two_lines() {
        let turns = [Some("refused"), Some("timed out")].repeat(20);
        let two = [Line::Trouble("refused".into()), Line::Trouble("timed out".into())];
        assert_eq!(lines(&mut TroubleLog::default(), Instant::now(), &turns), two);
    }

    #[test]
    fn texts_that_never_repeat_come_to_an_end() {
        let texts: Vec<String> = (0..100).map(|n| format!("request {n}")).collect();
        let texts: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
        let logged = lines(&mut TroubleLog::default(), Instant::now(), &texts);
        assert_eq!(logged.len(), MOST_TEXTS);
    }

    #[test]
    fn who_never_had_one_has_none_resolved() {
        let none = lines(&mut TroubleLog::default(), Instant::now(), &[None; 20]);
        assert_eq!(none, []);
    }
}
