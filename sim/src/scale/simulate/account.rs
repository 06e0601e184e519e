//! The AWS account: what each call costs, the limits that all nodes share, and the attempts of skep's clients.
//!
//! The limits are the cloud's own ([`Limits`]), at virtual time.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use skep::clients::aws::{BACKOFF, SDK_ATTEMPTS};
use skep::common::instance::Role;

use super::super::tally::Count;
use super::timeline::Timeline;
use crate::cloud::{Limits, Quotas, Service};

/// Time of a call's way and of its answer inside a region. An assumption: "milliseconds".
const ANSWER: Duration = Duration::from_millis(5);
/// AWS's limit of keys in one BatchGetItem.
pub(super) const KEYS_PER_CALL: usize = 100;
/// The first wait of the SDK's standard retries; it doubles, and is multiplied with a random number up to 1 (AWS SDKs
/// Reference Guide, "Retry behavior").
const SDK_WAIT: Duration = Duration::from_secs(1);

const TABLE: &str = "skep";
/// The partition that all nodes read, as in `docs/ledger.md`.
pub(super) const SHARED: &str = "prod";

/// The partition of a worker.
pub(super) fn partition_of(worker: usize) -> String {
    format!("{SHARED}#{worker}")
}

/// One call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call<'a> {
    /// A consistent read of one row of up to 4 KB: one unit.
    Get(&'a str),
    /// A query of the managers' rows and what else is beside them, up to 4 KB: one unit.
    Query,
    /// A consistent read of one row of each of these workers.
    Batch(&'a [usize]),
    /// A write of one row of up to 1 KB, and its action.
    Write(&'static str, &'a str),
    /// Any call to another service.
    Other(Service, &'static str),
}

impl Call<'_> {
    fn service(&self) -> Service {
        match self {
            Self::Other(service, _) => *service,
            _ => Service::DynamoDb,
        }
    }

    fn action(&self) -> &'static str {
        match self {
            Self::Get(_) => "GetItem",
            Self::Query => "Query",
            Self::Batch(_) => "BatchGetItem",
            Self::Write(action, _) | Self::Other(_, action) => action,
        }
    }

    /// Returns the call's input as DynamoDB gets it, as far as limits depend on it, and its units.
    fn input(&self) -> Option<(Value, f64)> {
        let key = |partition: &str| json!({ "cluster": { "S": partition } });
        Some(match self {
            Self::Get(partition) => (json!({ "TableName": TABLE, "Key": key(partition) }), 1.0),
            Self::Query => (
                json!({
                    "TableName": TABLE, "KeyConditionExpression": "#c = :c",
                    "ExpressionAttributeValues": { ":c": { "S": SHARED } },
                }),
                1.0,
            ),
            Self::Batch(workers) => {
                let keys: Vec<Value> =
                    workers.iter().map(|worker| key(&partition_of(*worker))).collect();
                let units = keys.len() as f64;
                (json!({ "RequestItems": { TABLE: { "Keys": keys } } }), units)
            }
            Self::Write(_, partition) => {
                (json!({ "TableName": TABLE, "Item": key(partition) }), 1.0)
            }
            Self::Other(..) => return None,
        })
    }

    /// Returns the wait before another attempt; `failed` counts from 1.
    fn wait(&self, failed: u32) -> Duration {
        match self.service() {
            Service::DynamoDb | Service::Ssm => {
                (SDK_WAIT * 2u32.saturating_pow(failed - 1)).mul_f64(fastrand::f64())
            }
            _ => BACKOFF.wait(failed - 1),
        }
    }
}

/// All attempts of a call were throttled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Throttled;

/// The calls of one phase.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Calls {
    pub(super) workers: BTreeMap<(Service, &'static str), Count>,
    pub(super) managers: BTreeMap<(Service, &'static str), Count>,
    /// Read units, of all partitions together.
    pub(super) read_units: f64,
    /// Read units of the partition that all nodes read, by second.
    pub(super) shared: BTreeMap<u64, f64>,
}

impl Calls {
    /// Adds the calls that report the boot.
    pub(super) fn add_signals(&mut self, later: &Self) {
        let is_signal =
            |service: Service| matches!(service, Service::AutoScaling | Service::CloudFormation);
        for (all, later) in
            [(&mut self.workers, &later.workers), (&mut self.managers, &later.managers)]
        {
            for (operation, more) in later.iter().filter(|((service, _), _)| is_signal(*service)) {
                all.entry(*operation).or_default().add(*more);
            }
        }
    }

    /// Returns the share of the calls that were throttled.
    pub(super) fn throttled_share(&self) -> f64 {
        let (mut calls, mut throttled) = (0, 0);
        for count in self.workers.values().chain(self.managers.values()) {
            calls += count.calls;
            throttled += count.throttled;
        }
        throttled as f64 / calls.max(1) as f64
    }

    /// Returns the most read units that the shared partition has served within a second.
    pub(super) fn most_shared(&self) -> f64 {
        self.shared.values().copied().fold(0.0, f64::max)
    }
}

/// The account.
pub(super) struct Account {
    limits: Limits,
    timeline: Timeline,
    calls: RefCell<Calls>,
}

impl Account {
    pub(super) fn new(timeline: &Timeline, quotas: Quotas) -> Self {
        let limits = Limits::default();
        limits.set(Some(quotas));
        Self { limits, timeline: timeline.clone(), calls: RefCell::default() }
    }

    /// Returns the calls since the last time that they were taken.
    pub(super) fn take_calls(&self) -> Calls {
        self.calls.take()
    }

    /// Makes a call as skep's client does, with its attempts.
    pub(super) async fn call(&self, by: Role, call: Call<'_>) -> Result<(), Throttled> {
        for failed in 1..=SDK_ATTEMPTS {
            self.timeline.sleep(ANSWER).await;
            if self.attempt(by, call) {
                return Ok(());
            }
            if failed < SDK_ATTEMPTS {
                self.timeline.sleep(call.wait(failed)).await;
            }
        }
        Err(Throttled)
    }

    fn attempt(&self, by: Role, call: Call<'_>) -> bool {
        let (now, input) = (self.timeline.now(), call.input());
        let (service, action) = (call.service(), call.action());
        let value = input.as_ref().map(|(value, _)| value);
        let is_served = self.limits.admits(service, action, value, now);
        let mut calls = self.calls.borrow_mut();
        if is_served && let Some((value, units)) = &input {
            self.limits.charge(action, value, *units, now);
            if !matches!(call, Call::Write(..)) {
                calls.read_units += units;
            }
            if matches!(call, Call::Query) || matches!(call, Call::Get(SHARED)) {
                *calls.shared.entry(now.as_secs()).or_default() += units;
            }
        }
        let of = match by {
            Role::Worker => &mut calls.workers,
            Role::Manager => &mut calls.managers,
        };
        let count = of.entry((service, action)).or_default();
        count.calls += 1;
        count.throttled += usize::from(!is_served);
        is_served
    }
}
