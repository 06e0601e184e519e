//! Determines whether this manager's swarm has a leader. No other place reports a lost quorum: page, `skep status`,
//! metrics, health text, log and doctor show the result of this one.
//!
//! Guarantees: the quorum counts as lost only after Docker itself has answered that there is no leader, in every poll
//! for [`ELECTION`]; an error, a missing answer or a node list without a leader cannot tell, and neither starts nor
//! ends a lost quorum. No decision rests on it: `skep recover` makes its own observation.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::complaints::Complaints;
use super::duty::{Duty, Poll};
use super::error::ManagerError;
use super::observe::{Fleet, lately};
use super::peers::has_leader;
use crate::clients::docker::{NodeView, Quorum};
use crate::common::errors::chain;
use crate::common::fact::Fact;
use crate::common::timing::ELECTION;
use crate::node::Node;
use crate::telemetry::metrics::metrics;

/// Name of this duty.
const NAME: &str = "quorum";
/// Time between two polls, and maximum age of the node list.
const INTERVAL: Duration = Duration::from_secs(5);
/// A moment by the monotonic clock and by the wall clock.
#[derive(Clone, Copy, Debug)]
struct Moment {
    at: Instant,
    time: OffsetDateTime,
}

impl Moment {
    fn now() -> Self {
        Self { at: Instant::now(), time: OffsetDateTime::now_utc() }
    }
}

/// Conclusion from the polls so far.
#[derive(Clone, Copy, Debug, Default)]
enum Leadership {
    /// No basis for a conclusion.
    #[default]
    Unknown,
    Led,
    /// No leader for less time than an election may take.
    Leaderless {
        since: Moment,
    },
    Lost {
        since: OffsetDateTime,
    },
}

/// Returns the conclusion after a poll that began at `began` and ended at `now`.
fn decide(before: Leadership, leader: Fact, began: Moment, now: Instant) -> Leadership {
    match (leader, before) {
        (Fact::Yes, _) => Leadership::Led,
        (_, Leadership::Lost { .. }) => before,
        (Fact::CannotTell, _) => Leadership::Unknown,
        (Fact::No, _) => {
            let since = match before {
                Leadership::Leaderless { since } => since,
                _ => began,
            };
            if now - since.at >= ELECTION {
                Leadership::Lost { since: since.time }
            } else {
                Leadership::Leaderless { since }
            }
        }
    }
}

impl Leadership {
    fn lost_since(self) -> Option<OffsetDateTime> {
        match self {
            Self::Lost { since } => Some(since),
            _ => None,
        }
    }
}

/// Shows whether the swarm has a leader, for as long as this node is a manager.
pub(super) async fn run(fleet: &Fleet<'_>) {
    let duty = Duty { name: NAME, first: Duration::ZERO, after_failure: INTERVAL, trouble: None };
    // A new watch has no better information than this node shows.
    let shown = fleet.node.state.now().quorum_lost_since;
    let shown = shown.map_or(Leadership::Unknown, |since| Leadership::Lost { since });
    duty.run(fleet, async |Poll { fleet, memory, complaints }| {
        poll(fleet, memory, complaints, shown).await
    })
    .await;
}

/// Polls once. `memory` is the conclusion from the polls so far, `shown` the one before the first poll.
async fn poll(
    fleet: &Fleet<'_>,
    memory: &mut Option<Leadership>,
    complaints: &mut Complaints,
    shown: Leadership,
) -> Result<Duration, ManagerError> {
    let began = Moment::now();
    let answer = fleet.nodes(lately(INTERVAL)).await;
    let (leader, nodes) = match &answer {
        Err(error) if error.is_not_manager() => return answer.map(|_| INTERVAL),
        Err(error) => {
            (error.of_docker().map_or(Fact::CannotTell, |error| has_leader(Err(error))), &[][..])
        }
        Ok(nodes) => (has_leader(Ok(nodes)), &nodes[..]),
    };
    if let Err(error) = &answer {
        complaints.record(chain(error));
    }
    let leadership = decide(memory.unwrap_or(shown), leader, began, Instant::now());
    *memory = Some(leadership);
    show_margin(leader, nodes);
    fleet.node.state.set_quorum_lost(leadership.lost_since());
    Ok(INTERVAL)
}

/// Stops showing the quorum, on a node that cannot observe it.
pub(super) fn stop_showing(node: &Node) {
    node.state.set_quorum_lost(None);
    metrics().quorum(None, None);
}

fn show_margin(leader: Fact, nodes: &[NodeView]) {
    let quorum = Quorum::of(nodes);
    match leader {
        Fact::Yes => metrics().quorum(Some(quorum.may_be_lost() as f64), Some(quorum.managers)),
        Fact::No => metrics().quorum(Some(-1.0), None),
        Fact::CannotTell => metrics().quorum(None, None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::tests::fake_engine::{FakeEngine, Instead, RELEASES};
    use crate::common::instance::Membership;

    fn fact() -> impl Strategy<Value = Fact> {
        prop::sample::select(vec![Fact::Yes, Fact::No, Fact::CannotTell])
    }

    /// Runs polls that take some seconds each, with pauses of [`INTERVAL`]. Returns the leadership and the truth after
    /// each.
    fn run(looks: &[(Fact, u64)]) -> Vec<(Leadership, Truth)> {
        let start = Moment::now();
        let (mut leadership, mut truth) = (Leadership::Unknown, Truth::default());
        let mut second = 0;
        let mut seen = vec![];
        for (leader, takes) in looks {
            let began = at(start, second);
            second += takes;
            leadership = decide(leadership, *leader, began, at(start, second).at);
            truth.take_in(*leader, began, second - takes, second);
            seen.push((leadership, truth));
            second += INTERVAL.as_secs();
        }
        seen
    }

    fn at(start: Moment, second: u64) -> Moment {
        let later = Duration::from_secs(second);
        Moment { at: start.at + later, time: start.time + later }
    }

    /// An independent definition: the last unbroken run of noes, and whether it was ever long enough since the last
    /// yes.
    #[derive(Clone, Copy, Debug, Default)]
    struct Truth {
        noes_since: Option<(u64, OffsetDateTime)>,
        lost_since: Option<OffsetDateTime>,
    }

    impl Truth {
        fn take_in(&mut self, leader: Fact, began: Moment, from: u64, until: u64) {
            match leader {
                Fact::Yes => *self = Self::default(),
                Fact::CannotTell => self.noes_since = None,
                Fact::No => {
                    let (first, time) = *self.noes_since.get_or_insert((from, began.time));
                    if until - first >= ELECTION.as_secs() {
                        self.lost_since = self.lost_since.or(Some(time));
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn only_noes_without_a_break_lose_it_and_only_a_leader_ends_it(
            looks in prop::collection::vec((fact(), 0u64..32), 0..30)
        ) {
            for (leadership, truth) in run(&looks) {
                prop_assert_eq!(leadership.lost_since(), truth.lost_since);
            }
        }
    }

    /// As when a departure starts while the quorum is lost and Docker is slow.
    #[tokio::test]
    async fn a_docker_that_does_not_answer_does_not_end_it_when_the_watch_begins_anew() {
        let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
        let node = Node::example(engine.swarm(), &stub).await;
        let membership = Membership::example();
        let since = OffsetDateTime::UNIX_EPOCH;
        node.state.set_quorum_lost(Some(since));
        engine.lock().instead.insert("/nodes", Instead::Refusal(500, "busy"));
        let fleet = Fleet::new(&node, &membership);
        let (mut memory, mut complaints) = (None, Complaints::default());
        let shown = Leadership::Lost { since };
        assert_eq!(poll(&fleet, &mut memory, &mut complaints, shown).await.unwrap(), INTERVAL);
        assert!(complaints.end_poll().is_some_and(|failure| failure.contains("busy")));
        assert_eq!(node.state.now().quorum_lost_since, Some(since));

        engine.lock().instead.insert("/nodes", Instead::Refusal(503, "not a swarm manager"));
        let ended = poll(&fleet, &mut memory, &mut complaints, shown).await.unwrap_err();
        assert!(ended.is_not_manager());
        stop_showing(&node);
        assert_eq!(node.state.now().quorum_lost_since, None, "it cannot observe the quorum");
    }

    #[test]
    fn an_election_is_not_a_lost_quorum() {
        let lost = |looks: &[(Fact, u64)]| run(looks).last().unwrap().0.lost_since().is_some();
        let no = (Fact::No, 1);
        assert!(!lost(&[(Fact::Yes, 0), no, no, no]));
        assert!(lost(&[(Fact::Yes, 0), no, no, no, no, no, no]));
        assert!(lost(&[(Fact::Yes, 0), (Fact::No, 30)]), "Docker itself has waited for 30 s");
        let silence = (Fact::CannotTell, 30);
        assert!(
            !lost(&[(Fact::Yes, 0), no, silence, silence, no]),
            "a missing answer proves nothing"
        );
        assert!(lost(&[(Fact::No, 30), silence, silence]), "a missing answer does not end it");
    }
}
