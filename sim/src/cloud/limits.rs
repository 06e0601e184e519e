//! The limits of an AWS account: calls that all instances share, and DynamoDB's throughput per partition and per table.
//!
//! Unlike [`super::faults`], they are the same for every caller and depend on nothing but what is called. Off until
//! [`Limits::set`].
//!
//! Simplified: a bucket of DynamoDB may be overdrawn by one call, since its units are known only afterwards; and a
//! BatchGetItem is throttled when all of its partitions are exhausted, and otherwise served whole.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::dynamodb::{self, Units};
use super::requests::Service;

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    pub per_second: f64,
    /// The largest number of tokens that it holds.
    pub burst: f64,
}

impl Rate {
    /// A bucket that holds the tokens of one second.
    pub const fn of(per_second: f64) -> Self {
        Self { per_second, burst: per_second }
    }
}

/// What the account may do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quotas {
    /// `GetParameter` and `GetParameters` of SSM together.
    pub parameter_reads: Rate,
    /// `PutParameter`.
    pub parameter_writes: Rate,
    /// `Describe…` of Auto Scaling together.
    pub scaling_reads: Rate,
    /// All other operations of Auto Scaling together.
    pub scaling_writes: Rate,
    /// Units of each partition key of a table, and of the whole table.
    pub partition: Units,
    pub table: Units,
}

impl Quotas {
    /// The limits of an account for which nobody has asked for more.
    ///
    /// - SSM: 40 reads and 3 writes per second (AWS General Reference, "Systems Manager service quotas").
    /// - DynamoDB: 3,000 read units and 1,000 write units per second of a partition, and 12,000 and 4,000 of a new
    ///   on-demand table (Developer Guide, "Partitions and data distribution", "On-demand capacity mode").
    /// - Auto Scaling: AWS publishes no figure. These are the buckets that EC2 publishes for its own calls (EC2 API
    ///   Reference, "Request throttling"): 100 and 20 per second for calls that read, 50 and 5 for calls that change
    ///   something. An assumption.
    pub const AWS: Self = Self {
        parameter_reads: Rate::of(40.0),
        parameter_writes: Rate::of(3.0),
        scaling_reads: Rate { per_second: 20.0, burst: 100.0 },
        scaling_writes: Rate { per_second: 5.0, burst: 50.0 },
        partition: Units { read: 3000.0, write: 1000.0 },
        table: Units { read: 12_000.0, write: 4000.0 },
    };
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
enum Of {
    ParameterReads,
    ParameterWrites,
    ScalingReads,
    ScalingWrites,
    Reads(String),
    Writes(String),
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    tokens: f64,
    at: Duration,
}

impl Bucket {
    fn fill(&mut self, now: Duration) {
        let gained = now.saturating_sub(self.at).as_secs_f64() * self.rate.per_second;
        self.tokens = (self.tokens + gained).min(self.rate.burst);
        self.at = now;
    }
}

#[derive(Debug, Default)]
struct State {
    quotas: Option<Quotas>,
    buckets: HashMap<Of, Bucket>,
}

impl State {
    fn bucket(&mut self, of: Of, rate: Rate, now: Duration) -> &mut Bucket {
        let new = || Bucket { rate, tokens: rate.burst, at: now };
        let bucket = self.buckets.entry(of).or_insert_with(new);
        bucket.fill(now);
        bucket
    }

    fn take(&mut self, of: Of, rate: Rate, now: Duration) -> bool {
        let bucket = self.bucket(of, rate, now);
        let has_one = bucket.tokens >= 1.0;
        if has_one {
            bucket.tokens -= 1.0;
        }
        has_one
    }

    fn has_units(&mut self, quotas: &Quotas, input: &Value, kind: Kind, now: Duration) -> bool {
        let Places { table, partitions } = Places::of(input);
        let mut has = |name: &str, units: Units| {
            let rate = Rate::of(kind.units(units));
            self.bucket(kind.of(name), rate, now).tokens > 0.0
        };
        let any = partitions.iter().any(|partition| has(partition, quotas.partition));
        has(&table, quotas.table) && (any || partitions.is_empty())
    }

    fn charge(
        &mut self,
        quotas: &Quotas,
        input: &Value,
        (kind, units): (Kind, f64),
        now: Duration,
    ) {
        let Places { table, partitions } = Places::of(input);
        let each = units / partitions.len().max(1) as f64;
        let shares = partitions.iter().map(|partition| (partition, quotas.partition, each));
        for (name, limit, units) in shares.chain([(&table, quotas.table, units)]) {
            let rate = Rate::of(kind.units(limit));
            self.bucket(kind.of(name), rate, now).tokens -= units;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
}

impl Kind {
    fn of_action(action: &str) -> Self {
        if dynamodb::is_read(action) { Self::Read } else { Self::Write }
    }

    fn units(self, units: Units) -> f64 {
        match self {
            Self::Read => units.read,
            Self::Write => units.write,
        }
    }

    fn of(self, name: &str) -> Of {
        match self {
            Self::Read => Of::Reads(name.to_owned()),
            Self::Write => Of::Writes(name.to_owned()),
        }
    }
}

/// The table and the partitions of a call, one for each key that it names.
struct Places {
    table: String,
    partitions: Vec<String>,
}

impl Places {
    fn of(input: &Value) -> Self {
        let all = match dynamodb::queried(input) {
            Some((table, partition)) => vec![table.to_owned(), format!("{table}/{partition}")],
            None => dynamodb::resources(input),
        };
        let (partitions, tables): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|name| name.contains('/'));
        Self { table: tables.into_iter().next().unwrap_or_default(), partitions }
    }
}

/// The limits in force. Cheap to clone; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Limits(Arc<Mutex<State>>);

impl Limits {
    /// Sets the limits; all buckets are full. `None`: there are none.
    pub fn set(&self, quotas: Option<Quotas>) {
        *super::lock(&self.0) = State { quotas, buckets: HashMap::new() };
    }

    /// Whether a call is served, and not throttled.
    pub(crate) fn admits(
        &self,
        service: Service,
        action: &str,
        input: Option<&Value>,
        now: Duration,
    ) -> bool {
        let mut state = super::lock(&self.0);
        let Some(quotas) = state.quotas else { return true };
        match (service, action, input) {
            (Service::Ssm, "GetParameter" | "GetParameters", _) => {
                state.take(Of::ParameterReads, quotas.parameter_reads, now)
            }
            (Service::Ssm, "PutParameter", _) => {
                state.take(Of::ParameterWrites, quotas.parameter_writes, now)
            }
            (Service::AutoScaling, action, _) if action.starts_with("Describe") => {
                state.take(Of::ScalingReads, quotas.scaling_reads, now)
            }
            (Service::AutoScaling, ..) => state.take(Of::ScalingWrites, quotas.scaling_writes, now),
            (Service::DynamoDb, action, Some(input)) => {
                state.has_units(&quotas, input, Kind::of_action(action), now)
            }
            _ => true,
        }
    }

    /// Charges the units of a call to DynamoDB. A write that was refused by its condition costs a unit, too.
    pub(crate) fn charge(&self, action: &str, input: &Value, units: f64, now: Duration) {
        let mut state = super::lock(&self.0);
        let Some(quotas) = state.quotas else { return };
        let kind = Kind::of_action(action);
        let units = if kind == Kind::Write { units.max(1.0) } else { units };
        state.charge(&quotas, input, (kind, units), now);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn limits() -> Limits {
        let limits = Limits::default();
        limits.set(Some(Quotas::AWS));
        limits
    }

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn served(limits: &Limits, service: Service, action: &str, now: Duration) -> usize {
        (0..500).filter(|_| limits.admits(service, action, None, now)).count()
    }

    #[test]
    fn operations_that_share_a_limit_use_it_up_together() {
        let limits = limits();
        assert_eq!(served(&limits, Service::Ssm, "GetParameters", at(0.0)), 40);
        assert_eq!(served(&limits, Service::Ssm, "GetParameter", at(0.0)), 0);
        assert_eq!(served(&limits, Service::Ssm, "GetParameter", at(0.5)), 20);
        assert_eq!(served(&limits, Service::Ssm, "PutParameter", at(0.5)), 3);
        let scaling = Service::AutoScaling;
        assert_eq!(served(&limits, scaling, "DescribeAutoScalingGroups", at(1.0)), 100);
        assert_eq!(served(&limits, scaling, "DescribeAutoScalingInstances", at(2.0)), 20);
        assert_eq!(served(&limits, scaling, "CompleteLifecycleAction", at(2.0)), 50);
        assert_eq!(served(&limits, scaling, "RecordLifecycleActionHeartbeat", at(3.0)), 5);
        assert_eq!(served(&limits, Service::CloudFormation, "SignalResource", at(3.0)), 500);
    }

    fn get(partition: &str) -> Value {
        json!({ "TableName": "t", "Key": { "cluster": { "S": partition }, "item": { "S": "x" } } })
    }

    /// Reads of `units` each that are served at one moment.
    fn reads(limits: &Limits, input: &Value, units: f64, now: Duration) -> usize {
        let one = |_: &usize| {
            let is_served = limits.admits(Service::DynamoDb, "Query", Some(input), now);
            if is_served {
                limits.charge("Query", input, units, now);
            }
            is_served
        };
        (0..20_000).take_while(one).count()
    }

    #[test]
    fn a_partition_has_units_of_its_own_and_the_table_has_its_own_limit() {
        let limits = limits();
        assert_eq!(reads(&limits, &get("a"), 3.0, at(0.0)), 1000);
        assert_eq!(reads(&limits, &get("a"), 3.0, at(0.5)), 500);
        assert_eq!(reads(&limits, &get("b"), 1.0, at(0.5)), 3000);
        let left = 12_000 - 3000 + 6000 - 1500 - 3000;
        let sum: usize = ["c", "d", "e", "f"]
            .map(|partition| reads(&limits, &get(partition), 1.0, at(0.5)))
            .iter()
            .sum();
        assert!(sum < left, "{sum}: the table's bucket holds one second");
        assert!(sum >= 12_000 - 1500 - 3000, "{sum}");
    }

    #[test]
    fn a_query_is_charged_to_its_partition_and_a_batch_to_each_of_its_keys() {
        let limits = limits();
        let query = json!({
            "TableName": "t", "KeyConditionExpression": "#c = :c AND begins_with(#i, :p)",
            "ExpressionAttributeNames": { "#c": "cluster", "#i": "item" },
            "ExpressionAttributeValues": { ":c": { "S": "a" }, ":p": { "S": "member#" } },
        });
        assert_eq!(reads(&limits, &query, 1500.0, at(0.0)), 2);
        assert_eq!(reads(&limits, &get("a"), 1.0, at(0.0)), 0, "the same partition");
        assert_eq!(reads(&limits, &get("member#"), 1500.0, at(0.0)), 2);
        let keys: Vec<_> = ["x", "y"].iter().map(|key| get(key)["Key"].clone()).collect();
        let batch = json!({ "RequestItems": { "t": { "Keys": keys } } });
        limits.charge("BatchGetItem", &batch, 200.0, at(10.0));
        assert_eq!(reads(&limits, &get("x"), 100.0, at(10.0)), 29);
    }

    #[test]
    fn writes_have_units_of_their_own_and_a_refused_condition_costs_one() {
        let limits = limits();
        let put = json!({ "TableName": "t", "Item": get("a")["Key"] });
        let writes = |now| {
            let one = |_: &usize| {
                let is_served = limits.admits(Service::DynamoDb, "PutItem", Some(&put), now);
                limits.charge("PutItem", &put, 0.0, now);
                is_served
            };
            (0..5000).take_while(one).count()
        };
        assert_eq!(writes(at(0.0)), 1000);
        assert_eq!(reads(&limits, &get("a"), 1000.0, at(0.0)), 3);
        limits.set(None);
        assert_eq!(writes(at(0.0)), 5000);
    }
}
