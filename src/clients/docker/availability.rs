//! Decides on a node's availability, and records whether skep or the operator has set it.
//!
//! Guarantees: what skep has changed is recorded on the node itself ([`MARK`]), with the availability before it, in the
//! same write. So skep never undoes an operator's drain, undoes its own drain once the cause is over, also after any
//! restart, and leaves an operator's later change as it is.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::common::labels::{AVAILABILITY as MARK, Labels};

/// Whether the scheduler may use a node; a greater value keeps more tasks away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// The scheduler can assign tasks to the node.
    Active,
    /// No new tasks.
    Pause,
    /// No tasks.
    Drain,
}

impl Availability {
    const ALL: [Self; 3] = [Self::Active, Self::Pause, Self::Drain];

    /// Returns Docker's spelling.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pause => "pause",
            Self::Drain => "drain",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|availability| availability.as_str() == word)
    }
}

/// The availability that skep has set, and the availability before it: `drain, was active`.
#[derive(Clone, Copy)]
struct Mark {
    set: Availability,
    before: Availability,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, was {}", self.set.as_str(), self.before.as_str())
    }
}

impl Mark {
    /// Parses the mark; a mark that was edited by hand and cannot be parsed counts as none.
    fn of(labels: &Labels) -> Option<Self> {
        let (set, before) = labels.get(MARK)?.split_once(", was ")?;
        Some(Self { set: Availability::from_word(set)?, before: Availability::from_word(before)? })
    }

    fn write(self, labels: &mut Labels) -> Availability {
        labels.insert(MARK.to_owned(), self.to_string());
        self.set
    }
}

/// Returns the new availability of a node that stays, and updates its mark: at least as strict as `wanted`; without
/// `wanted`, the availability before skep's change.
#[must_use]
pub fn settle(
    labels: &mut Labels,
    now: Availability,
    wanted: Option<Availability>,
) -> Availability {
    let next = match (Mark::of(labels), wanted) {
        (None, None) => return now,
        (None, Some(wanted)) => Mark { set: now.max(wanted), before: now },
        (Some(mark), None) => {
            labels.remove(MARK);
            return if mark.set == now { mark.before } else { now };
        }
        (Some(mark), Some(wanted)) if mark.set == now => {
            Mark { set: mark.before.max(wanted), ..mark }
        }
        // The operator has changed it since, on purpose; but a stricter `wanted` is a new cause.
        (Some(mark), Some(wanted)) if wanted > mark.set => {
            Mark { set: now.max(wanted), before: now }
        }
        (Some(_), Some(_)) => return now,
    };
    next.write(labels)
}

/// Returns the new availability of a node that leaves, at least as strict as `wanted`, and updates its mark for the case
/// that it stays after all. A node that is as strict already keeps its availability and its mark.
#[must_use]
pub fn leaving(labels: &mut Labels, now: Availability, wanted: Availability) -> Availability {
    if now >= wanted {
        return now;
    }
    let before = Mark::of(labels).filter(|mark| mark.set == now).map_or(now, |mark| mark.before);
    Mark { set: wanted, before }.write(labels)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Availability::{Active, Drain, Pause};
    use super::*;

    /// An event that can change a node's availability.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        /// The node requests this, and a manager applies it.
        Want(Option<Availability>),
        /// The node must leave.
        Leave,
        /// `docker node update --availability`.
        Set(Availability),
    }

    fn event() -> impl Strategy<Value = Event> {
        let any = || prop::sample::select(&Availability::ALL[..]);
        prop_oneof![
            3 => prop::option::of(any()).prop_map(Event::Want),
            1 => Just(Event::Leave),
            1 => any().prop_map(Event::Set),
        ]
    }

    proptest! {
        /// For every order of requests and of an operator's changes: a repeated request changes nothing, and once skep
        /// requests nothing any more, the node is as its operator last set it.
        #[test]
        fn what_skep_wants_passes_and_what_the_operator_says_stays(
            first in prop::sample::select(&Availability::ALL[..]),
            events in prop::collection::vec(event(), 0..20),
        ) {
            let (mut labels, mut now) = (Labels::new(), first);
            let mut operators = first;
            for event in events {
                match event {
                    Event::Want(wanted) => {
                        now = settle(&mut labels, now, wanted);
                        let before = (labels.clone(), now);
                        now = settle(&mut labels, now, wanted);
                        prop_assert_eq!(before, (labels.clone(), now), "a repeat changes nothing");
                    }
                    Event::Leave => {
                        now = leaving(&mut labels, now, Drain);
                        prop_assert_eq!(now, Drain);
                        let before = labels.clone();
                        prop_assert_eq!(leaving(&mut labels, now, Drain), Drain);
                        prop_assert_eq!(&before, &labels);
                    }
                    Event::Set(to) if to != now => {
                        // Set back to skep's value, so it counts as skep's again.
                        let mark = Mark::of(&labels).filter(|mark| mark.set == to);
                        (now, operators) = (to, mark.map_or(to, |mark| mark.before));
                    }
                    Event::Set(_) => {}
                }
            }
            prop_assert_eq!(settle(&mut labels, now, None), operators);
            prop_assert!(!labels.contains_key(MARK));
        }
    }

    #[test]
    fn a_standby_drains_and_comes_back() {
        let mut labels = Labels::new();
        assert_eq!(settle(&mut labels, Active, Some(Drain)), Drain);
        assert_eq!(labels[MARK], "drain, was active");
        assert_eq!(settle(&mut labels, Drain, None), Active);
        assert!(labels.is_empty());
    }

    #[test]
    fn an_operators_drain_outlives_skeps() {
        let mut labels = Labels::new();
        assert_eq!(settle(&mut labels, Drain, Some(Pause)), Drain);
        assert_eq!(leaving(&mut labels, Drain, Drain), Drain);
        assert_eq!(settle(&mut labels, Drain, None), Drain);
        assert_eq!(leaving(&mut labels, Drain, Drain), Drain);
        assert!(labels.is_empty(), "skep has changed nothing");
    }

    #[test]
    fn an_operator_who_activates_a_quiet_node_is_obeyed() {
        let mut labels = Labels::new();
        assert_eq!(settle(&mut labels, Active, Some(Pause)), Pause);
        assert_eq!(settle(&mut labels, Active, Some(Pause)), Active, "by hand");
        assert_eq!(settle(&mut labels, Active, Some(Drain)), Drain, "a new cause");
        assert_eq!(settle(&mut labels, Drain, Some(Pause)), Pause);
        assert_eq!(settle(&mut labels, Pause, None), Active);
    }

    #[test]
    fn a_mark_that_was_edited_by_hand_says_nothing() {
        for text in ["", "drain", "drain, was", "drain, was gone"] {
            let mut labels = Labels::from([(MARK.to_owned(), text.to_owned())]);
            assert_eq!(settle(&mut labels, Drain, None), Drain);
            assert_eq!(leaving(&mut labels, Active, Drain), Drain);
            assert_eq!(labels[MARK], "drain, was active");
        }
    }
}
