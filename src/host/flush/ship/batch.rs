//! Cuts lines into batches that CloudWatch Logs accepts.
//!
//! <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html>

use serde::{Deserialize, Serialize};

/// Limit of one `PutLogEvents` in bytes: the messages in UTF-8, and 26 more for each.
pub const MOST_BYTES: usize = 1_048_576;
pub const EVENT_OVERHEAD: usize = 26;
pub const MOST_EVENTS: usize = 10_000;
/// Limit of one event with its overhead: 256 KB everywhere; some regions accept 1 MB.
pub const LARGEST_EVENT: usize = 262_144;
/// A batch spans no more than 24 hours.
pub const LONGEST_SPAN: i64 = 24 * 3600 * 1000;
/// No event may be older than 14 days or more than 2 hours ahead; skep stays an hour within, because sending takes
/// time.
const OLDEST: i64 = (14 * 24 - 1) * 3600 * 1000;
const NEWEST: i64 = 3600 * 1000;

/// One line of one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since 1970.
    #[serde(rename = "timestamp")]
    pub at: i64,
    #[serde(rename = "message")]
    pub text: String,
}

/// The lines that one call sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Name of the lines' source, such as `task/web.1`.
    pub source: String,
    pub events: Vec<Event>,
}

/// Cuts a source's lines into batches, in the order of their time. A line that is too old keeps its text and gets the
/// oldest accepted time; a line that is too long becomes several; an empty line is dropped.
pub fn batches(source: &str, events: Vec<Event>, now: i64) -> Vec<Batch> {
    let mut pieces: Vec<Event> = events.into_iter().flat_map(pieces).collect();
    for event in &mut pieces {
        event.at = event.at.clamp(now - OLDEST, now + NEWEST);
    }
    pieces.sort_by_key(|event| event.at);
    let mut batches: Vec<Batch> = Vec::new();
    let (mut bytes, mut first) = (0, 0);
    for event in pieces {
        let size = event.text.len() + EVENT_OVERHEAD;
        match batches.last_mut() {
            Some(batch)
                if bytes + size <= MOST_BYTES
                    && batch.events.len() < MOST_EVENTS
                    && event.at - first < LONGEST_SPAN =>
            {
                bytes += size;
                batch.events.push(event);
            }
            _ => {
                (bytes, first) = (size, event.at);
                batches.push(Batch { source: source.to_owned(), events: vec![event] });
            }
        }
    }
    batches
}

fn pieces(event: Event) -> Vec<Event> {
    const LONGEST: usize = LARGEST_EVENT - EVENT_OVERHEAD;
    let mut rest = event.text.as_str();
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(LONGEST));
        pieces.push(Event { at: event.at, text: piece.to_owned() });
        rest = after;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    fn event() -> impl Strategy<Value = Event> {
        let text = prop_oneof![
            8 => "[aé\u{1F41D}]{0,20}",
            1 => (1usize..700_000).prop_map(|length| "é".repeat(length)),
        ];
        let at = prop_oneof![
            4 => NOW - 60_000..NOW,
            1 => NOW - 3 * LONGEST_SPAN..NOW + LONGEST_SPAN,
            1 => 0..NOW,
        ];
        (at, text).prop_map(|(at, text)| Event { at, text })
    }

    proptest! {
        /// The service accepts every batch, and no text is lost or duplicated.
        #[test]
        fn batches_are_within_the_limits(
            events in proptest::collection::vec(event(), 0..40),
            copies in 1usize..400,
        ) {
            let mut events = events;
            if let Some(one) = events.first().filter(|one| one.text.len() < 100).cloned() {
                events.extend(std::iter::repeat_n(one, copies * 40));
            }
            let letters: usize = events.iter().map(|event| event.text.len()).sum();
            let found = batches("x", events, NOW);
            let sent: usize =
                found.iter().flat_map(|batch| &batch.events).map(|event| event.text.len()).sum();
            prop_assert_eq!(sent, letters);
            for batch in &found {
                let sizes = batch.events.iter().map(|event| event.text.len() + EVENT_OVERHEAD);
                prop_assert!(sizes.clone().all(|size| size <= LARGEST_EVENT && size > EVENT_OVERHEAD));
                prop_assert!(sizes.sum::<usize>() <= MOST_BYTES);
                prop_assert!((1..=MOST_EVENTS).contains(&batch.events.len()));
                let times: Vec<i64> = batch.events.iter().map(|event| event.at).collect();
                prop_assert!(times.is_sorted());
                prop_assert!(times[times.len() - 1] - times[0] < LONGEST_SPAN);
                prop_assert!(times[0] > NOW - 14 * LONGEST_SPAN);
                prop_assert!(times[times.len() - 1] < NOW + LONGEST_SPAN / 12);
            }
        }
    }
}
