//! Records the events of the cloud and the instances, and adds the relevant ones to the timeline.

use std::cell::RefCell;
use std::convert::Infallible;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::record::{Record, SPOT, TERMINATED};
use crate::cloud::{CloudEvent, EventKind, LifecycleState};
use crate::fleet::{Entry, LAUNCH_HOOK, narrate};
use crate::stage::Mark;

/// Records events for ever. Both receivers must be older than the first instance.
pub async fn listen(
    record: &RefCell<Record>,
    mut cloud: Receiver<CloudEvent>,
    mut instances: Receiver<Entry>,
) -> anyhow::Result<Infallible> {
    loop {
        tokio::select! {
            // Causes first: an instance's entry follows from an event of the cloud.
            biased;
            event = cloud.recv() => match event {
                Ok(event) => cloud_event(&mut record.borrow_mut(), &event),
                // Without some events, the verdict could be wrong: better none.
                Err(error @ (RecvError::Lagged(_) | RecvError::Closed)) => return Err(error.into()),
            },
            entry = instances.recv() => match entry {
                Ok(entry) => instance_entry(&mut record.borrow_mut(), &entry),
                Err(error @ (RecvError::Lagged(_) | RecvError::Closed)) => return Err(error.into()),
            },
        }
    }
}

fn cloud_event(record: &mut Record, event: &CloudEvent) {
    let at = record.moment(event.at);
    take_down(record, &event.kind, at);
    let mark = match &event.kind {
        EventKind::HookTimedOut { .. } => Some(Mark::Bad),
        EventKind::SpotNotice { .. } => Some(Mark::Warning),
        EventKind::LifecycleChanged { to: LifecycleState::Terminating, .. } => Some(Mark::Warning),
        _ => None,
    };
    let line = match &event.kind {
        EventKind::LifecycleChanged { to: LifecycleState::InService, .. } => {
            Some("in service".to_owned())
        }
        EventKind::LifecycleChanged { to: LifecycleState::Terminating, .. } => {
            Some("Auto Scaling terminates it: the notice is in its metadata".to_owned())
        }
        // Other states of a life cycle, and signals, follow from the lines around them.
        EventKind::LifecycleChanged { .. }
        | EventKind::HookStarted { .. }
        | EventKind::Signalled { .. } => None,
        EventKind::HookCompleted { hook, .. } if hook == LAUNCH_HOOK => None,
        EventKind::StackStatus { logical_id: Some(_), .. } => None,
        EventKind::InstanceLaunched { instance_id, zone, .. } => {
            Some(format!("launched: {instance_id} in {zone}"))
        }
        EventKind::Replaced { old, new, .. } => {
            let (old, new) = (record.name(old), record.name(new));
            Some(format!("{new} takes the place of {old}"))
        }
        other => narrate(other),
    };
    if let Some(line) = line {
        let name = event.kind.instance_id().map(|id| record.name(id));
        record.tale.tell(at, name.as_deref(), &line, mark);
    }
}

fn take_down(record: &mut Record, event: &EventKind, at: f64) {
    match event {
        EventKind::InstanceLaunched { instance_id, group, zone, address } => {
            record.launched(instance_id, group, zone, *address, at);
        }
        EventKind::LifecycleChanged { instance_id, to, .. } => {
            if *to == LifecycleState::Terminating {
                record.noticed(instance_id, TERMINATED, at);
            }
            if let Some(node) = record.node_mut(instance_id) {
                node.in_service = *to == LifecycleState::InService;
            }
        }
        EventKind::SpotNotice { instance_id, .. } => record.noticed(instance_id, SPOT, at),
        EventKind::HookCompleted { instance_id, hook, result } => {
            record.hook_completed(instance_id, hook, *result, at);
        }
        EventKind::HookTimedOut { instance_id, .. } => {
            if let Some(node) = record.node_mut(instance_id) {
                node.hooks_timed_out += 1;
            }
        }
        _ => {}
    }
}

fn instance_entry(record: &mut Record, entry: &Entry) {
    let (name, now) = (record.name(&entry.instance), record.now());
    let what = entry.what.as_str();
    if what == "power off"
        && let Some(node) = record.node_mut(&entry.instance)
    {
        node.powered_off = Some(now);
        record.tale.tell(now, Some(&name), "power off", Some(Mark::Faint));
    } else if let Some(status) = what.strip_prefix("skep: ").filter(|status| is_story(status)) {
        record.tale.tell(now, Some(&name), what_skep_does(status), None);
    } else if what.starts_with("skep ended: ") && !what.ends_with("exit code 0") {
        // The power-off of its machine also kills skep, and has its own line after this one.
        let is_expected = record.node(&entry.instance).is_some_and(|node| node.completed.is_some());
        if !is_expected {
            record.tale.tell(now, Some(&name), what, Some(Mark::Bad));
        }
    }
}

/// Whether a status is a new step of the story, and not a wait or a retry.
fn is_story(status: &str) -> bool {
    let Some((phase, doing)) = status.split_once(": ") else { return false };
    match phase {
        "booting" => {
            ["claiming", "founding", "publishing", "joining"].iter().any(|it| doing.starts_with(it))
        }
        // The cloud's own events report notices and hooks.
        "leaving" => {
            !["retrying", "completing"].iter().any(|it| doing.starts_with(it))
                && !doing.ends_with(" notice")
        }
        "failed" => true,
        _ => false,
    }
}

/// The status without its phase, which is clear from the context.
fn what_skep_does(status: &str) -> &str {
    status.split_once(": ").map_or(status, |(_, doing)| doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_moves_the_story_on_is_told() {
        assert!(is_story("booting: joining generation 1 as worker through 10.78.0.5"));
        assert!(is_story("leaving: asking the managers to drain this node"));
        assert!(!is_story("booting: waiting for i-0 to found the swarm"));
        assert!(!is_story("leaving: retrying after: time-out"));
        assert!(!is_story("ready: worker x of generation 1"));
    }
}
