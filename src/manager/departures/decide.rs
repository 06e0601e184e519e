//! Decides a manager's next act for one departure, from one observation. Pure.

use std::time::Duration;

use time::OffsetDateTime;

use crate::clients::aws::autoscaling::HookResult;
use crate::clients::docker::{Availability, NodeView};
use crate::clients::ledger::{DepartureRow, DepartureState};

/// Time for which `skep status` shows an ended departure; then its row is deleted, because every poll of the leader
/// reads all rows.
const TOLD_FOR: Duration = Duration::from_secs(3600);
/// Time after the deadline within which a node must have reported the end of its departure: a node reports it within a
/// minute, and a restarted skep needs `leave.shutdown_deadline` more, which is added. Clocks differ by less than the
/// rest.
const OVERDUE_AFTER: Duration = Duration::from_secs(300);

/// One act; another poll follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing remains to be done.
    None,
    /// Wait for the node itself, or for its tasks.
    Wait,
    /// Keep new tasks away from a node that must not be drained yet.
    Pause,
    /// Drain the node, then record it.
    Drain,
    /// Record that Docker has started to drain the node.
    MarkDraining,
    /// Record that no task is left.
    MarkDrained,
    /// Record that raft no longer has the node as a member.
    ConfirmDemotion,
    /// Demote a manager: one that has left and lost its state, or one that is drained on behalf of its dead skep.
    Demote,
    /// For a node whose skep does not answer: complete its termination hook, and record that it has left.
    Release(HookResult),
    /// Remove the node from the list, then record it.
    Remove,
    /// Record that the deadline came first: managers stop serving the departure.
    MarkFailed,
    /// Delete the row: nothing reads it any more.
    Forget,
}

/// Facts about a departure that depend on the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Age {
    /// The deadline has passed: the machine is gone, whether or not the node has left.
    pub is_past_deadline: bool,
    /// The node must have reported the end of its departure long ago.
    pub is_overdue: bool,
    /// `skep status` has shown it for long enough.
    pub is_history: bool,
    /// Managers act for the node, and it has reported nothing for as long as a living skep would need.
    pub is_silent: bool,
    /// The node must not be drained yet: it may still receive traffic, or others come before it.
    pub is_held: bool,
}

impl Age {
    /// Returns the age of a departure at `now`; `shutdown` is `leave.shutdown_deadline`.
    #[must_use]
    pub fn of(
        row: &DepartureRow,
        is_silent: bool,
        shutdown: Duration,
        now: OffsetDateTime,
    ) -> Self {
        Self {
            is_silent,
            is_past_deadline: row.deadline < now,
            is_overdue: row.deadline + OVERDUE_AFTER + shutdown < now,
            is_history: row.requested_at + TOLD_FOR < now,
            is_held: row.is_held(now),
        }
    }
}

/// Returns the next act. `node` and `live_tasks` are Docker's answers; a node that the swarm does not list has no
/// tasks. `is_self`: the departing node is the one that decides.
#[must_use]
pub fn decide(
    row: &DepartureRow,
    node: Option<&NodeView>,
    live_tasks: usize,
    is_self: bool,
    age: Age,
) -> Action {
    let is_drained = node.is_none_or(|node| node.availability == Availability::Drain);
    if let Some(node) = node
        && row.role == crate::common::instance::Role::Manager
        && row.state < DepartureState::Left
        && !row.demoted
        && !is_self
        && node.is_plain_worker()
    {
        return Action::ConfirmDemotion;
    }
    if row.stand_in && row.state < DepartureState::Left {
        return if is_self { Action::Wait } else { stand_in(row, node, live_tasks, age) };
    }
    match row.state {
        DepartureState::Removed if age.is_history => Action::Forget,
        DepartureState::Removed => Action::None,
        // The node died during its departure, and a manager or the operator has removed it from the list.
        _ if node.is_none() && age.is_past_deadline => Action::Remove,
        DepartureState::Failed if age.is_history => Action::Forget,
        DepartureState::Failed => Action::None,
        // The node stays on the list, and must not be drained again after an operator has activated it.
        state if state < DepartureState::Left && !is_self && has_failed(node, age) => {
            Action::MarkFailed
        }
        DepartureState::Requested if !is_drained && age.is_held => hold(node),
        DepartureState::Requested | DepartureState::Draining if !is_drained => Action::Drain,
        DepartureState::Requested => Action::MarkDraining,
        DepartureState::Draining if live_tasks == 0 => Action::MarkDrained,
        DepartureState::Draining | DepartureState::Drained => Action::Wait,
        DepartureState::Left => has_left(node, live_tasks),
    }
}

/// Returns the act for a node that must not be drained yet: it keeps its tasks, and serves what reaches it.
fn hold(node: Option<&NodeView>) -> Action {
    match node {
        Some(node) if node.availability == Availability::Active => Action::Pause,
        _ => Action::Wait,
    }
}

/// Returns the act for a row in the state `left`. Nothing but the row claims that, and any process with the node's role
/// may have written it. Docker calls a node Down some 15 s after it has left; managers do not wait for that where no task
/// can be lost: the node was drained, as by a departure, and has no task. A manager that raft reaches has not left. Where
/// Docker keeps calling the node Ready, the row is not true, and managers do nothing until it expires.
fn has_left(node: Option<&NodeView>, live_tasks: usize) -> Action {
    let Some(node) = node else { return Action::Remove };
    let is_reachable = node.raft.is_some_and(|raft| raft.is_reachable);
    let is_empty = node.availability == Availability::Drain && live_tasks == 0;
    match node.is_plain_worker() {
        true if node.is_down() || is_empty => Action::Remove,
        false if node.is_down() && !is_reachable => Action::Demote,
        _ => Action::Wait,
    }
}

/// Whether nothing continues the departure: the node has not reported its end, or its machine is Down.
fn has_failed(node: Option<&NodeView>, age: Age) -> bool {
    age.is_overdue || age.is_past_deadline && node.is_some_and(NodeView::is_down)
}

/// Returns the act where managers also do the node's own part. On a node that is Down nothing can stop the tasks any
/// more, and its machine ends in any case: its hook must not delay the replacement. But Down, or off the list,
/// describes only Docker, and the node's skep may be flushing logs: it counts as dead only if it stays silent.
fn stand_in(row: &DepartureRow, node: Option<&NodeView>, live_tasks: usize, age: Age) -> Action {
    let is_given_up = age.is_silent || age.is_past_deadline;
    let Some(node) = node else {
        return if is_given_up { Action::Release(HookResult::Continue) } else { Action::Wait };
    };
    let is_drained = row.state >= DepartureState::Drained;
    if is_drained && node.is_plain_worker() {
        return Action::Release(HookResult::Continue);
    }
    if age.is_past_deadline || node.is_down() && is_given_up {
        return Action::Release(HookResult::Abandon);
    }
    if node.is_down() {
        return Action::Wait;
    }
    match row.state {
        _ if is_drained => Action::Demote,
        DepartureState::Requested if node.availability != Availability::Drain && age.is_held => {
            hold(Some(node))
        }
        _ if node.availability != Availability::Drain => Action::Drain,
        DepartureState::Requested => Action::MarkDraining,
        _ if live_tasks == 0 => Action::MarkDrained,
        _ => Action::Wait,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::OffsetDateTime;

    use super::*;
    use crate::clients::docker::RaftView;
    use crate::common::instance::{Departure, Reason, Role};

    const STATES: [DepartureState; 6] = [
        DepartureState::Requested,
        DepartureState::Draining,
        DepartureState::Drained,
        DepartureState::Left,
        DepartureState::Removed,
        DepartureState::Failed,
    ];

    fn row(role: Role, state: DepartureState) -> DepartureRow {
        let now = OffsetDateTime::UNIX_EPOCH;
        let departure = Departure { reason: Reason::Spot, noticed_at: now, deadline: now };
        let mut row = DepartureRow::request("i-1", "node", role, &departure, "boot");
        row.state = state;
        row
    }

    fn node(is_manager: bool, is_drained: bool) -> NodeView {
        NodeView {
            availability: if is_drained { Availability::Drain } else { Availability::Active },
            ..NodeView::example("node", if is_manager { Role::Manager } else { Role::Worker })
        }
    }

    proptest! {
        /// For every row and swarm: no node is removed before it has left, and no raft member ever; no node counts as
        /// drained that has a task or may get one.
        #[test]
        fn nothing_is_removed_or_called_drained_too_early(
            state in prop::sample::select(&STATES),
            is_manager in any::<bool>(),
            raft in any::<bool>(),
            drained in any::<bool>(),
            known in any::<bool>(),
            tasks in 0usize..3,
            is_self in any::<bool>(),
            (is_past_deadline, is_overdue) in any::<(bool, bool)>(),
            is_history in any::<bool>(),
            (is_down, is_reachable) in any::<(bool, bool)>(),
            (stand_in, is_silent) in any::<(bool, bool)>(),
            is_held in any::<bool>(),
        ) {
            let role = if is_manager { Role::Manager } else { Role::Worker };
            let node = known.then(|| node(raft, drained));
            let is_overdue = is_overdue && is_past_deadline;
            let age = Age { is_past_deadline, is_overdue, is_history, is_silent, is_held };
            let is_down = is_down && known;
            let node = node.map(|node| NodeView {
                state: if is_down { "down" } else { "ready" }.into(),
                raft: node.raft.map(|raft| RaftView { is_reachable, ..raft }),
                ..node
            });
            let has_gone = !known || is_down && !(raft && is_reachable);
            let is_empty = known && drained && tasks == 0;
            let mut row = row(role, state);
            row.stand_in = stand_in;
            let action = decide(&row, node.as_ref(), tasks, is_self, age);
            match action {
                Action::Remove => {
                    let is_ended = !stand_in || state == DepartureState::Failed;
                    prop_assert!(state == DepartureState::Left || node.is_none() && is_ended);
                    prop_assert!(!(known && raft) && (has_gone || is_empty));
                }
                Action::MarkFailed => {
                    prop_assert!(state < DepartureState::Left && known && !is_self && !stand_in);
                    prop_assert!(is_overdue || is_past_deadline && is_down);
                }
                Action::MarkDrained => prop_assert!(tasks == 0 && (drained || !known)),
                Action::MarkDraining => prop_assert!(drained || !known),
                Action::ConfirmDemotion => prop_assert!(!raft && !is_self),
                Action::Forget => prop_assert!(is_history && state.is_over()),
                Action::Demote => {
                    let is_ready_for_it = state == DepartureState::Left && has_gone
                        || stand_in && state == DepartureState::Drained && !is_self;
                    prop_assert!(is_ready_for_it && raft);
                }
                Action::Release(result) => {
                    prop_assert!(stand_in && !is_self && state < DepartureState::Left);
                    // CONTINUE must be true: the tasks have ended, and raft does not count the node.
                    let is_true = state == DepartureState::Drained && !raft || !known;
                    prop_assert_eq!(result == HookResult::Continue, is_true);
                    prop_assert!(is_true || is_down || is_past_deadline);
                    let is_drained = known && is_true;
                    prop_assert!(is_drained || is_silent || is_past_deadline, "its skep may be alive");
                }
                Action::Pause => {
                    prop_assert!(is_held && !drained && state == DepartureState::Requested);
                }
                Action::Drain => {
                    prop_assert!(!is_held || state != DepartureState::Requested);
                    let is_given_up = is_overdue && !is_self && !stand_in;
                    prop_assert!(!state.is_over() && !is_given_up);
                }
                Action::Wait | Action::None => {}
            }
        }
    }

    /// Without a skep of its own, a node is drained, demoted, released and removed.
    #[test]
    fn a_node_whose_skep_is_dead_is_served_to_its_end() {
        for is_manager in [false, true] {
            let role = if is_manager { Role::Manager } else { Role::Worker };
            let mut seen = node(is_manager, false);
            let mut row = row(role, DepartureState::Requested);
            row.stand_in = true;
            let (mut tasks, mut story) = (1, vec![]);
            while row.state != DepartureState::Removed {
                let action = decide(&row, Some(&seen), tasks, false, Age::default());
                story.push(action);
                match action {
                    Action::Drain => seen.availability = Availability::Drain,
                    Action::MarkDraining => row.state = DepartureState::Draining,
                    Action::MarkDrained => row.state = DepartureState::Drained,
                    Action::Wait => tasks -= 1,
                    Action::Demote => (seen.role, seen.raft) = (Role::Worker, None),
                    Action::ConfirmDemotion => row.demoted = true,
                    Action::Release(_) => row.state = DepartureState::Left,
                    Action::Remove => row.state = DepartureState::Removed,
                    Action::Pause | Action::None | Action::Forget | Action::MarkFailed => {
                        panic!("{story:?}")
                    }
                }
            }
            let drain =
                [Action::Drain, Action::MarkDraining, Action::Wait, Action::MarkDrained].to_vec();
            let demote = [Action::Demote, Action::ConfirmDemotion];
            let end = [Action::Release(HookResult::Continue), Action::Remove];
            let between = if is_manager { &demote[..] } else { &[] };
            assert_eq!(story, [&drain[..], between, &end].concat());
        }
    }

    #[test]
    fn a_node_that_receives_traffic_gets_no_new_tasks_and_keeps_its_own() {
        let row = row(Role::Worker, DepartureState::Requested);
        let held = Age { is_held: true, ..Age::default() };
        let mut seen = node(false, false);
        assert_eq!(decide(&row, Some(&seen), 1, false, held), Action::Pause);
        seen.availability = Availability::Pause;
        assert_eq!(decide(&row, Some(&seen), 1, false, held), Action::Wait);
        assert_eq!(decide(&row, Some(&seen), 1, false, Age::default()), Action::Drain);
    }

    /// Docker died on the node while its skep flushes, or the ledger did not answer when it asked to leave.
    #[test]
    fn a_node_that_is_down_is_given_up_only_once_its_skep_must_have_spoken() {
        let down = NodeView { state: "down".into(), ..node(false, false) };
        let mut row = row(Role::Worker, DepartureState::Requested);
        row.stand_in = true;
        let silent = Age { is_silent: true, ..Age::default() };
        let late = Age { is_past_deadline: true, ..Age::default() };
        for (node, result) in [(Some(&down), HookResult::Abandon), (None, HookResult::Continue)] {
            assert_eq!(decide(&row, node, 0, false, Age::default()), Action::Wait);
            for age in [silent, late] {
                assert_eq!(decide(&row, node, 0, false, age), Action::Release(result), "{age:?}");
            }
        }
    }

    /// A failed departure does not drain a node again that an operator has activated.
    #[test]
    fn a_node_whose_departure_has_failed_is_not_drained_again() {
        let active = node(false, false);
        let overdue = Age { is_past_deadline: true, is_overdue: true, ..Age::default() };
        for state in [DepartureState::Requested, DepartureState::Draining, DepartureState::Drained]
        {
            let mut row = row(Role::Worker, state);
            let late = Age { is_overdue: false, ..overdue };
            assert_ne!(
                decide(&row, Some(&active), 1, false, late),
                Action::MarkFailed,
                "{state:?}"
            );
            assert_eq!(decide(&row, Some(&active), 1, false, overdue), Action::MarkFailed);
            assert_ne!(
                decide(&row, Some(&active), 1, true, overdue),
                Action::MarkFailed,
                "its own"
            );
            let dead = NodeView { state: "down".into(), ..active.clone() };
            assert_eq!(decide(&row, Some(&dead), 1, false, late), Action::MarkFailed, "at once");
            row.state = DepartureState::Failed;
            assert_eq!(decide(&row, Some(&active), 1, false, overdue), Action::None);
            assert_eq!(
                decide(&row, None, 0, false, overdue),
                Action::Remove,
                "it was removed since"
            );
            let history = Age { is_history: true, ..overdue };
            assert_eq!(decide(&row, Some(&active), 1, false, history), Action::Forget);
        }
    }

    /// If its tasks end and the node continues, every departure reaches `removed`.
    #[test]
    fn a_departure_is_served_to_its_end() {
        let mut worker = node(false, false);
        let mut seen = row(Role::Worker, DepartureState::Requested);
        let mut tasks = 2;
        for _ in 0..10 {
            match decide(&seen, Some(&worker), tasks, false, Age::default()) {
                Action::Drain => worker.availability = Availability::Drain,
                Action::MarkDraining => seen.state = DepartureState::Draining,
                Action::MarkDrained => seen.state = DepartureState::Left,
                Action::Wait => tasks -= 1,
                Action::Remove => seen.state = DepartureState::Removed,
                action => return assert_eq!(action, Action::None),
            }
        }
        panic!("it hangs at {:?}", seen.state);
    }

    /// Any worker's IAM role may write such a row.
    #[test]
    fn a_row_that_says_left_proves_nothing_against_docker() {
        let row = row(Role::Manager, DepartureState::Left);
        let overdue = Age { is_past_deadline: true, is_overdue: true, ..Age::default() };
        let look = |node: &NodeView| {
            let overdue = decide(&row, Some(node), 0, false, overdue);
            assert_eq!(decide(&row, Some(node), 0, false, Age::default()), overdue);
            overdue
        };
        for there in [node(false, false), node(true, false), node(true, true)] {
            for state in ["ready", "unknown", "disconnected"] {
                let there = NodeView { state: state.into(), ..there.clone() };
                assert_eq!(look(&there), Action::Wait, "it may still be there: {state}");
            }
        }
        let drained = node(false, true);
        assert_eq!(decide(&row, Some(&drained), 1, false, Age::default()), Action::Wait);
        assert_eq!(look(&drained), Action::Remove, "no task can be lost");
        let reachable = NodeView { state: "down".into(), ..node(true, true) };
        assert_eq!(look(&reachable), Action::Wait, "raft reaches it");
        let raft = reachable.raft.map(|raft| RaftView { is_reachable: false, ..raft });
        let gone = NodeView { raft, ..reachable };
        assert_eq!(look(&gone), Action::Demote, "it has lost its state");
        let demoted = NodeView { raft: None, role: Role::Worker, ..gone };
        assert_eq!(look(&demoted), Action::Remove);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// A departure row with any readable content.
        #[test]
        fn no_row_that_can_be_read_ends_a_look(
            row in crate::clients::ledger::fuzz::departure(),
            is_drained in any::<bool>(),
            (is_self, is_silent) in any::<(bool, bool)>(),
        ) {
            let now = crate::clients::ledger::fuzz::NOW;
            let age = Age::of(&row, is_silent, Duration::from_secs(7 * 24 * 3600), now);
            prop_assert!(age.is_past_deadline || !age.is_overdue);
            let action = decide(&row, Some(&node(true, is_drained)), 0, is_self, age);
            prop_assert!(action != Action::Remove, "raft counts it");
        }
    }
}
