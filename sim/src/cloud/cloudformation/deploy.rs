//! Creates, updates and deletes stacks.
//!
//! A template with a resource `Managers` is skep's: its stack becomes a [`ClusterSpec`], by the parameters for sizes,
//! table, hooks and image. Of every other template, nothing is created. Groups are created, updated and deleted in the
//! order that the template asks for. An update changes the workers' warm pool, and replaces all instances if another
//! parameter has changed. There is no rollback, and an update has no timeout.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::json;

use super::Status;
use crate::cloud::cluster::ROLES;
use crate::cloud::errors::ApiError;
use crate::cloud::requests::Service;
use crate::cloud::wire::Params;
use crate::cloud::xml::Xml;
use crate::cloud::{
    Cloud, ClusterSpec, Inner, InstanceView, LifecycleState, Process, WarmPoolSpec,
};

/// The time between two looks at the groups.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What the template's update policy suspends during a rolling update.
const SUSPENDED: [Process; 5] = [
    Process::HealthCheck,
    Process::ReplaceUnhealthy,
    Process::AzRebalance,
    Process::AlarmNotification,
    Process::ScheduledActions,
];
/// The parameters whose change replaces no instance.
const OF_THE_GROUPS: [&str; 4] = ["WarmPool", "WarmPoolState", "WorkersOnDemandPercent", ABANDONED];
/// The parameter for the groups' instance lifecycle policy.
const ABANDONED: &str = "AbandonedNodes";
/// The line that only a template of a network has, and the outputs of network.yaml: networks are not modelled.
const OF_A_NETWORK: &str = "Type: AWS::EC2::VPC\n";
const NETWORK: [(&str, &str); 3] = [
    ("LoadBalancerSubnets", "subnet-00000000000000001"),
    ("Subnets", "subnet-00000000000000001"),
    ("VpcId", "vpc-00000000000000001"),
];
/// The line that only skep's template has.
const OF_SKEP: &str = "\n  Managers:\n";

/// Whether an action is one of this module.
pub(in crate::cloud) fn deploys(action: &str) -> bool {
    matches!(action, "CreateStack" | "UpdateStack" | "DeleteStack")
}

/// Answers one call; returns the content of its result element, `None` where it has none. The work goes on in the
/// background.
pub(in crate::cloud) fn deploy(
    cloud: &Cloud,
    action: &str,
    form: &Params,
) -> Result<Option<String>, ApiError> {
    let name = form.required("StackName")?;
    match action {
        "CreateStack" => create(cloud, name, form).map(Some),
        "UpdateStack" => update(cloud, name, form).map(Some),
        "DeleteStack" => delete(cloud, name).map(|()| None),
        _ => Err(ApiError::unknown_action(Service::CloudFormation, action)),
    }
}

fn stack_id(id: &str) -> String {
    let mut xml = Xml::default();
    xml.text("StackId", id);
    xml.finish()
}

/// A stack that CreateStack has made: its cluster, and its present parameters.
#[derive(Clone, Debug)]
pub(in crate::cloud) struct Deployed {
    spec: ClusterSpec,
    parameters: BTreeMap<String, String>,
}

fn pairs(form: &Params, name: &str, key: &str, value: &str) -> BTreeMap<String, String> {
    let pair = |of: &Params| Some((of.get(key)?.to_owned(), of.get(value)?.to_owned()));
    form.structures(name).iter().filter_map(pair).collect()
}

fn create(cloud: &Cloud, name: &str, form: &Params) -> Result<String, ApiError> {
    let template = form.required("TemplateBody")?;
    let is_of_skep = template.contains(OF_SKEP);
    let tags = pairs(form, "Tags", "Key", "Value");
    let parameters = pairs(form, "Parameters", "ParameterKey", "ParameterValue");
    let spec = is_of_skep.then(|| cluster(name, &parameters)).transpose()?;
    let outputs = match &spec {
        Some(spec) => BTreeMap::from([("Table".to_owned(), spec.table.clone())]),
        None if template.contains(OF_A_NETWORK) => {
            NETWORK.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
        }
        None => BTreeMap::new(),
    };
    let id = cloud.change(|state, now| {
        state.stacks.begin(name, tags, outputs, now)?;
        if spec.is_none() {
            state.stacks.finish(name, now);
        }
        Ok(state.stacks.stack_id(name))
    })?;
    if let Some(spec) = spec {
        cloud.create_table(&spec.table).map_err(|error| ApiError::validation(error.to_string()))?;
        let deployed = Deployed { spec: spec.clone(), parameters };
        cloud.change(|state, _| state.deployed.insert(name.to_owned(), deployed));
        tokio::spawn(Work::on(cloud, spec).create());
    }
    Ok(stack_id(&id))
}

/// Returns the cluster that the template's parameters describe.
fn cluster(name: &str, parameters: &BTreeMap<String, String>) -> Result<ClusterSpec, ApiError> {
    let number = |name: &str, default: u32| {
        parameters.get(name).map_or(Ok(default), |text| {
            text.parse().map_err(|_| ApiError::validation(format!("'{text}' is no number")))
        })
    };
    if number("WorkersTarget", 0)? != 0 {
        return Err(ApiError::validation(
            "This cloud makes no scaling policy from a template: create it with put-scaling-policy",
        ));
    }
    let defaults = ClusterSpec::new(name, number("ManagerCount", 3)?, number("WorkersMin", 2)?);
    Ok(ClusterSpec {
        table: parameters.get("TableName").cloned().unwrap_or_else(|| defaults.table.clone()),
        hook_timeout: Duration::from_secs(number("HookTimeout", 300)?.into()),
        image_id: parameters.get("ImageId").cloned(),
        retain_abandoned: retains(parameters),
        ..defaults
    })
}

fn retains(parameters: &BTreeMap<String, String>) -> bool {
    parameters.get(ABANDONED).is_some_and(|action| action == "retain")
}

fn update(cloud: &Cloud, name: &str, form: &Params) -> Result<String, ApiError> {
    let parameters = pairs(form, "Parameters", "ParameterKey", "ParameterValue");
    let pool = parameters.get("WarmPool").and_then(|size| size.parse().ok()).unwrap_or(0);
    let (spec, rolls, id) = cloud.change(|state, now| {
        let stack = state.stacks.stack(name)?;
        if !matches!(stack.status, Status::Complete | Status::Updated) {
            return Err(refused(&stack.id, stack.status, "updated"));
        }
        let (name, id) = (stack.name.clone(), stack.id.clone());
        let deployed = state.deployed.get_mut(&name).ok_or_else(no_updates)?;
        let before = std::mem::replace(&mut deployed.parameters, parameters);
        if before == deployed.parameters {
            return Err(no_updates());
        }
        let others = |of: &BTreeMap<String, String>| {
            let mut others = of.clone();
            others.retain(|name, _| !OF_THE_GROUPS.contains(&name.as_str()));
            others
        };
        let rolls = others(&before) != others(&deployed.parameters);
        deployed.spec.retain_abandoned = retains(&deployed.parameters);
        let spec = deployed.spec.clone();
        state.stacks.mark(&name, None, Status::Updating, now);
        Ok((spec, rolls, id))
    })?;
    tokio::spawn(Work::on(cloud, spec).update(rolls, pool));
    Ok(stack_id(&id))
}

fn delete(cloud: &Cloud, name: &str) -> Result<(), ApiError> {
    let spec = cloud.change(|state, now| {
        // A stack that does not exist is deleted already.
        let Ok(stack) = state.stacks.stack(name) else { return Ok(None) };
        let name = stack.name.clone();
        match stack.status {
            Status::Updating => return Err(refused(&stack.id, stack.status, "deleted")),
            Status::Deleting | Status::Deleted => return Ok(None),
            _ => {}
        }
        state.stacks.mark(&name, None, Status::Deleting, now);
        let spec = state.deployed.get(&name).map(|deployed| deployed.spec.clone());
        if spec.is_none() {
            state.stacks.mark(&name, None, Status::Deleted, now);
        }
        Ok(spec)
    })?;
    if let Some(spec) = spec {
        tokio::spawn(Work::on(cloud, spec).delete());
    }
    Ok(())
}

fn refused(id: &str, status: Status, what: &str) -> ApiError {
    let status = status.as_str();
    ApiError::validation(format!("Stack [{id}] cannot be {what} while in status {status}"))
}

fn no_updates() -> ApiError {
    ApiError::validation("No updates are to be performed.")
}

/// The work on a stack. It ends when the cloud is dropped, and when other work on the stack begins.
struct Work {
    /// Weak, so that it does not keep a dropped cloud alive.
    cloud: Weak<Inner>,
    spec: ClusterSpec,
}

impl Work {
    fn on(cloud: &Cloud, spec: ClusterSpec) -> Self {
        Self { cloud: Arc::downgrade(&cloud.inner), spec }
    }

    fn cloud(&self) -> Option<Cloud> {
        Some(Cloud { inner: self.cloud.upgrade()? })
    }

    /// Waits until `is_so`; `None` ends the work.
    async fn until(&self, is_so: impl Fn(&Cloud) -> bool) -> Option<()> {
        loop {
            if is_so(&self.cloud()?) {
                return Some(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn mark(&self, logical_id: Option<&str>, status: Status) -> Option<()> {
        let name = &self.spec.name;
        self.cloud()?.change(|state, now| state.stacks.mark(name, logical_id, status, now));
        Some(())
    }

    /// Logs a refusal, which ends the work: the stack stays as it is, until it is deleted.
    fn accepted<T>(&self, what: &str, result: Result<T, ApiError>) -> Option<T> {
        if let Err(error) = &result {
            tracing::warn!(?error, stack = self.spec.name, "the work on the stack ends: {what}");
        }
        result.ok()
    }

    async fn create(self) -> Option<()> {
        let name = &self.spec.name;
        for role in ROLES {
            let (group, hooks, resource) = self.spec.parts(role);
            let logical_id = resource.logical_id.clone();
            let created = self.cloud()?.change(|state, now| {
                // It was deleted meanwhile.
                let stack = state.stacks.stack(name).ok()?;
                if stack.status != Status::InProgress {
                    return None;
                }
                let id = Some(state.stacks.stack_id(name));
                state.stacks.add(name, resource, now);
                let (group_name, balances) = (group.name.clone(), self.spec.balance_zones);
                let created = state.scaling.create_group(group, vec![], hooks, id, now);
                Some(created.and_then(|()| match balances {
                    true => Ok(()),
                    false => state.scaling.suspend(&group_name, &[Process::AzRebalance]),
                }))
            })?;
            self.accepted("creating a group", created)?;
            let is_complete = |cloud: &Cloud| {
                cloud.stack(name).is_none_or(|stack| {
                    let of = stack.resources.iter().find(|it| it.logical_id == logical_id);
                    stack.status != Status::InProgress.as_str()
                        || of.is_none_or(|it| it.status != Status::InProgress.as_str())
                })
            };
            self.until(is_complete).await?;
        }
        self.cloud()?.change(|state, now| state.stacks.finish(name, now));
        Some(())
    }

    async fn update(self, rolls: bool, pool: u32) -> Option<()> {
        for role in ROLES {
            let (group, _, resource) = self.spec.parts(role);
            let id = resource.logical_id;
            self.mark(Some(&id), Status::Updating)?;
            let retains = self.spec.retain_abandoned;
            let kept = |cloud: &Cloud| {
                cloud.change(|state, _| state.scaling.set_retention(&group.name, retains))
            };
            self.accepted("changing the lifecycle policy", kept(&self.cloud()?))?;
            if rolls {
                self.roll(&group.name, &id).await?;
            }
            self.mark(Some(&id), Status::Updated)?;
        }
        if pool > 0 {
            let spec = WarmPoolSpec {
                min_size: pool,
                // As in the template: without it, the pool would be as large as the group may grow.
                max_prepared: Some(pool),
                ..WarmPoolSpec::default()
            };
            let put = self.cloud()?.change(|state, now| {
                state.scaling.put_warm_pool(&self.spec.workers_group(), spec, now)
            });
            self.accepted("adding a warm pool", put)?;
        }
        self.mark(None, Status::Updated)
    }

    /// Replaces all instances of a group, without what the template suspends meanwhile.
    async fn roll(&self, group: &str, logical_id: &str) -> Option<()> {
        let before = self.cloud()?.change(|state, _| {
            let group = state.scaling.group(group)?;
            Ok(SUSPENDED.map(|process| (process, group.is_suspended(process))))
        });
        let before = self.accepted("reading what is suspended", before)?;
        let suspended: Vec<Process> =
            before.iter().filter(|(_, was)| !was).map(|(process, _)| *process).collect();
        self.accepted("suspending", self.cloud()?.suspend(group, &suspended))?;
        let rolled = self.replace_all(group, logical_id).await;
        self.accepted("resuming", self.cloud()?.resume(group, &suspended))?;
        rolled
    }

    /// Replaces all instances of a group, one after the other: the new one is in service, and has signalled, before
    /// the old one leaves.
    async fn replace_all(&self, group: &str, logical_id: &str) -> Option<()> {
        let groups = self.cloud()?.groups();
        let size = groups.iter().find(|it| it.name == group)?.desired;
        self.until(|cloud| in_service(cloud, group).len() == size as usize).await?;
        let obsolete = in_service(&self.cloud()?, group);
        for old in obsolete {
            let before = in_service(&self.cloud()?, group);
            self.accepted("one more instance", self.cloud()?.set_desired(group, size + 1))?;
            self.until(|cloud| {
                let now = in_service(cloud, group);
                let mut new = now.iter().filter(|it| !before.contains(it));
                new.any(|it| has_signalled(cloud, &self.spec.name, logical_id, it))
            })
            .await?;
            self.accepted("terminating one", self.cloud()?.terminate(&old, true))?;
            let is_over =
                |cloud: &Cloud| cloud.instance(&old).is_none_or(|it| it.lifecycle.is_retained());
            self.until(is_over).await?;
        }
        Some(())
    }

    /// Workers first: managers drain them.
    async fn delete(self) -> Option<()> {
        for role in ROLES.into_iter().rev() {
            let (group, _, resource) = self.spec.parts(role);
            let (group, id) = (&group.name, resource.logical_id);
            if !self.cloud()?.groups().iter().any(|it| it.name == *group) {
                continue;
            }
            self.mark(Some(&id), Status::Deleting)?;
            self.cloud()?.change(|state, now| {
                // Fails for a group without a pool.
                state.scaling.delete_warm_pool(group, true, now).ok();
            });
            self.accepted("emptying a group", self.cloud()?.set_desired(group, 0))?;
            // A retained instance stays, and the group is refused below.
            let is_left = |it: &InstanceView| it.group == *group && !it.lifecycle.is_retained();
            self.until(|cloud| !cloud.instances().iter().any(is_left)).await?;
            self.accepted("deleting a group", self.cloud()?.delete_group(group))?;
            self.mark(Some(&id), Status::Deleted)?;
        }
        let request = serde_json::from_value(json!({ "TableName": self.spec.table })).ok()?;
        if let Err(error) = self.cloud()?.database().delete_table(request) {
            tracing::warn!(?error, table = self.spec.table, "cannot delete the table");
        }
        self.cloud()?.change(|state, _| state.deployed.remove(&self.spec.name));
        self.mark(None, Status::Deleted)
    }
}

fn in_service(cloud: &Cloud, group: &str) -> Vec<String> {
    let instances = cloud.instances().into_iter();
    let members =
        instances.filter(|it| it.group == group && it.lifecycle == LifecycleState::InService);
    members.map(|it| it.id).collect()
}

fn has_signalled(cloud: &Cloud, stack: &str, logical_id: &str, instance: &str) -> bool {
    let Some(stack) = cloud.stack(stack) else { return false };
    let mut resources = stack.resources.iter().filter(|it| it.logical_id == logical_id);
    resources.any(|it| it.succeeded.contains(instance))
}
