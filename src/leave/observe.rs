//! What a departing node looks at.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::act::LeaveError;
use super::budget::Budget;
use super::decide::{Clock, Observed};
use crate::metrics::{Stopwatch, metrics};
use crate::node::Node;
use crate::swarm::{CLUSTER_LABEL, LocalNode, LocalState, NodeView, Quorum, TaskContainer};

/// How long another manager gets to confirm a demotion or a removal; it looks every 5 s at most.
const CONFIRMATION_PATIENCE: Duration = Duration::from_secs(15);
/// See `boot::decide::SETTLE_TIME`.
const SETTLE_PATIENCE: Duration = Duration::from_secs(25);
/// A replacement of the last manager boots within minutes, or not at all.
const RELIEF_PATIENCE: Duration = Duration::from_secs(300);

/// What cannot be read anywhere: since when this process waits, and whether it has flushed. After
/// a restart it is taken from the start again, which only costs time.
pub struct Memory {
    start: Instant,
    pub is_flushed: bool,
    /// How many tasks ran here at the last look.
    running_tasks: usize,
    pub stopwatch: Stopwatch,
    /// Containers that have had their SIGTERM from here.
    pub asked_to_stop: HashSet<String>,
    /// What runs here, as of the last look.
    pub containers: Vec<TaskContainer>,
    /// The graces that containers have told.
    pub graces: HashMap<String, Option<u64>>,
    /// Whether this node is out, and since when only somebody's word is missing: that it is a
    /// manager no more, or off the list.
    word_missing: Option<(bool, Instant)>,
    /// Known for good once it is known: whose swarm Docker is in.
    is_ours: Option<bool>,
}

impl Memory {
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            is_flushed: false,
            running_tasks: 0,
            stopwatch: Stopwatch::default(),
            asked_to_stop: HashSet::new(),
            containers: Vec::new(),
            graces: HashMap::new(),
            word_missing: None,
            is_ours: None,
        }
    }
}

pub async fn observe(
    node: &Node,
    is_withdrawn: bool,
    budget: &Budget,
    memory: &mut Memory,
) -> Result<Observed, LeaveError> {
    let (local, row, containers) = tokio::join!(
        node.swarm.fetch_local_node(),
        node.ledger.fetch_departure(&node.instance.id),
        node.swarm.fetch_containers(),
    );
    let (local, containers) = (local?, containers?);
    let is_ledger_readable = match &row {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!("the ledger does not answer: {}", crate::errors::chain(error));
            false
        }
    };
    // What an earlier life of this machine asked for is void: another start, or another node.
    let row = row.ok().flatten().filter(|row| {
        row.boot_id == node.boot_id && local.node_id.as_ref().is_none_or(|id| *id == row.node_id)
    });
    let is_ours = match memory.is_ours {
        Some(known) => known,
        None => {
            let known = is_ours(node, &local).await;
            if local.state == LocalState::Active {
                memory.is_ours = known;
            }
            known.unwrap_or_default()
        }
    };
    let list = if local.is_manager && is_ours {
        look_as_manager(node, &local).await
    } else {
        ManagersLook::default()
    };
    memory.containers.clone_from(&containers);
    let (tasks, standalone): (Vec<_>, Vec<_>) =
        containers.into_iter().partition(|container| container.task_id.is_some());
    metrics().tasks_drained(memory.running_tasks.saturating_sub(tasks.len()));
    memory.running_tasks = tasks.len();
    let is_out = local.state == LocalState::Inactive;
    let is_word_missing = is_out || !local.is_manager && memory.is_flushed && tasks.is_empty();
    memory.word_missing = is_word_missing.then(|| match memory.word_missing {
        Some((was_out, since)) if was_out == is_out => (is_out, since),
        _ => (is_out, Instant::now()),
    });
    Ok(Observed {
        is_withdrawn,
        is_ours,
        row,
        is_ledger_readable,
        node: list.own,
        task_containers: tasks.len(),
        standalone_containers: standalone.len(),
        listed_tasks: list.tasks,
        is_flushed: memory.is_flushed,
        is_last_manager: list.is_last,
        quorum: list.quorum,
        is_other_going: list.is_other_going,
        clock: clock(budget, memory),
        local,
    })
}

fn clock(budget: &Budget, memory: &Memory) -> Clock {
    let now = Instant::now();
    let waited = now - memory.start;
    Clock {
        patience_over: now >= budget.patience_until,
        drain_over: now >= budget.drain_until,
        leave_due: now >= budget.flush_until,
        over: now >= budget.deadline,
        confirmation_over: memory
            .word_missing
            .is_some_and(|(_, since)| now - since >= CONFIRMATION_PATIENCE),
        settle_over: waited >= SETTLE_PATIENCE,
        relief_over: waited >= RELIEF_PATIENCE,
    }
}

/// What a manager reads in the node list: all unknown without a leader.
#[derive(Default)]
struct ManagersLook {
    own: Option<NodeView>,
    tasks: Option<usize>,
    is_last: bool,
    quorum: Quorum,
    is_other_going: bool,
}

async fn look_as_manager(node: &Node, local: &LocalNode) -> ManagersLook {
    let Some(node_id) = &local.node_id else { return ManagersLook::default() };
    match tokio::try_join!(node.swarm.fetch_nodes(), node.swarm.count_live_tasks(node_id)) {
        Ok((nodes, tasks)) => {
            let others = || nodes.iter().filter(|other| other.id != *node_id);
            ManagersLook {
                tasks: Some(tasks),
                is_last: others().all(NodeView::is_plain_worker),
                quorum: Quorum::of(&nodes),
                is_other_going: others().any(NodeView::is_being_demoted),
                own: nodes.into_iter().find(|other| other.id == *node_id),
            }
        }
        Err(error) => {
            tracing::debug!("{error}");
            ManagersLook::default()
        }
    }
}

/// Is Docker in this cluster's swarm? `None` while nobody can say.
async fn is_ours(node: &Node, local: &LocalNode) -> Option<bool> {
    if local.state == LocalState::Inactive {
        return Some(true);
    }
    let charter = node.ledger.fetch_charter().await.ok()?;
    let named = charter.and_then(|charter| charter.swarm_id);
    if named.is_some() && named == local.swarm_id {
        return Some(true);
    }
    if local.is_manager {
        let (labels, _) = node.swarm.fetch_swarm().await.ok()?;
        return Some(labels.get(CLUSTER_LABEL) == Some(&node.cluster));
    }
    if local.state != LocalState::Active {
        // A join of ours that has not settled: a boot refuses a foreign swarm before it joins.
        return Some(true);
    }
    let row = node.ledger.fetch_member(node.role, &node.instance.id).await.ok()?;
    Some(row.is_some_and(|row| Some(&row.node_id) == local.node_id.as_ref()))
}
