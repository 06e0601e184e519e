//! Writes this node's own row before the node is called Ready, keeps it fresh, and writes it again when the labels
//! change that the node requests.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::Instant;

use crate::clients::imds::ImdsError;
use crate::clients::ledger::{LedgerError, MemberState};
use crate::common::errors::chain;
use crate::common::fact::Fact;
use crate::common::instance::{Membership, Role, SchedulingHold};
use crate::common::labels::{Labels, Refused, TAG_PREFIX, Wanted};
use crate::common::timing::{MANAGER_ROW_EVERY, WORKER_ROW_EVERY};
use crate::manager::WORKER_INTERVAL;
use crate::node::Node;

/// Time between two attempts to write the row: until the row of a new node is written, no node can join through it.
const RECORD_RETRY: Duration = Duration::from_secs(2);
/// Time after which a node that has joined is Ready even if its row is not written.
const READY_WITHIN: Duration = Duration::from_secs(2);
/// Time between two reads of the tags. Tags that change twice a second cost one write in this time.
const TAGS_INTERVAL: Duration = Duration::from_secs(30);
/// Timeout for Auto Scaling's answer, where the tags do not name the group.
const GROUP_PATIENCE: Duration = Duration::from_secs(10);
/// Timeout for a read of the tags: a later answer is worth less than the next one.
const TAGS_PATIENCE: Duration = Duration::from_secs(5);

/// Time when a row was written, and its parts that can change.
pub type Written = (Instant, Labels, Option<SchedulingHold>, Role);

/// Writes this node's row for the first time, before the node is reported Ready: if skep dies after that, managers find
/// in the row which instance has the node. A ledger that is down delays the node for [`READY_WITHIN`];
/// [`keep_recorded`] tries again.
pub async fn record_ready(node: &Node, membership: &Membership) -> Option<Written> {
    let (labels, scheduling_hold) = (node.wanted_labels().labels, node.state.now().scheduling_hold);
    let recorded = node.record_member(membership, MemberState::Ready);
    match tokio::time::timeout(READY_WITHIN, recorded).await {
        Ok(Ok(())) => Some((Instant::now(), labels, scheduling_hold, membership.role)),
        Ok(Err(error)) => {
            tracing::warn!("cannot write this node's row: {}", chain(&error));
            None
        }
        Err(_) => {
            tracing::warn!(
                "cannot write this node's row: the ledger did not answer within {READY_WITHIN:?}"
            );
            None
        }
    }
}

/// Keeps this node's row correct and fresh, and writes it if `written` is `None`; never returns.
pub async fn keep_recorded(
    node: &Node,
    membership: &Membership,
    mut written: Option<Written>,
) -> Infallible {
    // The tags of this copy are updated; the other facts about the instance do not change.
    let mut node = node.clone();
    // A worker may be promoted by hand; other nodes then look for it as a manager.
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
            Role::Manager => MANAGER_ROW_EVERY,
            Role::Worker => WORKER_ROW_EVERY,
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
                    // From here on the row names the node at this address, and shows that it is well.
                    is_attempt_over = is_attempt_over || forget_attempt(&node).await.is_ok();
                }
                Err(error) => {
                    let problem = chain(&error);
                    if complaint.as_ref() != Some(&problem) {
                        tracing::warn!("cannot write this node's row: {problem}");
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
            // A scheduling hold does not wait for the next read of the tags.
            _ = state.wait_for(|state| state.scheduling_hold != scheduling_hold) => continue,
            () = row_lost.notified() => {
                if written.take().is_some() {
                    tracing::warn!("the ledger no longer has this node's row; writing it again");
                }
                continue;
            }
        }
        if let Err(error) = follow_tags(&mut node).await {
            tracing::debug!(
                "cannot read the tags, so the labels stay as they are: {}",
                chain(&error)
            );
        }
    }
}

/// Reads from Auto Scaling which group has this instance, where the tags do not show it: without a group in its row
/// managers never conclude that the node is gone. The group is also a label, so the row is written again with it.
/// Returns `false` if no answer came.
async fn find_group(node: &mut Node) -> bool {
    let asked = node.autoscaling.fetch_instance(&node.instance.id);
    match tokio::time::timeout(GROUP_PATIENCE, asked).await {
        Ok(Ok(listed)) => {
            node.instance.group = listed.map(|listed| listed.group);
            true
        }
        Ok(Err(error)) => {
            tracing::debug!("cannot read the group from Auto Scaling: {}", chain(&error));
            false
        }
        Err(_) => false,
    }
}

async fn forget_attempt(node: &Node) -> Result<(), LedgerError> {
    if node.role == Role::Manager {
        node.ledger.delete_demotion_request(&node.instance.id).await?;
    }
    node.ledger.delete_attempt(node.role, &node.instance.id).await
}

/// Logs each tag that cannot become a label once; such a tag is left out, and does not keep the node out of the swarm.
fn say_once(refused: Vec<Refused>, said: &[Refused]) -> Vec<Refused> {
    for new in refused.iter().filter(|refused| !said.contains(refused)) {
        tracing::warn!("no label for {new}");
    }
    refused
}

/// Reads the tags that define labels, and the group's tag. An answer without any tag proves nothing: it is more likely
/// that the launch template's `InstanceMetadataTags` was switched off than that every tag was removed, Auto Scaling's
/// own included. A node that is no longer in a group keeps the label of its last one.
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
