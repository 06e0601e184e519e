//! CloudFormation, as far as a node uses it: stacks whose resources wait for signals. `deploy.rs` creates, updates and
//! deletes a stack of skep's template with its groups.
//!
//! [`Stacks`] is a pure core, like Auto Scaling's. A resource completes with its last required SUCCESS signal, and each
//! unique id counts once. One FAILURE or the timeout fails the resource, and with it the stack. There is no rollback: a
//! failed stack stays `CREATE_FAILED`, as with `--disable-rollback`.

mod api;
mod deploy;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub(super) use api::handle;
pub(super) use deploy::{Deployed, deploy, deploys};

use super::errors::ApiError;
use super::events::EventKind;
use super::ids::Ids;
use super::specs::{StackResourceSpec, StackResourceView, StackSpec, StackView};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    InProgress,
    Complete,
    Failed,
    Updating,
    Updated,
    Deleting,
    Deleted,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InProgress => "CREATE_IN_PROGRESS",
            Self::Complete => "CREATE_COMPLETE",
            Self::Failed => "CREATE_FAILED",
            Self::Updating => "UPDATE_IN_PROGRESS",
            Self::Updated => "UPDATE_COMPLETE",
            Self::Deleting => "DELETE_IN_PROGRESS",
            Self::Deleted => "DELETE_COMPLETE",
        }
    }

    /// Whether a signal can arrive.
    fn waits(self) -> bool {
        matches!(self, Self::InProgress | Self::Updating)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Success,
    Failure,
}

#[derive(Debug)]
pub(super) struct Resource {
    spec: StackResourceSpec,
    deadline: Duration,
    status: Status,
    reason: Option<String>,
    changed: Duration,
    succeeded: BTreeSet<String>,
    failed: BTreeSet<String>,
}

#[derive(Debug)]
pub(super) struct Stack {
    name: String,
    id: String,
    status: Status,
    reason: Option<String>,
    created: Duration,
    tags: BTreeMap<String, String>,
    outputs: BTreeMap<String, String>,
    resources: Vec<Resource>,
    /// Whether further resources follow.
    is_growing: bool,
    history: Vec<Entry>,
}

/// One line of a stack's events.
#[derive(Debug)]
struct Entry {
    id: String,
    at: Duration,
    /// `None`: the stack itself.
    logical_id: Option<String>,
    status: Status,
    reason: Option<String>,
}

#[derive(Debug)]
pub(super) struct Stacks {
    stacks: BTreeMap<String, Stack>,
    /// Ids by name: a group can name its stack before the stack exists.
    stack_ids: BTreeMap<String, String>,
    ids: Ids,
    region: String,
    outcomes: Vec<EventKind>,
}

impl Stacks {
    pub fn new(region: &str, seed: u64) -> Self {
        Self {
            stacks: BTreeMap::new(),
            stack_ids: BTreeMap::new(),
            ids: Ids::new(seed),
            region: region.to_owned(),
            outcomes: Vec::new(),
        }
    }

    pub fn take_outcomes(&mut self) -> Vec<EventKind> {
        std::mem::take(&mut self.outcomes)
    }

    /// Returns the id that the stack of this name has or will have.
    pub fn stack_id(&mut self, name: &str) -> String {
        if let Some(id) = self.stack_ids.get(name) {
            return id.clone();
        }
        let id = format!(
            "arn:aws:cloudformation:{}:{}:stack/{name}/{}",
            self.region,
            super::ACCOUNT,
            self.ids.uuid()
        );
        self.stack_ids.insert(name.to_owned(), id.clone());
        id
    }

    pub fn create(&mut self, spec: StackSpec, now: Duration) -> Result<(), ApiError> {
        let name = self.begin(&spec.name, BTreeMap::new(), BTreeMap::new(), now)?;
        for resource in spec.resources {
            self.add(&name, resource, now);
        }
        self.finish(&name, now);
        Ok(())
    }

    /// Begins a stack, whose resources follow until [`Stacks::finish`].
    fn begin(
        &mut self,
        name: &str,
        tags: BTreeMap<String, String>,
        outputs: BTreeMap<String, String>,
        now: Duration,
    ) -> Result<String, ApiError> {
        if self.stacks.get(name).is_some_and(|stack| stack.status != Status::Deleted) {
            return Err(ApiError::new(
                400,
                "AlreadyExistsException",
                format!("Stack [{name}] already exists"),
            ));
        }
        let stack = Stack {
            id: self.stack_id(name),
            name: name.to_owned(),
            status: Status::InProgress,
            reason: Some("User Initiated".to_owned()),
            created: now,
            tags,
            outputs,
            resources: Vec::new(),
            is_growing: true,
            history: Vec::new(),
        };
        self.stacks.insert(name.to_owned(), stack);
        self.note(name, None, now);
        Ok(name.to_owned())
    }

    fn add(&mut self, name: &str, spec: StackResourceSpec, now: Duration) {
        let logical_id = spec.logical_id.clone();
        let resource = Resource {
            deadline: now + spec.timeout,
            spec,
            status: Status::InProgress,
            reason: None,
            changed: now,
            succeeded: BTreeSet::new(),
            failed: BTreeSet::new(),
        };
        if let Some(stack) = self.stacks.get_mut(name) {
            stack.resources.push(resource);
        }
        self.note(name, Some(&logical_id), now);
    }

    fn finish(&mut self, name: &str, now: Duration) {
        if let Some(stack) = self.stacks.get_mut(name) {
            stack.is_growing = false;
        }
        self.settle(name, now);
    }

    /// Sets the status of a stack, or of one of its resources. An update of a resource forgets its earlier signals.
    fn mark(&mut self, name: &str, logical_id: Option<&str>, status: Status, now: Duration) {
        let Some(stack) = self.stacks.get_mut(name) else { return };
        match logical_id {
            None => (stack.status, stack.reason) = (status, None),
            Some(id) => {
                let resource = stack.resources.iter_mut().find(|it| it.spec.logical_id == id);
                let Some(resource) = resource else { return };
                (resource.status, resource.reason, resource.changed) = (status, None, now);
                if status == Status::Updating {
                    resource.succeeded.clear();
                    resource.failed.clear();
                }
            }
        }
        if logical_id.is_none() && status == Status::Deleted {
            // The next stack of this name has another id.
            self.stack_ids.remove(name);
        }
        self.note(name, logical_id, now);
    }

    /// Returns a stack by its name or id.
    fn stack(&self, name_or_id: &str) -> Result<&Stack, ApiError> {
        self.stacks
            .values()
            .find(|stack| {
                // Only the id finds a deleted stack.
                let is_named = stack.name == name_or_id && stack.status != Status::Deleted;
                is_named || stack.id == name_or_id
            })
            .ok_or_else(|| does_not_exist(name_or_id))
    }

    pub fn signal(
        &mut self,
        name_or_id: &str,
        logical_id: &str,
        unique_id: &str,
        signal: Signal,
        now: Duration,
    ) -> Result<(), ApiError> {
        self.tick(now);
        let stack = self.stack(name_or_id)?;
        if !stack.status.waits() {
            return Err(cannot_be_signaled("Stack", &stack.id, stack.status));
        }
        let name = stack.name.clone();
        let resource =
            self.resource_mut(&name, logical_id).ok_or_else(|| no_resource(&name, logical_id))?;
        if !resource.status.waits() {
            return Err(cannot_be_signaled("Resource", logical_id, resource.status));
        }
        let status = match signal {
            Signal::Success => {
                resource.succeeded.insert(unique_id.to_owned());
                "SUCCESS"
            }
            Signal::Failure => {
                resource.failed.insert(unique_id.to_owned());
                "FAILURE"
            }
        };
        self.outcomes.push(EventKind::Signalled {
            stack: name.clone(),
            logical_id: logical_id.to_owned(),
            unique_id: unique_id.to_owned(),
            status: status.to_owned(),
        });
        self.settle(&name, now);
        Ok(())
    }

    fn resource_mut(&mut self, name: &str, logical_id: &str) -> Option<&mut Resource> {
        let resources = &mut self.stacks.get_mut(name)?.resources;
        resources.iter_mut().find(|r| r.spec.logical_id == logical_id)
    }

    /// Fails the resources whose timeout has passed.
    pub fn tick(&mut self, now: Duration) {
        let names: Vec<String> = self.stacks.keys().cloned().collect();
        for name in names {
            self.settle(&name, now);
        }
    }

    pub fn next_deadline(&self) -> Option<Duration> {
        self.stacks
            .values()
            .filter(|stack| stack.status == Status::InProgress)
            .flat_map(|stack| &stack.resources)
            .filter(|resource| resource.status == Status::InProgress)
            .map(|resource| resource.deadline)
            .min()
    }

    /// Updates the status of the resources and the stack, from the signals and the time.
    fn settle(&mut self, name: &str, now: Duration) {
        let Some(stack) = self.stacks.get_mut(name) else {
            return;
        };
        if stack.status != Status::InProgress {
            return;
        }
        let mut changed = Vec::new();
        for resource in &mut stack.resources {
            if resource.status == Status::InProgress
                && let Some((status, reason)) = resource.verdict(now)
            {
                (resource.status, resource.reason, resource.changed) = (status, reason, now);
                changed.push(resource.spec.logical_id.clone());
            }
        }
        let failed: Vec<&str> = stack
            .resources
            .iter()
            .filter(|resource| resource.status == Status::Failed)
            .map(|resource| resource.spec.logical_id.as_str())
            .collect();
        if !failed.is_empty() {
            stack.reason = Some(format!(
                "The following resource(s) failed to create: [{}].",
                failed.join(", ")
            ));
            stack.status = Status::Failed;
        } else if !stack.is_growing && stack.resources.iter().all(|r| r.status == Status::Complete)
        {
            stack.reason = None;
            stack.status = Status::Complete;
        }
        let ended = stack.status != Status::InProgress;
        for logical_id in changed {
            self.note(name, Some(&logical_id), now);
        }
        if ended {
            self.note(name, None, now);
        }
    }

    /// Writes the present status of a stack, or of one resource, into its events.
    fn note(&mut self, name: &str, logical_id: Option<&str>, now: Duration) {
        let id = self.ids.uuid();
        let Some(stack) = self.stacks.get_mut(name) else {
            return;
        };
        let resource = stack
            .resources
            .iter()
            .find(|resource| Some(resource.spec.logical_id.as_str()) == logical_id);
        let (status, reason) =
            resource.map_or((stack.status, &stack.reason), |r| (r.status, &r.reason));
        let reason = reason.clone();
        self.outcomes.push(EventKind::StackStatus {
            stack: name.to_owned(),
            logical_id: logical_id.map(str::to_owned),
            status: status.as_str().to_owned(),
            reason: reason.clone(),
        });
        stack.history.push(Entry {
            id,
            at: now,
            logical_id: logical_id.map(str::to_owned),
            status,
            reason,
        });
    }

    pub fn view(&self, name: &str) -> Option<StackView> {
        let stack = self.stacks.get(name)?;
        let resources = stack.resources.iter().map(|resource| StackResourceView {
            logical_id: resource.spec.logical_id.clone(),
            status: resource.status.as_str().to_owned(),
            reason: resource.reason.clone(),
            required_signals: resource.spec.signals,
            succeeded: resource.succeeded.clone(),
            failed: resource.failed.clone(),
        });
        Some(StackView {
            name: stack.name.clone(),
            id: stack.id.clone(),
            status: stack.status.as_str().to_owned(),
            reason: stack.reason.clone(),
            resources: resources.collect(),
        })
    }
}

impl Resource {
    /// Returns the new status and its reason, from the signals so far and the time; `None`: the resource still waits.
    fn verdict(&self, now: Duration) -> Option<(Status, Option<String>)> {
        let required = self.spec.signals;
        if !self.failed.is_empty() {
            let reason = format!(
                "Received {} FAILURE signal(s) out of {required}. Unable to satisfy 100% \
                 MinSuccessfulInstancesPercent requirement",
                self.failed.len()
            );
            return Some((Status::Failed, Some(reason)));
        }
        if self.succeeded.len() >= required as usize {
            return Some((Status::Complete, None));
        }
        (now >= self.deadline).then(|| {
            let reason = format!(
                "Failed to receive {required} resource signal(s) within the specified duration"
            );
            (Status::Failed, Some(reason))
        })
    }
}

fn does_not_exist(name: &str) -> ApiError {
    ApiError::validation(format!("Stack with id {name} does not exist"))
}

fn no_resource(stack: &str, logical_id: &str) -> ApiError {
    ApiError::validation(format!("Resource {logical_id} does not exist for stack {stack}"))
}

/// This wording is in public logs: <https://github.com/aws-cloudformation/aws-cloudformation-templates/issues/34>.
fn cannot_be_signaled(what: &str, id: &str, status: Status) -> ApiError {
    let status = status.as_str();
    ApiError::validation(format!("{what} {id} is in {status} state and cannot be signaled"))
}

#[cfg(test)]
mod tests;
