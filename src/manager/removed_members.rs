//! Marks members that the swarm does not list because an operator removed them (`docker node rm --force`): a worker's
//! own Docker is never informed of that.
//!
//! Guarantees: a row is marked only when it names the charter's swarm and generation, and complete node lists of that
//! swarm, with a leader, lacked its node in polls [`LEADER_PATIENCE`] apart; the write is refused when the row has
//! changed meanwhile. A row that names another swarm, or none, is not judged, because this list does not cover it. The
//! node itself does the rest: it leaves and joins again.

use std::time::Duration;

use tokio::time::Instant;

use super::charter::{CHARTER, publish_again, reopen_charter};
use super::complaints::{Complaints, show_unreadable};
use super::duty::{Duty, Poll};
use super::error::ManagerError;
use super::observe::{Fleet, lately};
use super::placed::instance_of;
use crate::clients::docker::NodeView;
use crate::clients::ledger::{Charter, CharterPhase, Member, MemberState};
use crate::common::held_since::HeldSince;
use crate::common::instance::{Membership, Role};
use crate::node::Node;

/// Time between two polls. A worker that was removed from the list reads that within three minutes more.
const INTERVAL: Duration = Duration::from_secs(15);
/// The same for the other managers.
const BACKUP_INTERVAL: Duration = Duration::from_secs(60);
/// Time for which the leader must find a node missing: a node that joined just now may not be in a list yet.
const LEADER_PATIENCE: Duration = Duration::from_secs(30);
/// The same for the other managers, which act when the leader's skep has not.
const BACKUP_PATIENCE: Duration = Duration::from_secs(90);

/// Name of this duty.
const NAME: &str = "removed members";
/// Name under which this duty reports member rows that it cannot read.
pub(super) const ROWS: &str = "members";

/// State that one poll leaves for the next.
#[derive(Default)]
struct Memory {
    /// By node id.
    missing: HeldSince<String>,
    /// The charter as it was last read.
    charter: Option<Charter>,
}

/// Marks the rows of removed members for as long as this node is a manager.
pub(super) async fn run(fleet: &Fleet<'_>) {
    let duty = Duty { name: NAME, first: INTERVAL, after_failure: INTERVAL, trouble: None };
    duty.run(fleet, async |Poll { fleet, memory, complaints }: Poll<'_, Memory>| {
        let polled = poll(fleet, memory, complaints).await;
        if polled.is_err() {
            memory.missing = HeldSince::default();
        }
        polled
    })
    .await;
}

async fn poll(
    fleet: &Fleet<'_>,
    memory: &mut Memory,
    complaints: &mut Complaints,
) -> Result<Duration, ManagerError> {
    let (node, membership) = (fleet.node, fleet.membership);
    // The rows are read first, so that their nodes were in the swarm before the list is read. Only the rows of instances
    // without a node matter.
    let (charter, managers, listed) = tokio::try_join!(
        fleet.charter(lately(INTERVAL)),
        fleet.managers(lately(INTERVAL)),
        fleet.nodes(lately(INTERVAL))
    )?;
    let mut members = managers.copy();
    members.rows.retain(|row| row.role == Role::Manager);
    let mut missing = fleet.worker_ids().await?;
    missing.retain(|id| listed.iter().all(|view| instance_of(view) != Some(id)));
    members.extend(fleet.workers(&missing, lately(INTERVAL)).await?);
    show_unreadable(node, ROWS, &members.unreadable);
    let nodes = fleet.nodes(Instant::now()).await?;
    match &*charter {
        Some(charter) => {
            node.state.trouble(CHARTER, None);
            reopen_charter(node, charter, membership, &nodes).await?;
        }
        // The IAM role of a worker that was promoted by hand may not write the charter.
        None if node.role == Role::Worker => {}
        None => {
            let known = memory.charter.as_ref();
            let published = publish_again(node, membership, &managers.rows, &nodes, known).await?;
            if let Err(why) = published {
                complaints.record(why);
            }
        }
    }
    memory.charter = (*charter).clone().or(memory.charter.take());
    let is_leader = fleet.is_leader(&nodes);
    let interval = if is_leader { INTERVAL } else { BACKUP_INTERVAL };
    let is_charters = charter.as_ref().is_some_and(|charter| {
        charter.phase == CharterPhase::Open
            && charter.generation == membership.generation
            && charter.swarm_id.as_ref() == Some(&membership.swarm_id)
    });
    if !is_charters || !nodes.iter().any(|view| view.id == membership.node_id) {
        memory.missing = HeldSince::default();
        return Ok(interval);
    }
    let patience = if is_leader { LEADER_PATIENCE } else { BACKUP_PATIENCE };
    let missing = &mut memory.missing;
    for row in missing_for(&members.rows, &nodes, membership, patience, missing, nodes.asked_at) {
        let marked = mark(node, row).await;
        complaints.take("marking a missing member", &row.instance_id, marked)?;
    }
    Ok(interval)
}

async fn mark(node: &Node, row: &Member) -> Result<(), ManagerError> {
    if node.ledger.mark_removed(row).await? {
        tracing::warn!(
            instance = row.instance_id,
            node = row.node_id,
            "the swarm no longer lists this member; it must join again"
        );
    }
    Ok(())
}

/// Returns the members whose node has been missing for `patience`. The time starts anew for a node that was listed
/// again.
fn missing_for<'a>(
    members: &'a [Member],
    nodes: &[NodeView],
    own: &Membership,
    patience: Duration,
    since: &mut HeldSince<String>,
    now: Instant,
) -> Vec<&'a Member> {
    let mut missing: Vec<&Member> = members
        .iter()
        .filter(|row| row.swarm_id.as_ref() == Some(&own.swarm_id))
        .filter(|row| row.generation == own.generation && row.state == MemberState::Ready)
        .filter(|row| nodes.iter().all(|view| view.id != row.node_id))
        .collect();
    since.observe(missing.iter().map(|row| row.node_id.clone()), now);
    missing.retain(|row| since.held_for(&row.node_id, now).is_some_and(|held| held >= patience));
    missing
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use time::OffsetDateTime;

    use super::super::charter::generation_of;
    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::tests::fake_engine::{FakeEngine, Instead, RELEASES};
    use crate::clients::ledger::fuzz;
    use crate::common::instance::Instance;

    fn node(id: &str) -> NodeView {
        NodeView { state: "down".into(), ..NodeView::example(id, Role::Worker) }
    }

    fn membership(id: &str, generation: u64, swarm_id: &str) -> Membership {
        let (node_id, swarm_id) = (id.to_owned(), swarm_id.to_owned());
        Membership { node_id, swarm_id, generation, role: Role::Worker }
    }

    fn row(id: &str, generation: u64, state: MemberState) -> Member {
        of_swarm("swarm", id, generation, state)
    }

    fn of_swarm(swarm_id: &str, id: &str, generation: u64, state: MemberState) -> Member {
        let instance = Instance { id: format!("i-{id}"), ..Instance::example() };
        let membership = membership(id, generation, swarm_id);
        Member::new(&instance, &membership, Role::Worker, state, OffsetDateTime::UNIX_EPOCH)
    }

    #[test]
    fn a_charter_is_published_again_under_the_highest_generation_of_its_own_members() {
        let own = membership("me", 2, "swarm");
        let of = |rows: &[Member]| generation_of(&own, rows);
        assert_eq!(of(&[]), Ok(2));
        let rows = |generation| {
            let ready = MemberState::Ready;
            [
                row("me", 2, ready),
                row("later", 3, ready),
                of_swarm("other", "theirs", generation, ready),
            ]
        };
        assert_eq!(of(&rows(1)), Ok(3), "its quorum was re-created meanwhile");
        assert_eq!(of(&rows(3)), Ok(3));
        let later = of(&rows(4)).unwrap_err();
        assert!(later.contains("i-theirs has a row of generation 4"), "{later}");
        let unnamed = of_swarm("", "of an earlier skep", 9, MemberState::Ready);
        assert_eq!(of(&[unnamed]), Ok(2));
    }

    #[test]
    fn only_a_ready_member_of_this_generation_that_stays_missing_is_marked() {
        let (start, patience) = (Instant::now(), Duration::from_secs(30));
        let rows = [
            row("listed", 2, MemberState::Ready),
            row("missing", 2, MemberState::Ready),
            row("older", 1, MemberState::Ready),
            row("leaving", 2, MemberState::Leaving),
            row("marked", 2, MemberState::Removed),
            of_swarm("another", "same generation", 2, MemberState::Ready),
            of_swarm("", "of an earlier skep", 2, MemberState::Ready),
        ];
        let own = membership("me", 2, "swarm");
        let mut since = HeldSince::default();
        let mut look = |seconds: u64, listed: &[&str]| -> Vec<String> {
            let nodes: Vec<NodeView> = listed.iter().map(|id| node(id)).collect();
            let now = start + Duration::from_secs(seconds);
            let due = missing_for(&rows, &nodes, &own, patience, &mut since, now);
            due.into_iter().map(|row| row.node_id.clone()).collect()
        };
        assert!(look(0, &["listed"]).is_empty());
        assert!(look(15, &["listed", "missing"]).is_empty(), "a node that is Down is listed");
        assert!(look(30, &["listed"]).is_empty(), "it was back meanwhile");
        assert!(look(45, &["listed"]).is_empty());
        assert_eq!(look(60, &["listed"]), ["missing"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// Rows with any readable content.
        #[test]
        fn no_row_that_can_be_read_ends_a_look(members in fuzz::members(), nodes in fuzz::nodes()) {
            check_rows(&members.rows, &nodes);
        }
    }

    /// Checks that rows of another generation or swarm are not judged. Returns the number of those to mark.
    pub(in crate::manager) fn check_rows(members: &[Member], nodes: &[NodeView]) -> usize {
        let own = membership("node-0", 1, "swarm");
        let (mut since, start) = (HeldSince::default(), Instant::now());
        let patience = Duration::from_secs(30);
        let mut look = |now| missing_for(members, nodes, &own, patience, &mut since, now);
        assert!(look(start).is_empty());
        let missing = look(start + patience);
        assert!(missing.iter().all(|row| row.generation == 1));
        match generation_of(&own, members) {
            Ok(generation) => assert!(generation >= 1),
            Err(why) => assert!(members.iter().any(|row| row.generation > 1), "{why}"),
        }
        missing.len()
    }

    /// As at boot: the swarm's leader and its labels identify the swarm.
    #[tokio::test]
    async fn a_row_that_cannot_be_read_does_not_keep_a_missing_charter_away() {
        let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
        let node = Node::example(engine.swarm(), &stub).await;
        const NODES: &str = r#"[{ "ID": "n1", "Spec": { "Role": "manager" },
            "ManagerStatus": { "Leader": true, "Reachability": "reachable" } }]"#;
        const SWARM: &str = r#"{ "ID": "c1", "Version": { "Index": 1 },
            "Spec": { "Labels": { "skep.cluster": "prod", "skep.generation": "3" } },
            "JoinTokens": {
                "Worker": "SWMTKN-1-00000000000000000000000000000000000000000000000000-1111111111111111111111111",
                "Manager": "SWMTKN-1-00000000000000000000000000000000000000000000000000-2222222222222222222222222" } }"#;
        for (path, answer) in [("/nodes", NODES), ("/swarm", SWARM)] {
            engine.lock().instead.insert(path, Instead::Answer(answer));
        }
        let key = r#"{ "UnlockKey": "" }"#;
        engine.lock().instead.insert("/swarm/unlockkey", Instead::Answer(key));
        let odd = r#"{ "Items": [{ "item": { "S": "member#manager#i-odd" } }], "Count": 1 }"#;
        stub.always("member$", odd);
        stub.always("member#", "{}");
        stub.always("history", "{}");
        stub.always(r#""S":"charter""#, "{}");
        stub.always("-token/", r#"{ "Version": 1 }"#);
        let membership = membership("n1", 2, "c1");
        let fleet = Fleet::new(&node, &membership);
        let (mut memory, mut complaints) = (Memory::default(), Complaints::default());
        let interval = poll(&fleet, &mut memory, &mut complaints).await.unwrap();
        assert_eq!(interval, INTERVAL, "it is the leader");
        let published = |request: &String| {
            let is_open = request.contains(r#""phase":{"S":"open"}"#);
            is_open && request.contains(r#""generation":{"N":"3"}"#)
        };
        let requests = stub.requests();
        assert!(requests.iter().any(published), "{requests:?}");
        let trouble = node.state.now().trouble.unwrap();
        assert!(trouble.contains("cannot be read: member#manager#i-odd"), "{trouble}");
    }
}
