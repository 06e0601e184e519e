//! Functions with which tests change and read the cloud without the wire protocols.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::broadcast;

use super::access::Deny;
use super::autoscaling::{
    ActionName, ActionResult, Instance, ScheduledEvent, SpotNotice, Transition,
};
use super::dynamodb::DynamoDb;
use super::errors::ApiError;
use super::events::{CloudEvent, EventKind};
use super::faults::Faults;
use super::iam::{Policies, PolicyError};
use super::imds::ImdsKnobs;
use super::limits::Limits;
use super::requests::Request;
use super::specs::{
    GroupSpec, GroupView, HookSpec, InstanceView, Maintenance, Market, StackSpec, StackView,
};
use super::{Cloud, Database, lock};
use crate::machines::Disturbance;

/// The keys of skep's table.
const PARTITION_KEY: &str = "cluster";
const SORT_KEY: &str = "item";

/// Functions that set up resources and permissions.
impl Cloud {
    /// Creates a table as skep needs it: keys `cluster` and `item`, time to live in `expires_at`.
    pub fn create_table(&self, name: &str) -> anyhow::Result<()> {
        self.create_table_with_keys(name, PARTITION_KEY, Some(SORT_KEY))
    }

    /// Creates a table with other keys, as a careless operator would.
    pub fn create_table_with_keys(
        &self,
        name: &str,
        partition: &str,
        sort: Option<&str>,
    ) -> anyhow::Result<()> {
        let dynamodb: &DynamoDb = &self.inner.dynamodb;
        dynamodb.create_table(name, partition, sort)
    }

    /// Returns the database for calls in this process: its `put_item`, `get_item`, `query` and so on block briefly.
    pub fn database(&self) -> Database {
        self.inner.dynamodb.database()
    }

    /// Returns all rows of a table, in every partition, in DynamoDB's own JSON.
    ///
    /// # Errors
    /// When there is no such table.
    pub fn rows(&self, table: &str) -> anyhow::Result<Vec<Value>> {
        let request = json!({ "TableName": table, "ConsistentRead": true });
        let answer = self.database().scan(serde_json::from_value(request)?);
        let answer = answer.map_err(|error| anyhow!("cannot read {table}: {error:?}"))?;
        let answer = serde_json::to_value(answer)?;
        answer["Items"].as_array().cloned().with_context(|| format!("no rows of {table}: {answer}"))
    }

    /// Puts a row as it is, and overwrites a row with the same key.
    ///
    /// # Errors
    /// When there is no such table, or `row` is not a row.
    pub fn put_row(&self, table: &str, row: &Value) -> anyhow::Result<()> {
        let request = serde_json::from_value(json!({ "TableName": table, "Item": row }))?;
        let put = self.database().put_item(request);
        put.map(drop).map_err(|error| anyhow!("cannot write into {table}: {error:?}"))
    }

    /// Deletes the row with the key of `row`, in a table with skep's keys.
    ///
    /// # Errors
    /// When there is no such table.
    pub fn delete_row(&self, table: &str, row: &Value) -> anyhow::Result<()> {
        let key = json!({ PARTITION_KEY: row[PARTITION_KEY], SORT_KEY: row[SORT_KEY] });
        let request = serde_json::from_value(json!({ "TableName": table, "Key": key }))?;
        let deleted = self.database().delete_item(request);
        deleted.map(drop).map_err(|error| anyhow!("cannot delete from {table}: {error:?}"))
    }

    /// Creates a group; its instances launch at once.
    pub fn create_group(&self, spec: GroupSpec) -> Result<(), ApiError> {
        self.create_group_with_hooks(spec, vec![])
    }

    /// Creates a group with hooks that already apply to its first instances.
    pub fn create_group_with_hooks(
        &self,
        spec: GroupSpec,
        hooks: Vec<HookSpec>,
    ) -> Result<(), ApiError> {
        self.change(|state, now| {
            let stack = spec.stack.as_ref().map(|(stack, _)| stack.clone());
            let stack_id = stack.map(|stack| state.stacks.stack_id(&stack));
            state.scaling.create_group(spec, vec![], hooks, stack_id, now)
        })
    }

    /// Deletes a group and its instances, without waiting for hooks.
    pub fn delete_group(&self, name: &str) -> Result<(), ApiError> {
        self.change(|state, now| state.scaling.delete_group(name, true, now))
    }

    /// Adds or replaces a hook, for the transitions that start from now on.
    pub fn put_hook(&self, hook: HookSpec) -> Result<(), ApiError> {
        self.change(|state, _| state.scaling.put_hook(hook))
    }

    pub fn delete_hook(&self, group: &str, name: &str) -> Result<(), ApiError> {
        self.change(|state, _| state.scaling.delete_hook(group, name))
    }

    /// Creates a stack, which waits for its resources' signals.
    pub fn create_stack(&self, spec: StackSpec) -> Result<(), ApiError> {
        self.change(|state, now| state.stacks.create(spec, now))
    }

    /// Sets how long instances stay in `Pending` or `Terminating` before the hooks start. In this time of a
    /// termination, the metadata already shows `Terminated`, but completing the hook is refused.
    pub fn set_transition_delay(&self, transition: Transition, delay: Duration) {
        self.change(|state, now| {
            match transition {
                Transition::Launching => state.scaling.timing.launching = delay,
                Transition::Terminating => state.scaling.timing.terminating = delay,
            }
            state.reckon(now);
        });
        self.inner.wake.notify_one();
    }

    /// Adds a denial.
    pub fn deny(&self, deny: Deny) {
        self.change(|state, _| state.denials.push(deny));
    }

    /// Sets the policies of a role: from now on, it has only the permissions in these documents.
    ///
    /// # Errors
    /// When the documents have an element that this cloud does not enforce.
    pub fn set_role_policies(&self, role: &str, documents: &[Value]) -> Result<(), PolicyError> {
        let policies = Policies::parse(documents)?;
        self.change(|state, _| state.policies.insert(role.to_owned(), policies));
        Ok(())
    }

    /// Adds the permissions in a policy document to a role.
    ///
    /// # Errors
    /// When the document has an element that this cloud does not enforce.
    pub fn attach_role_policy(&self, role: &str, document: &Value) -> Result<(), PolicyError> {
        let more = Policies::parse(std::slice::from_ref(document))?;
        self.change(|state, _| match state.policies.get_mut(role) {
            Some(policies) => policies.add(more),
            None => drop(state.policies.insert(role.to_owned(), more)),
        });
        Ok(())
    }

    /// Returns the permissions of a role that no call has needed so far.
    pub fn unused_permissions(&self, role: &str) -> Vec<String> {
        self.change(|state, _| state.policies.get(role).map(Policies::unused).unwrap_or_default())
    }

    /// Removes all denials.
    pub fn allow_all(&self) {
        self.change(|state, _| state.denials.clear());
    }

    /// Answers metadata requests from `peer` as if `instance_id` had sent them; for tests without network namespaces,
    /// where every peer is the loopback address.
    pub fn stand_in(&self, peer: IpAddr, instance_id: &str) {
        self.change(|state, _| state.metadata.stand_in(peer, instance_id));
    }

    /// Sets the difference between the cloud's clock and the system's. Signatures and `Date` headers follow it, timers
    /// do not.
    pub fn set_clock_offset(&self, offset: time::Duration) {
        self.inner.clock.set_offset(offset);
    }

    /// The limits of the account; at first there are none.
    pub fn limits(&self) -> Limits {
        self.inner.limits.clone()
    }

    pub fn faults(&self) -> Faults {
        self.inner.faults.clone()
    }

    pub fn imds_knobs(&self, instance_id: &str) -> ImdsKnobs {
        ImdsKnobs::new(self.clone(), instance_id)
    }
}

/// Functions that change instances and inject failures.
impl Cloud {
    pub fn set_desired(&self, group: &str, desired: u32) -> Result<(), ApiError> {
        self.change(|state, now| state.scaling.set_desired(group, desired, now))
    }

    /// Terminates an instance through its hooks; without `decrement`, the group replaces it.
    pub fn terminate(&self, instance_id: &str, decrement: bool) -> Result<(), ApiError> {
        let cause = "instance was taken out of service in response to a user request.";
        self.change(|state, now| {
            let terminated = state.scaling.terminate(instance_id, decrement, cause, now);
            terminated.map(|_| ())
        })
    }

    /// Completes a hook of an instance with CONTINUE.
    pub fn complete_hook(&self, instance_id: &str, hook: &str) -> Result<(), ApiError> {
        self.change(|state, now| {
            let group = state.scaling.instance_mut(instance_id)?.group.clone();
            let name = ActionName { hook, token: None };
            let result = ActionResult::Continue;
            state.scaling.complete(&group, Some(instance_id), name, result, now)
        })
    }

    /// Sets the result of a health check; the group terminates and replaces an unhealthy instance.
    pub fn set_health(&self, instance_id: &str, healthy: bool) -> Result<(), ApiError> {
        self.change(|state, now| state.scaling.set_health(instance_id, healthy, now))
    }

    /// Sets whether scale-in leaves an instance alone, as an operator does.
    pub fn set_protection(&self, instance_id: &str, protected: bool) -> Result<(), ApiError> {
        self.change(|state, now| {
            let group = state.scaling.instance_mut(instance_id)?.group.clone();
            state.scaling.set_protection(&group, &[instance_id.to_owned()], protected, now)
        })
    }

    /// Removes an instance at once, without waiting for hooks; the group replaces it.
    pub fn crash(&self, instance_id: &str) -> Result<(), ApiError> {
        self.change(|state, now| {
            state.scaling.instance_mut(instance_id)?;
            let instance_id = instance_id.to_owned();
            state.scaling.emit(EventKind::Crashed { instance_id: instance_id.clone() });
            state.scaling.vanish(&instance_id, now);
            Ok(())
        })
    }

    /// Announces a spot interruption in the metadata, and removes the instance when the interruption is due. `action`
    /// is `terminate`, `stop` or `hibernate`. Refused for an on-demand instance, which EC2 never interrupts.
    pub fn spot_notice(
        &self,
        instance_id: &str,
        action: &str,
        due_in: Duration,
    ) -> Result<(), ApiError> {
        let time = self.now() + due_in;
        self.change(|state, now| {
            let instance = state.scaling.instance_mut(instance_id)?;
            if instance.market != Market::Spot {
                return Err(ApiError::validation(format!(
                    "{instance_id} is an on-demand instance: EC2 interrupts spot instances only"
                )));
            }
            instance.spot = Some(SpotNotice { action: action.to_owned(), due: now + due_in, time });
            state.scaling.emit(EventKind::SpotNotice {
                instance_id: instance_id.to_owned(),
                action: action.to_owned(),
                time,
            });
            Ok(())
        })
    }

    /// Withdraws the notice; the instance stays.
    pub fn clear_spot_notice(&self, instance_id: &str) -> Result<(), ApiError> {
        self.edit(instance_id, |instance| instance.spot = None)
    }

    /// Shows a rebalance recommendation in the metadata.
    pub fn rebalance(&self, instance_id: &str) -> Result<(), ApiError> {
        let time = self.now();
        self.change(|state, _| {
            state.scaling.instance_mut(instance_id)?.rebalance = Some(time);
            state
                .scaling
                .emit(EventKind::RebalanceRecommended { instance_id: instance_id.to_owned() });
            Ok(())
        })
    }

    pub fn clear_rebalance(&self, instance_id: &str) -> Result<(), ApiError> {
        self.edit(instance_id, |instance| instance.rebalance = None)
    }

    /// Shows scheduled maintenance in the metadata. Nothing happens to the instance at that time.
    pub fn schedule_maintenance(
        &self,
        instance_id: &str,
        maintenance: Maintenance,
    ) -> Result<(), ApiError> {
        let not_before = self.now() + Duration::from_secs(maintenance.in_seconds);
        self.change(|state, _| {
            let instance = state.scaling.instance_mut(instance_id)?;
            let number = instance.maintenance.len();
            let code = maintenance.code.clone();
            instance.maintenance.push(ScheduledEvent {
                id: format!("instance-event-{number:017x}"),
                maintenance,
                not_before,
            });
            state.scaling.emit(EventKind::MaintenanceScheduled {
                instance_id: instance_id.to_owned(),
                code,
            });
            Ok(())
        })
    }

    pub fn clear_maintenance(&self, instance_id: &str) -> Result<(), ApiError> {
        self.edit(instance_id, |instance| instance.maintenance.clear())
    }

    pub fn set_tag(&self, instance_id: &str, key: &str, value: &str) -> Result<(), ApiError> {
        self.edit(instance_id, |instance| {
            instance.tags.insert(key.to_owned(), value.to_owned());
        })
    }

    pub fn remove_tag(&self, instance_id: &str, key: &str) -> Result<(), ApiError> {
        self.edit(instance_id, |instance| {
            instance.tags.remove(key);
        })
    }

    /// Sets whether the metadata shows the tags; takes effect at once, as on EC2.
    pub fn set_metadata_tags(&self, instance_id: &str, shown: bool) -> Result<(), ApiError> {
        self.edit(instance_id, |instance| instance.metadata_tags = shown)
    }

    /// Moves an instance to standby; without `decrement`, the group launches a replacement.
    pub fn standby(&self, instance_id: &str, decrement: bool) -> Result<(), ApiError> {
        self.change(|state, now| {
            let group = state.scaling.instance_mut(instance_id)?.group.clone();
            let ids = [instance_id.to_owned()];
            let moved = state.scaling.enter_standby(&group, &ids, decrement, now);
            moved.map(|_| ())
        })
    }

    /// Moves an instance back from standby, and raises the desired capacity by one.
    pub fn exit_standby(&self, instance_id: &str) -> Result<(), ApiError> {
        self.change(|state, now| {
            let group = state.scaling.instance_mut(instance_id)?.group.clone();
            let ids = [instance_id.to_owned()];
            state.scaling.exit_standby(&group, &ids, now).map(|_| ())
        })
    }

    /// Injects a failure into an instance's machine, or ends it. Blocks for some milliseconds.
    pub fn disturb(&self, instance_id: &str, what: Disturbance) -> Result<(), ApiError> {
        let refuse = |why: String| ApiError::new(400, "CannotDisturb", why);
        let machines = self.inner.machines.borrow().clone();
        let machines = machines.ok_or_else(|| refuse("this cloud has no machines".to_owned()))?;
        machines.disturb(instance_id, what).map_err(|error| refuse(format!("{error:#}")))
    }

    fn edit(&self, id: &str, edit: impl FnOnce(&mut Instance)) -> Result<(), ApiError> {
        self.change(|state, _| state.scaling.instance_mut(id).map(edit))
    }
}

/// Functions that read.
impl Cloud {
    /// Returns the instances that Auto Scaling lists, oldest first.
    pub fn instances(&self) -> Vec<InstanceView> {
        self.change(|state, _| {
            let mut instances: Vec<&Instance> = state.scaling.instances().collect();
            instances.sort_by_key(|instance| instance.sequence);
            let view = |instance: &&Instance| self.view(instance);
            instances.iter().map(view).collect()
        })
    }

    /// Returns an instance, as long as Auto Scaling lists it.
    pub fn instance(&self, instance_id: &str) -> Option<InstanceView> {
        self.change(|state, _| {
            let instance = state.scaling.instance(instance_id);
            instance.map(|instance| self.view(instance))
        })
    }

    fn view(&self, instance: &Instance) -> InstanceView {
        let actions = instance.lifecycle.actions().iter();
        InstanceView {
            id: instance.id.clone(),
            group: instance.group.clone(),
            lifecycle: instance.lifecycle.state(),
            healthy: instance.healthy,
            protected: instance.protected,
            address: instance.address,
            zone: instance.zone.clone(),
            launched_at: self.inner.clock.date(instance.launched),
            market: instance.market,
            role_name: instance.credentials.as_ref().map(|c| c.role_name.clone()),
            tags: instance.tags.clone(),
            waiting_hooks: actions.map(|action| action.hook.clone()).collect(),
        }
    }

    pub fn groups(&self) -> Vec<GroupView> {
        self.change(|state, _| {
            let view = |group: &super::autoscaling::Group| {
                let name = &group.spec.name;
                let mut members: Vec<&Instance> =
                    state.scaling.instances().filter(|instance| &instance.group == name).collect();
                members.sort_by_key(|instance| instance.sequence);
                GroupView {
                    name: name.clone(),
                    min: group.spec.min,
                    max: group.spec.max,
                    desired: group.spec.desired,
                    hooks: group.hooks.iter().map(|hook| hook.name.clone()).collect(),
                    instances: members.iter().map(|member| member.id.clone()).collect(),
                }
            };
            state.scaling.groups().map(view).collect()
        })
    }

    pub fn stack(&self, name: &str) -> Option<StackView> {
        self.change(|state, _| state.stacks.view(name))
    }

    /// Returns the calls so far, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        self.inner.requests.snapshot()
    }

    /// Removes the calls so far from the log, and returns them, oldest first: each is returned once.
    pub fn take_requests(&self) -> Vec<Request> {
        self.inner.requests.take()
    }

    pub fn clear_requests(&self) {
        self.inner.requests.clear();
    }

    /// Returns a receiver of the events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<CloudEvent> {
        self.inner.events.subscribe()
    }

    /// Returns the events from this number on; the first event is number 0.
    pub fn events_since(&self, index: usize) -> Vec<CloudEvent> {
        self.inner.events.since(index)
    }

    /// Returns the names of the parameters in SSM.
    pub fn parameter_names(&self) -> Vec<String> {
        lock(&self.inner.state).parameters.names()
    }

    /// Returns the value of a parameter in SSM. It may be a secret.
    pub fn parameter(&self, name: &str) -> Option<String> {
        lock(&self.inner.state).parameters.value(name).map(str::to_owned)
    }

    /// Deletes a parameter; returns `false` when it does not exist.
    pub fn delete_parameter(&self, name: &str) -> bool {
        lock(&self.inner.state).parameters.delete(name)
    }

    pub fn region(&self) -> String {
        self.inner.options.region.clone()
    }

    /// Returns the key of the partition with the rows that a worker of a cluster writes about itself.
    pub fn workers_partition(&self, cluster: &str, instance_id: &str) -> String {
        let region = &self.inner.options.region;
        format!("{cluster}#arn:aws:ec2:{region}:{}:instance/{instance_id}", super::ACCOUNT)
    }

    /// Returns the time when the cloud was created, by its clock.
    pub fn started_at(&self) -> OffsetDateTime {
        self.inner.clock.date(Duration::ZERO)
    }
}
