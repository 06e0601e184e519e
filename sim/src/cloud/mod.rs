//! The cloud: the AWS services that skep calls, over their own wire protocols, and the metadata.
//!
//! One [`Cloud`] is one account in one region. It is created, gets its machines from [`Cloud::set_machines`], and is
//! served on a listener for AWS's services, one for the metadata, and those of its load balancers:
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use skep_sim::cloud::{Cloud, CloudOptions, GroupSpec};
//! use tokio::net::TcpListener;
//!
//! let cloud = Cloud::new(CloudOptions {
//!     region: "eu-central-1".into(),
//!     zones: vec!["eu-central-1a".into()],
//!     subnet: ([10, 78, 0, 0].into(), 24),
//!     seed: 1,
//! })?;
//! tokio::spawn(cloud.clone().serve_aws(TcpListener::bind("127.0.0.1:0").await?));
//! tokio::spawn(cloud.clone().serve_imds(TcpListener::bind("127.0.0.1:0").await?));
//! tokio::spawn(cloud.clone().serve_load_balancers([10, 78, 0, 3].into()));
//! cloud.create_table("skep")?;
//! cloud.create_group(GroupSpec { name: "nodes".into(), max: 3, desired: 3, ..Default::default() })?;
//! # Ok(())
//! # }
//! ```
//!
//! Guarantees: every call is answered from the state after the earlier calls; due changes are made before a call is
//! answered; events have the order of the changes.
//!
//! Assumes: every caller with credentials is trusted (signatures are not verified), and the machines carry out their
//! orders.

mod access;
mod admin;
mod admin_http;
mod autoscaling;
mod clock;
mod cloudformation;
mod cloudwatch;
mod cluster;
mod dynamodb;
mod ec2;
mod ecr;
mod elb;
mod errors;
mod events;
mod faults;
mod gateway;
mod iam;
mod ids;
mod imds;
mod limits;
mod requests;
mod run_command;
mod s3;
mod server;
mod specs;
mod ssm;
mod tasks;
mod tls;
mod wire;
mod xml;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use access::{Deny, Who};
pub use autoscaling::{
    ActionResult, AlarmState, LifecycleState, OfProtected, OfStandby, PolicyPace, PolicySpec,
    PoolState, Process, RefreshSpec, RefreshStatus, RefreshStrategy, RefreshView, Timing,
    Transition,
};
pub use cloudwatch::{Metric, MetricView, Statistic};
pub use cluster::{ClusterBalancer, ClusterSpec, LAUNCH_HOOK, TERMINATION_HOOK};
pub use dynamodb::Units;
pub use dynoxide::Database;
pub use ec2::ImageState;
pub use elb::{
    Cut, FlowCounts, HealthCheck, ListenerSpec, LoadBalancerSpec, Matcher, Probe,
    TargetGroupAttributes, TargetGroupSpec, TargetHealth, TargetState, TargetView,
};
pub use errors::ApiError;
pub use events::{CloudEvent, EventKind};
pub use faults::{Fault, FaultRule, Faults};
pub use iam::PolicyError;
pub use imds::{ImdsKnobs, mac_address};
pub use limits::{Limits, Quotas, Rate};
pub use requests::{Request, Service};
pub use s3::ObjectView;
pub use specs::{
    CloudOptions, GroupSpec, GroupView, HealthCheckType, HookSpec, InstanceView, Maintenance,
    Market, StackResourceSpec, StackResourceView, StackSpec, StackView, WarmPoolSpec,
};
pub use tls::Tls;

use crate::machines::Machines;
use autoscaling::{Outcome, Scaling};
use clock::Clock;
use cloudformation::Stacks;
use dynamodb::DynamoDb;
use ec2::Ec2;
use events::EventLog;
use requests::RequestLog;

/// The account of all resources.
const ACCOUNT: &str = "123456789012";
/// Time until the next check when no change is planned.
const IDLE: Duration = Duration::from_secs(3600);

/// The local cloud. Clones are handles to the same cloud.
#[derive(Clone)]
pub struct Cloud {
    inner: Arc<Inner>,
}

struct Inner {
    options: CloudOptions,
    clock: Clock,
    state: Mutex<State>,
    faults: Faults,
    limits: Limits,
    requests: RequestLog,
    events: EventLog,
    dynamodb: DynamoDb,
    orders: mpsc::UnboundedSender<tasks::Order>,
    machines: watch::Sender<Option<Arc<dyn Machines>>>,
    flows: elb::Flows,
    /// The version of the listeners and of the targets to check.
    layout: watch::Sender<u64>,
    /// Wakes the timers when a deadline may have changed.
    wake: Arc<Notify>,
    /// Ends the tasks when the last handle is dropped.
    _stop: DropGuard,
}

struct State {
    scaling: Scaling,
    stacks: Stacks,
    cloudwatch: cloudwatch::CloudWatch,
    ec2: Ec2,
    parameters: ssm::Parameters,
    commands: run_command::Commands,
    /// By the names of the stacks that CreateStack has made.
    deployed: BTreeMap<String, cloudformation::Deployed>,
    ecr: ecr::Ecr,
    s3: s3::S3,
    denials: Vec<Deny>,
    /// By role; a role without an entry is not restricted.
    policies: BTreeMap<String, iam::Policies>,
    metadata: imds::Metadata,
    /// No change is due before this elapsed time. Cached, because every call needs it and finding it reads every
    /// instance.
    next_due: Duration,
}

impl State {
    /// Makes the due changes.
    fn pass_time(&mut self, now: Duration, clock: &Clock) {
        self.scaling.tick(now);
        self.scaling.follow_policies(&self.cloudwatch, clock.date(now), now);
        self.stacks.tick(now);
        self.reckon(now);
    }

    /// Finds the time of the next due change.
    fn reckon(&mut self, now: Duration) {
        let scaling = [self.scaling.next_deadline(), self.scaling.policies_due()];
        let deadlines = scaling.into_iter().chain([self.stacks.next_deadline()]);
        self.next_due = deadlines.flatten().min().unwrap_or(now + IDLE);
    }
}

impl fmt::Debug for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The state holds secrets.
        f.debug_struct("Cloud").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

impl Cloud {
    /// Creates an empty cloud. Must be called within a tokio runtime.
    pub fn new(options: CloudOptions) -> anyhow::Result<Self> {
        tokio::runtime::Handle::try_current().context("a cloud needs a tokio runtime")?;
        let stop = CancellationToken::new();
        let (orders, orders_to_do) = mpsc::unbounded_channel();
        let (machines, machines_set) = watch::channel(None);
        let state = State {
            scaling: Scaling::new(&options)?,
            // Different from the instances' ids, from the same seed.
            stacks: Stacks::new(&options.region, options.seed.wrapping_add(1)),
            cloudwatch: cloudwatch::CloudWatch::default(),
            ec2: Ec2::new(options.seed.wrapping_add(3)),
            parameters: ssm::Parameters::default(),
            commands: run_command::Commands::new(options.seed.wrapping_add(5)),
            deployed: BTreeMap::new(),
            ecr: ecr::Ecr::new(options.seed.wrapping_add(4)),
            s3: s3::S3::default(),
            denials: Vec::new(),
            policies: BTreeMap::new(),
            metadata: imds::Metadata::new(options.seed.wrapping_add(2)),
            next_due: Duration::ZERO,
        };
        let inner = Arc::new(Inner {
            clock: Clock::new(),
            state: Mutex::new(state),
            faults: Faults::new(options.seed),
            limits: Limits::default(),
            requests: RequestLog::default(),
            events: EventLog::new(),
            dynamodb: DynamoDb::start(stop.clone())?,
            orders,
            machines,
            flows: elb::Flows::default(),
            layout: watch::Sender::new(0),
            wake: Arc::new(Notify::new()),
            _stop: stop.clone().drop_guard(),
            options,
        });
        tokio::spawn(tasks::carry_out(orders_to_do, machines_set));
        tokio::spawn(tasks::keep_time(Arc::downgrade(&inner), inner.wake.clone(), stop));
        Ok(Self { inner })
    }

    /// Sets the machines that carry out launches and terminations. Earlier orders wait for them.
    pub fn set_machines(&self, machines: Arc<dyn Machines>) {
        self.inner.machines.send_replace(Some(machines));
    }

    /// Serves the AWS services, and `/_sim/`, until the future is dropped.
    pub async fn serve_aws(self, listener: TcpListener) {
        let handler = move |request, peer| gateway::handle(self.clone(), request, peer);
        server::serve(listener, None, handler).await;
    }

    /// Serves the same over TLS: clients must trust the authority of `tls`, and connect to one of its names.
    pub async fn serve_aws_tls(self, listener: TcpListener, tls: Tls) {
        let handler = move |request, peer| gateway::handle(self.clone(), request, peer);
        server::serve(listener, Some(tls.acceptor().clone()), handler).await;
    }

    /// Serves the instance metadata until the future is dropped. Identifies an instance by the peer address of the
    /// connection.
    pub async fn serve_imds(self, listener: TcpListener) {
        let handler = move |request, peer| imds::handle(self.clone(), request, peer);
        server::serve(listener, None, handler).await;
    }

    /// Returns the cloud's time.
    pub fn now(&self) -> OffsetDateTime {
        self.inner.clock.now()
    }

    /// Changes the state: makes the due changes, runs `change`, and then publishes the events and sends the orders.
    fn change<T>(&self, change: impl FnOnce(&mut State, Duration) -> T) -> T {
        let mut state = lock(&self.inner.state);
        let now = self.inner.clock.elapsed();
        if now >= state.next_due {
            state.pass_time(now, &self.inner.clock);
        }
        let result = change(&mut state, now);
        if self.publish(&mut state) | state.scaling.take_touched() {
            state.reckon(now);
            self.inner.wake.notify_one();
        }
        result
    }

    /// Publishes the events and sends the orders of a change; returns whether there were any. Runs under the state's
    /// lock, so that they have the order of the changes.
    fn publish(&self, state: &mut State) -> bool {
        let at = self.now();
        let events = state.stacks.take_outcomes().into_iter().map(Outcome::Event);
        let outcomes: Vec<_> = state.scaling.take_outcomes().into_iter().chain(events).collect();
        let version = state.scaling.elb().version();
        let is_new = |seen: &mut u64| std::mem::replace(seen, version) != version;
        let any = self.inner.layout.send_if_modified(is_new) || !outcomes.is_empty();
        for outcome in outcomes {
            let order = match outcome {
                Outcome::Event(kind) => {
                    self.inner.events.publish(CloudEvent { at, kind });
                    continue;
                }
                Outcome::Balanced(elb::Outcome::Cut { flows, reason }) => {
                    self.inner.flows.cut(&flows, reason);
                    continue;
                }
                Outcome::Balanced(elb::Outcome::Health { target, target_group, from, to }) => {
                    let instance_id = target;
                    let kind = EventKind::TargetHealth { instance_id, target_group, from, to };
                    self.inner.events.publish(CloudEvent { at, kind });
                    continue;
                }
                Outcome::Released(released) => {
                    state.ec2.adopt(*released.0);
                    continue;
                }
                Outcome::Launch(launch) => tasks::Order::Launch(launch),
                Outcome::Stop(id) => tasks::Order::Stop(id),
                Outcome::Start(id) => tasks::Order::Start(id),
                Outcome::ReplaceRootVolume { instance, image } => {
                    tasks::Order::ReplaceRootVolume { instance, image }
                }
                Outcome::PowerOff(id) => {
                    state.metadata.forget(&id);
                    tasks::Order::Terminate(id)
                }
            };
            // Refused only when the runtime is shutting down.
            let _ = self.inner.orders.send(order);
        }
        any
    }
}

/// Locks a mutex. A panic elsewhere must not cause one here: the data is consistent at every point where a lock is
/// released.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
