//! Demotes managers that ask for it, because they can be of no use as the node that they are and cannot leave by
//! themselves: see [`crate::clients::ledger::DemotionRequest`].
//!
//! Guarantees: one manager at a time, in turn with departures and dead managers, and never where the rest would have no
//! reachable majority. A node is demoted where the asking instance's row names it and is older than the request. Where
//! no row names it, Docker must list it at the address of the instance's attempt to join, and not as ready and
//! reachable. Nothing is confirmed before the managers' list shows the node as a plain worker, or not at all; no entry
//! is removed before it is confirmed and Down. Each poll starts afresh, and each act is conditional or harmless to
//! repeat.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::complaints::show_unreadable;
use super::duty::{Duty, Poll};
use super::error::ManagerError;
use super::observe::{Fleet, lately};
use crate::clients::docker::{NodeView, Quorum};
use crate::clients::ledger::{Attempt, DemotionRequest, Member, Rows};
use crate::common::instance::Role;
use crate::manager::demotion::{Demotion, demote_under_lease};
use crate::node::Node;

/// Name of this duty, and of its trouble that it cannot read requests.
pub(super) const NAME: &str = "demotion requests";
/// Interval of the leader: a manager that asks is of no use until it is demoted.
const LEADER_INTERVAL: Duration = Duration::from_secs(5);
/// Interval of the other managers, which act when the leader's skep does not, as when the leader is the one that asks.
const BACKUP_INTERVAL: Duration = Duration::from_secs(15);

/// Maximum age of the node list by which a manager decides how often it polls.
const LIST_AGE: Duration = Duration::from_secs(5);

/// Time to wait until a demoted manager is back before the next is demoted: where all ask, as after a change of the
/// configuration, only one manager would be left otherwise. A manager that takes longer is left to its replacement.
const RETURN_PATIENCE: Duration = Duration::from_secs(900);

/// Serves demotion requests for as long as this node is a manager.
pub(super) async fn run(fleet: &Fleet<'_>) {
    let (first, after_failure) = (BACKUP_INTERVAL, BACKUP_INTERVAL);
    Duty { name: NAME, first, after_failure, trouble: None }.run(fleet, poll).await;
}

async fn poll(Poll { fleet, complaints, .. }: Poll<'_, ()>) -> Result<Duration, ManagerError> {
    let node = fleet.node;
    let mut requests = fleet.demotion_requests(lately(LEADER_INTERVAL)).await?;
    if !requests.rows.is_empty() {
        requests = fleet.demotion_requests(Instant::now()).await?;
    }
    show_unreadable(node, NAME, &requests.unreadable);
    let requests = &requests.rows;
    let nodes =
        fleet.nodes(if requests.is_empty() { lately(LIST_AGE) } else { Instant::now() }).await?;
    complaints.retain(|id| requests.iter().any(|request| request.instance_id == id));
    for request in requests {
        let me = &fleet.membership.node_id;
        let step = decide(request, requests, &nodes, me, OffsetDateTime::now_utc());
        let view = nodes.iter().find(|view| view.id == request.node_id);
        match act(node, request, view, step).await {
            Ok(None) => {}
            Ok(Some(what)) => {
                if complaints.is_news(&request.instance_id, &what) {
                    tracing::info!("{NAME}: {} waits for {what}", request.instance_id);
                }
            }
            // A refusal for one request must not delay the others.
            Err(error) => complaints.take(NAME, &request.instance_id, Err(error))?,
        }
    }
    Ok(if fleet.is_leader(&nodes) { LEADER_INTERVAL } else { BACKUP_INTERVAL })
}

/// Carries out the step. Returns the condition that it waits for, if any.
async fn act(
    node: &Node,
    request: &DemotionRequest,
    view: Option<&NodeView>,
    step: Step,
) -> Result<Option<String>, ManagerError> {
    let (id, instance) = (request.node_id.as_str(), request.instance_id.as_str());
    match step {
        Step::None => {}
        Step::Wait { why } => return Ok(Some(why.to_owned())),
        // The Docker of a machine made from a running manager's image has that manager's node, but no row names it for
        // this instance.
        Step::Demote if !is_of_its_instance(node, request, view).await? => {
            return Ok(Some(format!(
                "a ledger row that names {id} as its node, or for Docker to list that node at its address and not as ready and reachable"
            )));
        }
        Step::Demote => match demote_under_lease(node, id).await? {
            Demotion::Accepted => tracing::warn!(
                instance,
                node = id,
                because = request.because,
                "demoted a manager that asked for it"
            ),
            Demotion::HeldUp { waiting_for } => return Ok(Some(waiting_for)),
        },
        Step::Confirm => {
            node.ledger.return_lease(id).await?;
            if node.ledger.confirm_demotion_request(request).await? {
                tracing::info!(instance, node = id, "no longer a manager; it must join again");
            }
        }
        Step::Remove => {
            node.swarm.remove(id).await?;
            tracing::info!(instance, node = id, "removed the entry of a manager that joins again");
        }
    }
    Ok(None)
}

/// Whether the requested node is that of the instance that asks.
async fn is_of_its_instance(
    node: &Node,
    request: &DemotionRequest,
    view: Option<&NodeView>,
) -> Result<bool, ManagerError> {
    let own = node.ledger.fetch_member(Role::Manager, &request.instance_id).await?;
    if let Some(row) = own.filter(|row| row.node_id == request.node_id) {
        // An instance that was Ready after its request no longer asks: its request is about to be deleted.
        return Ok(row.updated_at <= request.at);
    }
    let Some(view) = view else { return Ok(false) };
    let (members, attempt) = tokio::try_join!(
        node.ledger.survey_managers(),
        node.ledger.fetch_attempt(Role::Manager, &request.instance_id)
    )?;
    Ok(is_stuck(view, &members, attempt.as_ref()))
}

/// Whether the attempt to join has led to this entry, and no row names its node. A manager that catches up with raft is
/// Ready and reachable before it has a row.
fn is_stuck(view: &NodeView, members: &Rows<Member>, attempt: Option<&Attempt>) -> bool {
    let is_well = view.is_ready() && view.raft.is_some_and(|raft| raft.is_reachable);
    let is_there =
        |attempt: &Attempt| attempt.role == Role::Manager && view.ip() == Some(attempt.address);
    !is_well
        && attempt.is_some_and(is_there)
        && members.unreadable.is_empty()
        && members.rows.iter().all(|row| row.node_id != view.id)
}

/// Decision about one request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    None,
    Wait {
        why: &'static str,
    },
    Demote,
    /// Record that raft no longer has the node as a member.
    Confirm,
    /// Remove the node's entry from the list.
    Remove,
}

/// Returns the step. `nodes` is the leader's list, `me` the node that polls. Pure.
fn decide(
    request: &DemotionRequest,
    requests: &[DemotionRequest],
    nodes: &[NodeView],
    me: &str,
    now: OffsetDateTime,
) -> Step {
    // The node deletes its request when it is Ready again.
    let is_away = |other: &DemotionRequest| {
        other.is_out
            && other.instance_id != request.instance_id
            && (now - other.at).unsigned_abs() < RETURN_PATIENCE
    };
    if request.node_id == me {
        return Step::None;
    }
    let Some(view) = nodes.iter().find(|view| view.id == request.node_id) else {
        return if request.is_out { Step::None } else { Step::Confirm };
    };
    match view.raft {
        None if view.role == Role::Manager => {
            Step::Wait { why: "raft to have it as a member: the node list has it as a manager" }
        }
        None if !request.is_out => Step::Confirm,
        None if view.is_down() => Step::Remove,
        None => Step::Wait { why: "its skep to leave the swarm" },
        Some(_) if view.role == Role::Worker => Step::Wait { why: "its demotion to take effect" },
        Some(_) if nodes.iter().any(NodeView::is_being_demoted) => {
            Step::Wait { why: "the demotion of another manager to take effect" }
        }
        Some(_) if requests.iter().any(is_away) => {
            Step::Wait { why: "another demoted manager to be back" }
        }
        Some(own) if !Quorum::of(nodes).without(own).is_kept() => Step::Wait {
            why: "a replacement: without this manager the swarm would lose its quorum",
        },
        Some(_) => Step::Demote,
    }
}

#[cfg(test)]
pub(super) mod tests {

    use proptest::prelude::*;

    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::RaftView;
    use crate::clients::docker::tests::fake_engine::{FakeEngine, RELEASES};
    use crate::clients::ledger::MemberState;
    use crate::clients::ledger::fuzz;
    use crate::common::instance::{Instance, Membership};

    /// Returns a node as the list may show it: `raft` is `None` if raft does not have it, else whether raft reaches it.
    fn view(id: usize, role: Role, raft: Option<bool>, is_down: bool) -> NodeView {
        NodeView {
            state: if is_down { "down" } else { "ready" }.into(),
            raft: raft.map(|is_reachable| RaftView { is_leader: id == 0, is_reachable }),
            ..NodeView::example(&format!("node-{id}"), role)
        }
    }

    fn any_node() -> impl Strategy<Value = (Role, Option<bool>, bool)> {
        let role = prop::sample::select(&[Role::Manager, Role::Worker]);
        (role, any::<Option<bool>>(), any::<bool>())
    }

    fn request(node: usize, is_out: bool) -> DemotionRequest {
        let node_id = format!("node-{node}");
        let mut row =
            DemotionRequest::new("i-1", &node_id, "it has moved", OffsetDateTime::UNIX_EPOCH);
        row.is_out = is_out;
        row
    }

    /// Decides with no other request.
    fn decide_alone(request: &DemotionRequest, nodes: &[NodeView], me: &str) -> Step {
        decide(request, std::slice::from_ref(request), nodes, me, OffsetDateTime::UNIX_EPOCH)
    }

    #[test]
    fn a_manager_that_asks_is_demoted_then_let_go_then_forgotten() {
        let well = |id| view(id, Role::Manager, Some(true), false);
        let step = |asks: NodeView, is_out| {
            decide_alone(&request(2, is_out), &[well(0), well(1), asks], "node-0")
        };
        let unreachable = view(2, Role::Manager, Some(false), true);
        assert_eq!(step(unreachable, false), Step::Demote);
        assert_eq!(step(well(2), false), Step::Demote, "even if raft reaches it");
        let going = view(2, Role::Worker, Some(false), true);
        assert!(matches!(step(going, false), Step::Wait { .. }));
        let out = view(2, Role::Worker, None, true);
        assert_eq!(step(out.clone(), false), Step::Confirm);
        assert_eq!(step(out, true), Step::Remove);
        let alive = view(2, Role::Worker, None, false);
        assert!(matches!(step(alive, true), Step::Wait { .. }), "it has not left");
        let nodes = [well(0), well(1)];
        assert_eq!(decide_alone(&request(2, false), &nodes, "node-0"), Step::Confirm, "by hand");
        assert_eq!(decide_alone(&request(2, true), &nodes, "node-0"), Step::None);
    }

    #[test]
    fn a_node_without_a_row_is_its_own_where_its_join_has_come_to_nothing() {
        let at = |address: &str| {
            let address = address.parse().unwrap();
            Attempt::new("i-1", Role::Manager, address, OffsetDateTime::UNIX_EPOCH)
        };
        let listed = |is_down, is_reachable| NodeView {
            address: Some("10.0.0.3".into()),
            ..view(2, Role::Manager, Some(is_reachable), is_down)
        };
        let nobody = Rows::default();
        let (own, hangs) = (at("10.0.0.3"), listed(true, false));
        assert!(is_stuck(&hangs, &nobody, Some(&own)));
        assert!(is_stuck(&listed(true, true), &nobody, Some(&own)));
        assert!(is_stuck(&listed(false, false), &nobody, Some(&own)));
        assert!(!is_stuck(&listed(false, true), &nobody, Some(&own)), "it is about to be Ready");
        assert!(!is_stuck(&hangs, &nobody, None), "it has not started to join");
        assert!(!is_stuck(&hangs, &nobody, Some(&at("10.0.0.4"))), "another host's");
        let worker = Attempt { role: Role::Worker, ..own.clone() };
        assert!(!is_stuck(&hangs, &nobody, Some(&worker)));
        let hidden = Rows { unreadable: ["member#manager#i-2".into()].into(), ..Rows::default() };
        assert!(!is_stuck(&hangs, &hidden, Some(&own)), "it is unknown whose row that is");
        let instance = Instance { id: "i-2".into(), ..Instance::example() };
        let membership = Membership {
            node_id: hangs.id.clone(),
            swarm_id: "swarm".into(),
            generation: 1,
            role: Role::Manager,
        };
        let now = OffsetDateTime::UNIX_EPOCH;
        let row = Member::new(&instance, &membership, Role::Manager, MemberState::Ready, now);
        let others = Rows { rows: vec![row], ..Rows::default() };
        assert!(!is_stuck(&hangs, &others, Some(&own)), "it was Ready");
    }

    /// Then it does not matter whether other rows can be read.
    #[tokio::test]
    async fn a_row_that_names_the_node_counts_where_it_is_older_than_the_request() {
        let mut request = request(2, false);
        request.at = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(100);
        for (node_id, updated_at, is_its) in [
            ("node-2", 40, true),
            ("node-2", 100, true),
            ("node-2", 101, false),
            ("node-3", 40, false),
        ] {
            let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
            let node = Node::example(engine.swarm(), &stub).await;
            let row = serde_json::json!({ "Item": {
                "item": { "S": "member#manager#i-1" },
                "schema": { "N": "2" },
                "instance_id": { "S": "i-1" },
                "role": { "S": "manager" },
                "node_id": { "S": node_id },
                "address": { "S": "10.0.0.3" },
                "zone": { "S": "a" },
                "generation": { "N": "1" },
                "state": { "S": "ready" },
                "updated_at": { "N": updated_at.to_string() },
            } });
            stub.answer(200, &row.to_string());
            let found = is_of_its_instance(&node, &request, None).await.unwrap();
            assert_eq!(found, is_its, "{node_id} {updated_at}");
            assert_eq!(stub.requests().len(), 1);
        }
    }

    #[test]
    fn nobody_is_taken_out_whom_the_quorum_needs() {
        let well = |id| view(id, Role::Manager, Some(true), false);
        let dead = |id| view(id, Role::Manager, Some(false), true);
        let step = |nodes: &[NodeView], me: &str| decide_alone(&request(0, false), nodes, me);
        assert_eq!(step(&[well(0)], "node-0"), Step::None, "the only one");
        assert!(matches!(step(&[well(0), well(1), dead(2)], "node-1"), Step::Wait { .. }));
        assert_eq!(step(&[well(0), well(1)], "node-1"), Step::Demote);
        let going = view(2, Role::Worker, Some(true), false);
        let another = [well(0), well(1), going, well(3)];
        assert!(matches!(step(&another, "node-1"), Step::Wait { .. }), "one at a time");
    }

    #[test]
    fn the_next_goes_when_the_one_before_is_back() {
        let nodes: Vec<NodeView> =
            (0..3).map(|id| view(id, Role::Manager, Some(true), false)).collect();
        let mut before = request(9, true);
        before.instance_id = "i-9".into();
        let step = |before: &DemotionRequest, seconds| {
            let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(seconds);
            decide(&request(2, false), &[before.clone(), request(2, false)], &nodes, "node-0", now)
        };
        assert!(matches!(step(&before, 899), Step::Wait { .. }));
        assert_eq!(step(&before, 900), Step::Demote, "it does not come back");
        before.is_out = false;
        assert_eq!(step(&before, 0), Step::Demote, "it is not demoted");
    }

    proptest! {
        /// For every list: never the node that polls, never below a reachable majority, one at a time; no confirmation,
        /// and no removal, as long as raft counts the node.
        #[test]
        fn the_quorum_is_kept_and_only_who_is_out_is_let_go(
            nodes in prop::collection::vec(any_node(), 0..7),
            asks in 0usize..7,
            me in 0usize..7,
            is_out in any::<bool>(),
        ) {
            let nodes: Vec<NodeView> = nodes
                .into_iter()
                .enumerate()
                .map(|(id, (role, raft, is_down))| view(id, role, raft, is_down))
                .collect();
            let listed = nodes.get(asks);
            let raft = listed.and_then(|view| view.raft);
            match decide_alone(&request(asks, is_out), &nodes, &format!("node-{me}")) {
                Step::None => prop_assert!(asks == me || listed.is_none() && is_out),
                Step::Wait { .. } => prop_assert!(asks != me && listed.is_some()),
                Step::Demote => {
                    let rest: Vec<NodeView> =
                        nodes.iter().filter(|view| Some(*view) != listed).cloned().collect();
                    prop_assert!(asks != me && raft.is_some() && Quorum::of(&rest).is_kept());
                    prop_assert!(!nodes.iter().any(NodeView::is_being_demoted));
                }
                Step::Confirm => {
                    prop_assert!(asks != me && !is_out);
                    prop_assert!(listed.is_none_or(NodeView::is_plain_worker));
                }
                Step::Remove => prop_assert!(
                    asks != me && is_out
                        && listed.is_some_and(|view| view.is_plain_worker() && view.is_down())
                ),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// Rows with any readable content.
        #[test]
        fn no_row_that_can_be_read_ends_a_look(requests in fuzz::rejoins(), nodes in fuzz::nodes()) {
            check_rows(&requests, &nodes);
        }
    }

    /// Checks that this manager, `node-0`, does not serve its own request. Returns the steps.
    pub(in crate::manager) fn check_rows(
        requests: &[DemotionRequest],
        nodes: &[NodeView],
    ) -> String {
        let steps = requests.iter().map(|request| {
            let step = decide(request, requests, nodes, "node-0", fuzz::NOW);
            assert!(step == Step::None || request.node_id != "node-0");
            format!("{step:?} ")
        });
        steps.collect()
    }
}
