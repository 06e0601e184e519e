//! Tries every permission of the node's role, in a way that has no effect.

use std::collections::BTreeSet;

use futures_util::future::join_all;

use super::{Finding, Verdict, skipped_without_node};
use crate::clients::aws::cloudformation::SignalStatus;
use crate::clients::aws::cloudwatch::NAMESPACE;
use crate::clients::aws::{Aws, AwsError, AwsErrorKind};
use crate::clients::ledger::{Access, Charter, LedgerError, Partition};
use crate::clients::secrets::Item;
use crate::common::errors::Explained;
use crate::common::instance::{Role, StackResource};
use crate::node::Node;

/// A resource that no stack has, and a signal that nothing waits for.
const NO_RESOURCE: &str = "SkepDoctorSignalsNothing";
/// An instance id that EC2 does not give.
const NO_INSTANCE: &str = "i-00000000000000000";

/// Returns the accesses that a role needs to each partition; the template grants exactly these.
fn needed(node: &Node) -> [(Partition<'_>, &'static [Access]); 2] {
    use Access::{BatchGet, Delete, Get, Put, Query, Update};
    use Partition::{Cluster, Worker};
    let of_a_worker = Worker(&node.instance.id);
    match node.role {
        Role::Manager => [
            (Cluster, &[Get, Query, Put, Update, Delete]),
            (of_a_worker, &[BatchGet, Get, Update, Delete]),
        ],
        Role::Worker => [(Cluster, &[Get, Query]), (of_a_worker, &[Get, Put, Update, Delete])],
    }
}

pub async fn examine(node: Option<&Node>, aws: Option<&Aws>) -> Vec<Finding> {
    let (Some(node), Some(aws)) = (node, aws) else {
        return skipped_without_node(&["permissions"]);
    };
    let charter = node.ledger.fetch_charter().await;
    if let Err(LedgerError::Aws(error)) = &charter
        && error.kind == AwsErrorKind::NoCredentials
    {
        let why = "the instance has no credentials to try them with";
        let remedy = error.remedy().unwrap_or_default();
        return vec![Finding::skipped("permissions", why, remedy)];
    }
    let (table, secret, group, fleet, signal) = tokio::join!(
        table(node, charter.as_ref().err()),
        stored_secret(node, charter.as_ref()),
        group(node),
        fleet(node),
        signal(node, aws)
    );
    [table, secret, group, fleet, signal].concat()
}

async fn table(node: &Node, trouble: Option<&LedgerError>) -> Vec<Finding> {
    if trouble.is_some_and(is_no_table_of_ours) {
        let why = "there is no table to try them on";
        return vec![Finding::skipped("dynamodb", why, "repair the table first")];
    }
    let needed = needed(node).into_iter().flat_map(|(partition, accesses)| {
        accesses.iter().map(move |access| try_access(node, partition, *access))
    });
    let mut findings = join_all(needed).await;
    if node.role == Role::Worker {
        findings.extend([
            out_of_reach(node, "charter", Partition::Cluster, "close the swarm").await,
            out_of_reach(
                node,
                "another worker's rows",
                Partition::Worker(NO_INSTANCE),
                "write rows about another node",
            )
            .await,
        ]);
    }
    findings
}

fn is_no_table_of_ours(error: &LedgerError) -> bool {
    match error {
        LedgerError::Aws(error) => error.kind == AwsErrorKind::NotFound,
        error => matches!(error, LedgerError::WrongKeys { .. }),
    }
}

async fn try_access(node: &Node, partition: Partition<'_>, access: Access) -> Finding {
    let check = format!("dynamodb:{}", access.operation());
    let rows = format!("rows of {}", node.ledger.key_of(partition));
    match node.ledger.try_access(partition, access).await {
        Ok(()) => Finding::ok(check, rows),
        Err(error) => {
            let finding = Finding::of_error(check, &error);
            Finding { evidence: format!("{rows}: {}", finding.evidence), ..finding }
        }
    }
}

/// Checks that this worker cannot write the rows of a partition; with the permission, a program with the node's role can
/// do what `harm` names.
async fn out_of_reach(
    node: &Node,
    check: &'static str,
    partition: Partition<'_>,
    harm: &str,
) -> Finding {
    let rows = format!("rows of {}", node.ledger.key_of(partition));
    match node.ledger.try_access(partition, Access::Put).await {
        Err(LedgerError::Aws(error)) if error.kind == AwsErrorKind::AccessDenied => {
            Finding::ok(check, format!("this worker cannot write {rows}"))
        }
        Err(error) => Finding::of_error(check, &error),
        Ok(()) => Finding::failed(
            check,
            format!("this worker can write {rows}: any program with the node's role can {harm}"),
            "restrict the workers' role to its own partition with dynamodb:LeadingKeys and ec2:SourceInstanceARN, as cloudformation/skep.yaml does",
        ),
    }
}

/// Checks that a manager can store tokens, as it does after a rotation.
async fn stored_secret(
    node: &Node,
    charter: Result<&Option<Charter>, &LedgerError>,
) -> Vec<Finding> {
    if node.role == Role::Worker {
        return Vec::new();
    }
    const CHECK: &str = "storing a token";
    let generation = match generation_with_tokens(charter) {
        Ok(generation) => generation,
        Err((why, remedy)) => return vec![Finding::skipped(CHECK, why, remedy)],
    };
    let tries = Role::ALL.map(async |role| {
        let item = Item::Token(role);
        if !matches!(node.tokens.fetch(role, generation).await, Ok(Some(_))) {
            let why = format!("{} cannot be read", node.tokens.place(item, generation));
            return Finding::skipped(CHECK, why, "repair that first");
        }
        match node.tokens.try_write(item, generation).await {
            Ok(()) => Finding::ok(CHECK, node.tokens.place(item, generation)),
            Err(error) => Finding::of_error(CHECK, &error),
        }
    });
    join_all(tries).await
}

/// Returns the generation whose tokens are stored; else the reason why there is none to try the check on, and the remedy.
fn generation_with_tokens(
    charter: Result<&Option<Charter>, &LedgerError>,
) -> Result<u64, (&'static str, &'static str)> {
    let Ok(charter) = charter else {
        let why = "cannot tell: the charter, which names the generation, cannot be read";
        return Err((why, "repair the table first"));
    };
    let open = charter.as_ref().filter(|charter| charter.swarm_id.is_some());
    open.map(|charter| charter.generation).ok_or((
        "no token is stored yet, and the check needs an existing one",
        "run `skep doctor` again once the swarm is open",
    ))
}

async fn group(node: &Node) -> Vec<Finding> {
    const DESCRIBE: &str = "autoscaling:DescribeAutoScalingInstances";
    const DESCRIBE_HOOKS: &str = "autoscaling:DescribeLifecycleHooks";
    let id = &node.instance.id;
    let listed = node.autoscaling.fetch_instance(id).await;
    let mut findings = vec![match &listed {
        Ok(Some(it)) => Finding::ok(
            DESCRIBE,
            format!("{} in group {}, {}", it.lifecycle_state, it.group, it.health),
        ),
        Ok(None) => Finding::warning(
            DESCRIBE,
            format!("{id} is in no Auto Scaling group"),
            "attach the instance to its group: without a group, no hook waits for its departure",
        ),
        Err(error) => Finding::of_error(DESCRIBE, error),
    }];
    let Ok(Some(listed)) = listed else { return findings };
    let group = &listed.group;
    let autoscaling = &node.autoscaling;
    // A worker asks the managers.
    let asks_for_replacement = node.settings.autoscaling.replace_self && node.role == Role::Manager;
    let protects = node.settings.protection.enabled && node.role == Role::Manager;
    let (hooks, heartbeat, complete, health, protection) = tokio::join!(
        autoscaling.fetch_hooks(group),
        autoscaling.try_heartbeat(group, id),
        autoscaling.try_complete(group, id),
        async { if asks_for_replacement { autoscaling.try_set_health(id).await } else { Ok(()) } },
        async { if protects { autoscaling.try_set_protection(group).await } else { Ok(()) } },
    );
    findings.push(tried(DESCRIBE_HOOKS, group, hooks.map(drop)));
    findings.push(tried("autoscaling:RecordLifecycleActionHeartbeat", group, heartbeat));
    findings.push(tried("autoscaling:CompleteLifecycleAction", group, complete));
    if asks_for_replacement {
        findings.push(tried("autoscaling:SetInstanceHealth", group, health));
    }
    if protects {
        findings.push(tried("autoscaling:SetInstanceProtection", group, protection));
    }
    findings
}

/// Asks what a manager must know of the fleet: which instances have an address, and which ones the groups have.
async fn fleet(node: &Node) -> Vec<Finding> {
    if node.role == Role::Worker {
        return Vec::new();
    }
    let own = (node.instance.id.as_str(), node.instance.private_address);
    let (no_address, no_group) = (BTreeSet::new(), BTreeSet::new());
    let (found, listed) = tokio::join!(
        node.ec2.fetch_by_address(own, &no_address),
        node.autoscaling.fetch_groups(&node.cluster, &no_group)
    );
    let mut findings = vec![
        match found {
            Ok(_) => Finding::ok("ec2:DescribeInstances", format!("instance {}", own.0)),
            Err(error) => Finding::of_error("ec2:DescribeInstances", &error),
        },
        match listed {
            Ok(listed) => {
                let evidence = format!("{} instances in the cluster's groups", listed.len());
                Finding::ok("autoscaling:DescribeAutoScalingGroups", evidence)
            }
            Err(error) => Finding::of_error("autoscaling:DescribeAutoScalingGroups", &error),
        },
    ];
    if node.settings.capacity.cloudwatch {
        const PUT: &str = "cloudwatch:PutMetricData";
        findings.push(match node.cloudwatch.try_put().await {
            Ok(()) => Finding::ok(PUT, format!("namespace {NAMESPACE}")),
            Err(error) => Finding::of_error(PUT, &error),
        });
    }
    findings
}

fn tried(check: &'static str, group: &str, answer: Result<(), AwsError>) -> Finding {
    match answer {
        Ok(()) => Finding::ok(check, format!("group {group}")),
        Err(error) => Finding::of_error(check, &error),
    }
}

/// Signals a resource that the stack does not have: that answer shows that the node may signal.
async fn signal(node: &Node, aws: &Aws) -> Vec<Finding> {
    const CHECK: &str = "cloudformation:SignalResource";
    let settings = &node.settings.cloudformation;
    let own = node.instance.stack.as_ref().map(|resource| &resource.stack);
    let Some(stack) = settings.stack.as_ref().or(own).filter(|_| settings.signal) else {
        return Vec::new();
    };
    let nothing = StackResource { stack: stack.clone(), logical_id: NO_RESOURCE.into() };
    let answer = aws.cloudformation.signal(&nothing, NO_RESOURCE, SignalStatus::Success).await;
    vec![match answer {
        Ok(answer) => Finding::ok(CHECK, format!("stack {stack} ({answer:?})")),
        Err(error) if error.kind == AwsErrorKind::Validation => {
            Finding { verdict: Verdict::Skipped, ..Finding::of_error(CHECK, &error) }
        }
        Err(error) => Finding::of_error(CHECK, &error),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charter_that_cannot_be_read_does_not_show_that_no_token_is_stored() {
        let unreadable = LedgerError::WrongKeys { table: "skep".into() };
        let (why, remedy) = generation_with_tokens(Err(&unreadable)).unwrap_err();
        assert!(why.starts_with("cannot tell") && remedy == "repair the table first", "{why}");
        let (why, _) = generation_with_tokens(Ok(&None)).unwrap_err();
        assert!(why.starts_with("no token is stored yet"), "{why}");
    }
}
