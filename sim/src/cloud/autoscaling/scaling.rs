//! The pure core: instances, their transitions, and convergence to the desired capacity.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::action::ActionName;
use super::activities::{Activity, Status};
use super::group::Group;
use super::instance::{AddressPool, Instance, Released};
use super::lifecycle::{Event, Fact, Refused, Surroundings, Timing};
use super::policy::Policies;
use super::refresh::Refresh;
use super::states::{ActionResult, LifecycleState};
use crate::cloud::elb::{self, Elb};
use crate::cloud::errors::ApiError;
use crate::cloud::events::EventKind;
use crate::cloud::ids::Ids;
use crate::cloud::specs::CloudOptions;
use crate::machines::Launch;

/// How long EC2 shows an instance that is terminated:
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html>
const SHOWN_TERMINATED: Duration = Duration::from_secs(3600);

/// An event to publish, or an order to the machines.
#[derive(Debug)]
pub(crate) enum Outcome {
    Event(EventKind),
    Balanced(elb::Outcome),
    Launch(Launch),
    Stop(String),
    Start(String),
    PowerOff(String),
    ReplaceRootVolume {
        instance: String,
        image: String,
    },
    /// An instance belongs to EC2 alone from now on.
    Released(Released),
}

/// The owner of an access key id. Credentials outlive the instance, as on AWS.
#[derive(Clone)]
pub(crate) struct Principal {
    pub instance_id: String,
    pub role_name: String,
    pub session_token: String,
}

pub(crate) struct Scaling {
    pub(super) groups: BTreeMap<String, Group>,
    pub(super) instances: BTreeMap<String, Instance>,
    pub(super) elb: Elb,
    /// With the times of their ends, for as long as EC2 shows them.
    terminated: Vec<(Duration, Instance)>,
    pub(super) activities: Vec<Activity>,
    /// In the order of their starts.
    pub(super) refreshes: Vec<Refresh>,
    pub(super) ids: Ids,
    pub(super) region: String,
    pub(super) zones: Vec<String>,
    /// The zones in which no instance can be launched.
    pub(super) impaired: BTreeSet<String>,
    pub timing: Timing,
    pub(super) policies: Policies,
    pub(super) addresses: AddressPool,
    pub(super) by_address: HashMap<Ipv4Addr, String>,
    pub(super) principals: HashMap<String, Principal>,
    pub(super) sequence: u64,
    pub(super) outcomes: Vec<Outcome>,
    is_touched: bool,
}

impl Scaling {
    pub fn new(options: &CloudOptions) -> anyhow::Result<Self> {
        anyhow::ensure!(!options.zones.is_empty(), "a cloud needs at least one zone");
        Ok(Self {
            groups: BTreeMap::new(),
            instances: BTreeMap::new(),
            // Different from the instances' ids, from the same seed.
            elb: Elb::new(&options.region, options.seed.wrapping_add(6)),
            terminated: Vec::new(),
            activities: Vec::new(),
            refreshes: Vec::new(),
            ids: Ids::new(options.seed),
            region: options.region.clone(),
            zones: options.zones.clone(),
            impaired: BTreeSet::new(),
            timing: Timing::default(),
            policies: Policies::default(),
            addresses: AddressPool::new(options.subnet)?,
            by_address: HashMap::new(),
            principals: HashMap::new(),
            sequence: 0,
            outcomes: Vec::new(),
            is_touched: false,
        })
    }

    /// Takes an address for an instance that no group has launched.
    pub fn take_address(&mut self) -> Option<Ipv4Addr> {
        self.addresses.take()
    }

    pub fn give_back_address(&mut self, address: Ipv4Addr) {
        self.addresses.free(address);
    }

    /// Makes the timers look at the deadlines again, for a change that emits nothing.
    pub(super) fn touch(&mut self) {
        self.is_touched = true;
    }

    pub fn take_touched(&mut self) -> bool {
        std::mem::take(&mut self.is_touched)
    }

    pub fn take_outcomes(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.outcomes)
    }

    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.instances.values()
    }

    pub fn instance(&self, id: &str) -> Option<&Instance> {
        self.instances.get(id)
    }

    /// Returns the instances that EC2 still shows, without an address, after Auto Scaling has forgotten them.
    pub fn terminated(&self, now: Duration) -> impl Iterator<Item = &Instance> {
        let is_shown = move |ended: &Duration| now.saturating_sub(*ended) < SHOWN_TERMINATED;
        let shown = self.terminated.iter().filter(move |(ended, _)| is_shown(ended));
        shown.map(|(_, instance)| instance)
    }

    pub fn instance_at(&self, address: Ipv4Addr) -> Option<&Instance> {
        self.instances.get(self.by_address.get(&address)?)
    }

    pub fn principal(&self, access_key_id: &str) -> Option<&Principal> {
        self.principals.get(access_key_id)
    }

    /// Returns an instance for changes that concern only the metadata.
    pub fn instance_mut(&mut self, id: &str) -> Result<&mut Instance, ApiError> {
        self.instances.get_mut(id).ok_or_else(|| not_managed(id))
    }

    pub fn emit(&mut self, event: EventKind) {
        self.outcomes.push(Outcome::Event(event));
    }

    /// Makes the changes that are due.
    pub fn tick(&mut self, now: Duration) {
        self.balance(|elb| elb.tick(now));
        let due: Vec<String> = self
            .instances
            .values()
            .filter(|i| {
                let deadline = i.lifecycle.next_deadline(self.timing, self.deregistered(i));
                deadline.is_some_and(|deadline| deadline <= now)
            })
            .map(|i| i.id.clone())
            .collect();
        for id in due {
            // A tick cannot be refused.
            let _ = self.step(&id, Event::Tick, now);
        }
        let reclaimed: Vec<String> = self
            .instances
            .values()
            .filter(|i| i.spot.as_ref().is_some_and(|notice| notice.due <= now))
            .map(|i| i.id.clone())
            .collect();
        for instance_id in reclaimed {
            self.emit(EventKind::SpotReclaimed { instance_id: instance_id.clone() });
            self.vanish(&instance_id, now);
        }
        self.replace_unhealthy(now);
        self.converge(now);
    }

    /// Returns the time of the next change that needs no call.
    pub fn next_deadline(&self) -> Option<Duration> {
        let of_instances = self.instances.values().flat_map(|i| {
            let spot = i.spot.as_ref().map(|notice| notice.due);
            let lifecycle = i.lifecycle.next_deadline(self.timing, self.deregistered(i));
            [lifecycle, spot, self.unhealthy_from(i)]
        });
        let others = [self.elb.next_deadline(), self.refresh_deadline()];
        of_instances.flatten().chain(others.into_iter().flatten()).min()
    }

    /// Terminates an instance through its hooks.
    pub fn terminate(
        &mut self,
        id: &str,
        decrement: bool,
        cause: &str,
        now: Duration,
    ) -> Result<&Activity, ApiError> {
        let instance = self.instances.get(id).ok_or_else(|| not_managed(id))?;
        let state = instance.lifecycle.state();
        let index = if state.is_leaving() && !state.is_retained() {
            instance.activity
        } else {
            let group = instance.group.clone();
            check_decrement(state, decrement)?;
            // An instance of the warm pool does not count for the desired capacity.
            if decrement && !state.is_warmed() {
                self.decrement(&group, 1)?;
            }
            self.begin_termination(id, !decrement, cause, now);
            let index = self.activities.len() - 1;
            self.converge(now);
            index
        };
        Ok(&self.activities[index])
    }

    pub fn set_health(&mut self, id: &str, healthy: bool, now: Duration) -> Result<(), ApiError> {
        let instance = self.instance_mut(id)?;
        instance.healthy = healthy;
        if !healthy && !instance.lifecycle.state().is_leaving() {
            let group = instance.group.clone();
            self.emit(EventKind::Unhealthy { instance_id: id.to_owned() });
            if !self.group(&group).is_ok_and(Group::replaces_unhealthy) {
                return Ok(());
            }
            let cause = "an instance was taken out of service in response to a user health-check.";
            self.begin_termination(id, true, cause, now);
        }
        self.converge(now);
        Ok(())
    }

    pub fn heartbeat(
        &mut self,
        group: &str,
        instance_id: Option<&str>,
        name: ActionName<'_>,
        now: Duration,
    ) -> Result<(), ApiError> {
        self.act(group, instance_id, name, Event::Heartbeat(name), now)
    }

    pub fn complete(
        &mut self,
        group: &str,
        instance_id: Option<&str>,
        name: ActionName<'_>,
        result: ActionResult,
        now: Duration,
    ) -> Result<(), ApiError> {
        self.act(group, instance_id, name, Event::Complete(name, result), now)
    }

    /// Applies an event to the lifecycle action that the token or the instance id names.
    fn act(
        &mut self,
        group: &str,
        instance_id: Option<&str>,
        name: ActionName<'_>,
        event: Event<'_>,
        now: Duration,
    ) -> Result<(), ApiError> {
        self.group(group)?;
        let none = || match (instance_id, name.token) {
            (Some(id), _) => no_active_action("instance ID", id),
            (None, Some(token)) => no_active_action("token", token),
            (None, None) => ApiError::validation(
                "Either the LifecycleActionToken or the InstanceId must be specified",
            ),
        };
        let found = self.instances.values().find(|i| {
            i.group == group
                && match (instance_id, name.token) {
                    (Some(id), _) => i.id == id,
                    (None, Some(token)) => i.lifecycle.actions().iter().any(|a| a.token == token),
                    (None, None) => false,
                }
        });
        let id = found.ok_or_else(none)?.id.clone();
        let answer = self.step(&id, event, now).map_err(|_| none());
        self.converge(now);
        answer
    }

    pub(super) fn step(
        &mut self,
        id: &str,
        event: Event<'_>,
        now: Duration,
    ) -> Result<(), Refused> {
        let Some(instance) = self.instances.get(id) else {
            return Ok(());
        };
        let deregistered = self.deregistered(instance);
        let Some(instance) = self.instances.get_mut(id) else {
            return Ok(());
        };
        let group = self.groups.get(&instance.group);
        let hooks = group.map(|g| g.hooks.as_slice());
        let ids = &mut self.ids;
        let mut around = Surroundings {
            hooks: hooks.unwrap_or_default(),
            timing: self.timing,
            retains: group.is_some_and(|g| g.spec.retain_abandoned),
            deregistered,
            token: &mut || ids.uuid(),
        };
        let mut facts = Vec::new();
        let answer = instance.lifecycle.step(event, now, &mut around, &mut facts);
        let leaves =
            facts.iter().any(|fact| matches!(fact, Fact::Moved { to, .. } if to.leaves_service()));
        for fact in facts {
            self.follow(id, fact, now);
        }
        if leaves {
            // The deregistration may be over at once, without a delay or without targets. A tick cannot be refused.
            let _ = self.step(id, Event::Tick, now);
            self.show_draining(id, now);
        }
        answer
    }

    /// Applies one fact to the group and the activities, and adds its event or order.
    fn follow(&mut self, id: &str, fact: Fact, now: Duration) {
        let instance_id = id.to_owned();
        match fact {
            Fact::Stopped => self.outcomes.push(Outcome::Stop(instance_id)),
            Fact::Started => self.outcomes.push(Outcome::Start(instance_id)),
            Fact::PoweredOff => self.outcomes.push(Outcome::PowerOff(instance_id)),
            Fact::ReplacesRootVolume => self.order_root_volume(id),
            Fact::LaunchAbandoned => self.launch_abandoned(id, now),
            Fact::Moved { from, to } => self.moved(id, from, to, now),
            Fact::HookStarted { hook, transition, timeout } => self.emit(EventKind::HookStarted {
                instance_id,
                hook,
                transition,
                heartbeat_timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            }),
            Fact::Heartbeat { hook } => self.emit(EventKind::Heartbeat { instance_id, hook }),
            Fact::HookCompleted { hook, result } => {
                self.emit(EventKind::HookCompleted { instance_id, hook, result });
            }
            Fact::HookTimedOut { hook, default_result } => {
                self.emit(EventKind::HookTimedOut { instance_id, hook, default_result });
            }
        }
    }

    fn launch_abandoned(&mut self, id: &str, now: Duration) {
        let Some(instance) = self.instances.get(id) else {
            return;
        };
        let group = instance.group.clone();
        self.activities[instance.activity].end(Status::Cancelled, now);
        let cause = "an instance was taken out of service in response to a launch lifecycle \
                     action that was abandoned.";
        self.record_termination(id, &group, cause, now);
        self.leaves_a_gap(&group, id);
    }

    fn moved(&mut self, id: &str, from: LifecycleState, to: LifecycleState, now: Duration) {
        use LifecycleState as S;
        let Some(instance) = self.instances.get(id) else {
            return;
        };
        let group = instance.group.clone();
        let activity = &mut self.activities[instance.activity];
        match to {
            _ if to.is_waiting() => activity.status = Status::MidLifecycleAction,
            _ if to.is_retained() => activity.end(Status::Cancelled, now),
            S::InService | S::WarmedStopped | S::WarmedRunning => {
                activity.end(Status::Successful, now);
            }
            _ => {}
        }
        self.emit(EventKind::LifecycleChanged { instance_id: id.to_owned(), group, from, to });
        self.direct_traffic(id, to, now);
        if to.is_terminated() {
            self.forget(id, now);
        } else if to == S::Detached {
            self.release(id, now);
        }
    }

    fn forget(&mut self, id: &str, now: Duration) {
        let Some(instance) = self.instances.remove(id) else {
            return;
        };
        self.activities[instance.activity].end(Status::Successful, now);
        self.addresses.free(instance.address);
        self.by_address.remove(&instance.address);
        self.terminated.retain(|(ended, _)| now.saturating_sub(*ended) < SHOWN_TERMINATED);
        self.terminated.push((now, instance));
    }

    pub(super) fn record(
        &mut self,
        id: &str,
        group: &str,
        description: String,
        cause: &str,
        now: Duration,
    ) {
        let activity = Activity {
            id: self.ids.uuid(),
            group: group.to_owned(),
            description,
            cause: cause.to_owned(),
            started: now,
            ended: None,
            status: Status::InProgress,
        };
        self.activities.push(activity);
        if let Some(instance) = self.instances.get_mut(id) {
            instance.activity = self.activities.len() - 1;
        }
    }
}

pub(super) fn not_managed(id: &str) -> ApiError {
    ApiError::validation(format!(
        "Instance Id not found - No managed instance found for instance ID: {id}"
    ))
}

fn no_active_action(by: &str, value: &str) -> ApiError {
    ApiError::validation(format!("No active Lifecycle Action found with {by} {value}"))
}

/// Refuses to lower the desired capacity by an instance that does not count for it.
fn check_decrement(state: LifecycleState, decrement: bool) -> Result<(), ApiError> {
    if decrement && state.is_retained() {
        return Err(ApiError::validation(
            "Retained instances do not count toward the desired capacity. Terminate them without \
             decrementing it.",
        ));
    }
    Ok(())
}
