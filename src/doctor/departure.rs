//! Checks that the lifecycle hooks give a boot and a departure the time in the settings.

use std::time::Duration;

use humantime::format_duration;
use tokio::time::Instant;

use super::{Finding, skipped_without_node};
use crate::clients::aws::autoscaling::{Hook, HookResult, Transition, choose_hook};
use crate::config::Settings;
use crate::lifecycle::leave::Budget;
use crate::node::Node;

const LAUNCH: &str = "launch hook";
const TERMINATION: &str = "termination hook";
/// Shortest heartbeat timeout: when Auto Scaling is slow, a heartbeat and its retry take this long; three heartbeats
/// fit into a timeout.
const SHORTEST_HEARTBEAT: Duration = Duration::from_secs(30);

pub async fn examine(settings: &Settings, node: Option<&Node>) -> Vec<Finding> {
    let mut findings = vec![budget(settings)];
    findings.extend(match node {
        Some(node) => hooks(settings, node).await,
        None => skipped_without_node(&[LAUNCH, TERMINATION]),
    });
    findings
}

/// Reports how the time of the longest departure is divided.
fn budget(settings: &Settings) -> Finding {
    let leave = &settings.leave;
    let start = Instant::now();
    let end = start + leave.deadline;
    let budget = Budget::new(start, end, leave.flush_share, leave.manager_patience, start);
    let whole_seconds = |span: Duration| format_duration(Duration::from_secs(span.as_secs()));
    Finding::ok(
        "leave budget",
        format!(
            "{}: {} to drain, {} to flush, {} to leave; {} at a power-off",
            whole_seconds(leave.deadline),
            whole_seconds(budget.stop_until - start),
            whole_seconds(budget.flush_until - budget.stop_until),
            whole_seconds(end - budget.flush_until),
            whole_seconds(leave.shutdown_deadline),
        ),
    )
}

async fn hooks(settings: &Settings, node: &Node) -> Vec<Finding> {
    let own = settings.autoscaling.group.clone().or_else(|| node.instance.group.clone());
    let group = match own {
        Some(group) => Ok(Some(group)),
        None => {
            let listed = node.autoscaling.fetch_instance(&node.instance.id).await;
            listed.map(|listed| listed.map(|instance| instance.group))
        }
    };
    let group = match group {
        Ok(Some(group)) => group,
        group => {
            let why = "the instance's Auto Scaling group is not known";
            let skipped = |check| Finding::skipped(check, why, "set autoscaling.group");
            let lone = group.is_ok().then(lone);
            return lone.into_iter().chain([LAUNCH, TERMINATION].map(skipped)).collect();
        }
    };
    let hooks = match node.autoscaling.fetch_hooks(&group).await {
        Ok(hooks) => hooks,
        Err(error) => return vec![Finding::of_error("hooks", &error)],
    };
    let hook = |transition, configured: &Option<String>| {
        choose_hook(hooks.clone(), transition, configured.as_deref())
    };
    let named = &settings.autoscaling;
    vec![
        launch(&group, hook(Transition::Launching, &named.launch_hook), settings),
        termination(&group, hook(Transition::Terminating, &named.termination_hook), settings),
    ]
}

/// Auto Scaling has answered, and the instance is in no group.
fn lone() -> Finding {
    Finding::warning(
        "group",
        "the instance is in no Auto Scaling group: managers cannot check that it is gone, and never remove \
         its node from the list by themselves",
        "attach it to a group; or run `skep leave` before it ends, `docker node rm` after it has died",
    )
}

fn launch(group: &str, hook: Option<Hook>, settings: &Settings) -> Finding {
    let Some(hook) = hook else {
        let evidence = format!(
            "{group} has no launch hook for skep: a node that fails to boot enters service"
        );
        let remedy =
            "add a hook on autoscaling:EC2_INSTANCE_LAUNCHING, or name it: autoscaling.launch_hook";
        return Finding::warning(LAUNCH, evidence, remedy);
    };
    let (name, timeout) = (&hook.name, hook.heartbeat_timeout);
    let deadline = settings.boot.deadline;
    let evidence = format!(
        "{name} of {group}: {} until {}; boot.deadline is {}",
        format_duration(timeout),
        hook.default_result.as_str(),
        format_duration(deadline)
    );
    if hook.default_result == HookResult::Continue {
        let remedy = "set its default result to ABANDON: a node that hangs must not enter service";
        return Finding::warning(LAUNCH, evidence, remedy);
    }
    if timeout < deadline {
        let remedy =
            "set a timeout longer than boot.deadline: skep sends no heartbeats while it boots";
        return Finding::warning(LAUNCH, evidence, remedy);
    }
    Finding::ok(LAUNCH, evidence)
}

fn termination(group: &str, hook: Option<Hook>, settings: &Settings) -> Finding {
    let leave = &settings.leave;
    let Some(hook) = hook else {
        let time = format_duration(leave.shutdown_deadline);
        let evidence = format!(
            "{group} has no termination hook for skep: at a scale-in a node has {time} to leave"
        );
        let remedy = "add a hook on autoscaling:EC2_INSTANCE_TERMINATING, or name it: autoscaling.termination_hook";
        return Finding::warning(TERMINATION, evidence, remedy);
    };
    let evidence = format!(
        "{} of {group}: a heartbeat every {} holds it for up to {}; leave.deadline is {}",
        hook.name,
        format_duration(hook.beat()),
        format_duration(hook.global_timeout),
        format_duration(leave.deadline)
    );
    if hook.heartbeat_timeout < SHORTEST_HEARTBEAT {
        let remedy =
            "set its heartbeat timeout to 30 s or more: a late heartbeat ends the departure";
        return Finding::warning(TERMINATION, evidence, remedy);
    }
    if hook.global_timeout < leave.deadline {
        let remedy = "set a longer heartbeat timeout (the hook lasts at most 100 of them), or a shorter leave.deadline";
        return Finding::warning(TERMINATION, evidence, remedy);
    }
    Finding::ok(TERMINATION, evidence)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn hook(heartbeat: u64, default_result: HookResult) -> Option<Hook> {
        let heartbeat_timeout = Duration::from_secs(heartbeat);
        Some(Hook {
            name: "skep".into(),
            transition: Transition::Other,
            heartbeat_timeout,
            global_timeout: heartbeat_timeout * 100,
            default_result,
        })
    }

    #[test]
    fn a_launch_hook_outlasts_the_boot_and_abandons() {
        let settings = Settings::default();
        let verdict = |hook| launch("workers", hook, &settings).verdict;
        assert_eq!(verdict(hook(900, HookResult::Abandon)), Verdict::Ok);
        assert_eq!(verdict(hook(300, HookResult::Abandon)), Verdict::Warning);
        assert_eq!(verdict(hook(900, HookResult::Continue)), Verdict::Warning);
        assert_eq!(verdict(None), Verdict::Warning);
    }

    #[test]
    fn a_termination_hook_can_be_held_for_a_whole_departure() {
        let mut settings = Settings::default();
        settings.leave.deadline = Duration::from_secs(6000);
        let verdict = |hook| termination("workers", hook, &settings).verdict;
        assert_eq!(verdict(hook(60, HookResult::Continue)), Verdict::Ok);
        assert_eq!(verdict(hook(59, HookResult::Continue)), Verdict::Warning);
        assert_eq!(verdict(hook(10, HookResult::Continue)), Verdict::Warning);
        assert_eq!(verdict(None), Verdict::Warning);
    }

    #[test]
    fn the_budget_tells_every_share() {
        let evidence = budget(&Settings::default()).evidence;
        assert_eq!(evidence, "30m: 23m to drain, 6m to flush, 1m to leave; 1m 20s at a power-off");
    }
}
