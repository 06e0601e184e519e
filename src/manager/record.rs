//! This node's own row: written before the node is called Ready, kept fresh, and written anew when the labels change
//! that it wants.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::Instant;

use super::rounds::WORKER_INTERVAL;
use crate::clients::imds::ImdsError;
use crate::clients::ledger::{LedgerError, MemberState};
use crate::common::fact::Fact;
use crate::common::instance::{Membership, Role, SchedulingHold};
use crate::common::labels::{Labels, Refused, TAG_PREFIX, Wanted};
use crate::node::Node;

/// How fresh a manager's address is in the ledger.
const MANAGER_REFRESH: Duration = Duration::from_secs(60);
/// What changes in a worker's row is written at once. Otherwise it only has to stay younger than the two days after
/// which managers may delete a row without a group.
const WORKER_REFRESH: Duration = Duration::from_secs(6 * 3600);
/// Until the row of a new node is written, nobody can join through it.
const RECORD_RETRY: Duration = Duration::from_secs(2);
/// A node that has joined is Ready after this, whether its row is written or not.
const READY_WITHIN: Duration = Duration::from_secs(2);
/// How often the tags are read. Tags that change twice a second cost one write in this time.
const TAGS_INTERVAL: Duration = Duration::from_secs(30);
/// The same for Auto Scaling, where the tags do not say the group.
const GROUP_PATIENCE: Duration = Duration::from_secs(10);
/// An answer that comes later than this is worth less than the next one.
const TAGS_PATIENCE: Duration = Duration::from_secs(5);

/// When a row was written, and what of it may change.
pub type Written = (Instant, Labels, Option<SchedulingHold>, Role);

/// Writes this node's row for the first time, before anybody is told that the node is Ready: should skep die from
/// there on, the managers know by the row whose node it is. A ledger that is down holds a node up for
/// [`READY_WITHIN`]; [`keep_recorded`] tries again.
pub async fn record_ready(node: &Node, membership: &Membership) -> Option<Written> {
    let (labels, scheduling_hold) = (node.wanted_labels().labels, node.state.now().scheduling_hold);
    let recorded = node.record_member(membership, MemberState::Ready);
    match tokio::time::timeout(READY_WITHIN, recorded).await {
        Ok(Ok(())) => Some((Instant::now(), labels, scheduling_hold, membership.role)),
        Ok(Err(error)) => {
            tracing::warn!("writing this node's row: {}", crate::common::errors::chain(&error));
            None
        }
        Err(_) => {
            tracing::warn!("writing this node's row: no answer within {READY_WITHIN:?}");
            None
        }
    }
}

/// Keeps this node's row right and fresh, and writes it where that is not `written` yet; never returns.
pub async fn keep_recorded(
    node: &Node,
    membership: &Membership,
    mut written: Option<Written>,
) -> Infallible {
    // The tags in here are followed; what else the instance is does not change.
    let mut node = node.clone();
    // A worker may be promoted by hand, and is a manager that others look for then.
    let mut role = membership.role;
    let mut state = node.state.subscribe();
    let row_lost = node.row_lost.clone();
    let mut said = Vec::new();
    let mut is_attempt_over = written.is_some() && forget_attempt(&node).await.is_ok();
    let mut is_group_asked = false;
    let mut complaint = None;
    loop {
        let Wanted { labels, refused } = node.wanted_labels();
        said = say_once(refused, &said);
        let scheduling_hold = node.state.now().scheduling_hold;
        match node.swarm.is_manager_lately(WORKER_INTERVAL).await {
            Fact::Yes => role = Role::Manager,
            Fact::No => role = Role::Worker,
            Fact::CannotTell => {}
        }
        let refresh = match role {
            Role::Manager => MANAGER_REFRESH,
            Role::Worker => WORKER_REFRESH,
        };
        let is_right = written.as_ref().is_some_and(|(at, before, was, served_as)| {
            let is_same = *before == labels && *was == scheduling_hold && *served_as == role;
            is_same && at.elapsed() < refresh
        });
        let mut pause = TAGS_INTERVAL;
        if !is_right {
            match node.record_member(membership, MemberState::Ready).await {
                Ok(()) => {
                    written = Some((Instant::now(), labels, scheduling_hold, role));
                    is_group_asked = false;
                    complaint = None;
                    // From here on the row says who is at this address, and that it is well.
                    is_attempt_over = is_attempt_over || forget_attempt(&node).await.is_ok();
                }
                Err(error) => {
                    let problem = crate::common::errors::chain(&error);
                    if complaint.as_ref() != Some(&problem) {
                        tracing::warn!("writing this node's row: {problem}");
                    }
                    complaint = Some(problem);
                    pause = RECORD_RETRY;
                }
            }
        }
        if node.group().is_none() && !is_group_asked {
            is_group_asked = find_group(&mut node).await;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // A node that must get no new tasks does not wait for the next look at the tags.
            _ = state.wait_for(|state| state.scheduling_hold != scheduling_hold) => continue,
            () = row_lost.notified() => {
                if written.take().is_some() {
                    tracing::warn!("the ledger has no row of this node any more: writing it again");
                }
                continue;
            }
        }
        if let Err(error) = follow_tags(&mut node).await {
            tracing::debug!("labels stay as they are: {}", crate::common::errors::chain(&error));
        }
    }
}

/// Where the tags do not show, Auto Scaling says which group has this instance: without one in its row
/// managers never take the node for gone. The group is a label, too, so the row is written anew with it.
/// `false` where no answer came.
async fn find_group(node: &mut Node) -> bool {
    let asked = node.autoscaling.fetch_instance(&node.instance.id);
    match tokio::time::timeout(GROUP_PATIENCE, asked).await {
        Ok(Ok(listed)) => {
            node.instance.group = listed.map(|listed| listed.group);
            true
        }
        Ok(Err(error)) => {
            tracing::debug!("the group is not known: {}", crate::common::errors::chain(&error));
            false
        }
        Err(_) => false,
    }
}

async fn forget_attempt(node: &Node) -> Result<(), LedgerError> {
    if node.role == Role::Manager {
        node.ledger.delete_demotion_request(&node.instance.id).await?;
    }
    node.ledger.delete_attempt(&node.instance.id).await
}

/// A tag that cannot become a label keeps nobody out: it is said, and left out.
fn say_once(refused: Vec<Refused>, said: &[Refused]) -> Vec<Refused> {
    for new in refused.iter().filter(|refused| !said.contains(refused)) {
        tracing::warn!("no label for {new}");
    }
    refused
}

/// Reads the tags that say labels, and the group's. An answer without any tag at all proves nothing: rather the
/// launch template's `InstanceMetadataTags` was switched off than every tag taken away, Auto Scaling's own
/// included. A node that no group has keeps the label of its last one.
async fn follow_tags(node: &mut Node) -> Result<(), ImdsError> {
    let deadline = Instant::now() + TAGS_PATIENCE;
    if let Some(labels) = node.imds.fetch_tags(TAG_PREFIX, deadline).await? {
        let tags = &mut node.instance.tags;
        tags.retain(|tag, _| !tag.starts_with(TAG_PREFIX));
        tags.extend(labels);
        if let Some(group) = node.imds.fetch_group(deadline).await? {
            node.instance.group = Some(group);
        }
    }
    Ok(())
}
