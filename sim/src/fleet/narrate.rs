//! Describes the cloud's events in one line each.

use crate::cloud::{AlarmState, EventKind};

/// Returns one line without the instance's id, which [`EventKind::instance_id`] has; `None` for events that are so
/// frequent that they hide the rest.
pub fn narrate(event: &EventKind) -> Option<String> {
    let line = match event {
        EventKind::Heartbeat { .. } => return None,
        EventKind::InstanceLaunched { group, zone, address, .. } => {
            format!("launched in {group}, {zone}, {address}")
        }
        EventKind::LifecycleChanged { from, to, .. } => format!("{from} → {to}"),
        EventKind::HookStarted { hook, heartbeat_timeout_ms, .. } => {
            let seconds = heartbeat_timeout_ms / 1000;
            format!("hook {hook} waits, {seconds} s without a heartbeat")
        }
        EventKind::HookCompleted { hook, result, .. } => {
            format!("hook {hook} completed: {}", result.as_str())
        }
        EventKind::HookTimedOut { hook, default_result, .. } => {
            format!("hook {hook} timed out: {}", default_result.as_str())
        }
        EventKind::Replaced { group, old, new } => format!("{group}: {new} replaces {old}"),
        EventKind::DesiredCapacity { group, from, to } => {
            format!("{group}: desired capacity {from} → {to}")
        }
        EventKind::ScalingAlarm {
            state: AlarmState::Ok | AlarmState::InsufficientData, ..
        } => {
            return None;
        }
        EventKind::ScalingAlarm { group, policy, is_high, state: AlarmState::Alarm } => {
            let side = if *is_high { "above" } else { "below" };
            format!("{group}: the metric of the policy {policy} is {side} its target")
        }
        EventKind::InstanceRefresh { group, status, reason, .. } => {
            let reason = reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            format!("{group}: instance refresh {}{reason}", status.as_str())
        }
        EventKind::Unhealthy { .. } => "unhealthy".to_owned(),
        EventKind::TargetHealth { target_group, from, to, .. } => {
            format!("target group {target_group}: {from} → {to}")
        }
        EventKind::SpotNotice { action, time, .. } => {
            format!(
                "spot notice: {action} at {:02}:{:02}:{:02}",
                time.hour(),
                time.minute(),
                time.second()
            )
        }
        EventKind::SpotReclaimed { .. } => "reclaimed by the spot market".to_owned(),
        EventKind::RebalanceRecommended { .. } => "rebalance recommended".to_owned(),
        EventKind::MaintenanceScheduled { code, .. } => format!("maintenance scheduled: {code}"),
        EventKind::Crashed { .. } => "crashed".to_owned(),
        EventKind::Signalled { stack, logical_id, status, .. } => {
            format!("signals {status} to {stack}/{logical_id}")
        }
        EventKind::StackStatus { stack, logical_id, status, reason } => {
            let resource = logical_id.as_ref().map(|id| format!("/{id}")).unwrap_or_default();
            let reason = reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            format!("stack {stack}{resource} {status}{reason}")
        }
    };
    Some(line)
}
