//! Whether the scheduler may use a node, and whose wish that is.
//!
//! Guarantees: what skep has changed stands on the node itself ([`MARK`]), with what was there before, and
//! is written together with it. So a drain of an operator's is never undone by skep, one of skep's is undone
//! once its cause is over, whatever was restarted meanwhile, and an operator's later word stands.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::common::labels::{AVAILABILITY as MARK, Labels};

/// Whether the scheduler may use a node; what is greater keeps more tasks away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    Active,
    /// No new tasks.
    Pause,
    /// No tasks.
    Drain,
}

impl Availability {
    const ALL: [Self; 3] = [Self::Active, Self::Pause, Self::Drain];

    /// As Docker writes it.
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

/// What skep has made of a node's availability, and what it was before: `drain, was active`.
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
    /// One that was edited by hand says nothing.
    fn of(labels: &Labels) -> Option<Self> {
        let (set, before) = labels.get(MARK)?.split_once(", was ")?;
        Some(Self { set: Availability::from_word(set)?, before: Availability::from_word(before)? })
    }

    fn write(self, labels: &mut Labels) -> Availability {
        labels.insert(MARK.to_owned(), self.to_string());
        self.set
    }
}

/// What the availability of a node that stays is to be, its mark with it: at least as quiet as `wanted`;
/// without a wish, what it was before skep's.
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
        // Somebody has changed it since, and knows why; but not of a wish for more.
        (Some(mark), Some(wanted)) if wanted > mark.set => {
            Mark { set: now.max(wanted), before: now }
        }
        (Some(_), Some(_)) => return now,
    };
    next.write(labels)
}

/// The availability of a node that leaves, its mark with it, should it stay after all. One that is drained
/// already stays what it is, and whose it is.
#[must_use]
pub fn drained(labels: &mut Labels, now: Availability) -> Availability {
    if now == Availability::Drain {
        return now;
    }
    let before = Mark::of(labels).filter(|mark| mark.set == now).map_or(now, |mark| mark.before);
    Mark { set: Availability::Drain, before }.write(labels)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Availability::{Active, Drain, Pause};
    use super::*;

    /// What happens to the node.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        /// The node wants this, and a manager sees to it.
        Want(Option<Availability>),
        /// It is to leave.
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
        /// Whatever is wished for, by whom and in which order: nothing is written twice for one wish, and
        /// once skep wishes for nothing any more the node is as its operator has last said.
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
                        prop_assert_eq!(before, (labels.clone(), now), "twice is once");
                    }
                    Event::Leave => {
                        now = drained(&mut labels, now);
                        prop_assert_eq!(now, Drain);
                        let before = labels.clone();
                        prop_assert_eq!(drained(&mut labels, now), Drain);
                        prop_assert_eq!(&before, &labels);
                    }
                    Event::Set(to) if to != now => {
                        // Back to what skep had set: it is skep's again.
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
        assert_eq!(drained(&mut labels, Drain), Drain);
        assert_eq!(settle(&mut labels, Drain, None), Drain);
        assert_eq!(drained(&mut labels, Drain), Drain);
        assert!(labels.is_empty(), "nothing of it is skep's");
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
            assert_eq!(drained(&mut labels, Active), Drain);
            assert_eq!(labels[MARK], "drain, was active");
        }
    }
}
