//! Counts the calls of one phase, by the kind of node and by operation.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::cloud::{Request, Service};

/// Calls of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Count {
    pub(super) calls: usize,
    pub(super) throttled: usize,
    /// Refusals and failures other than throttling.
    pub(super) failed: usize,
}

impl Count {
    pub(super) fn add(&mut self, more: Count) {
        self.calls += more.calls;
        self.throttled += more.throttled;
        self.failed += more.failed;
    }
}

/// What DynamoDB has returned to one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Reads {
    pub(super) calls: usize,
    pub(super) rows: usize,
    pub(super) units: f64,
    /// Rows of the largest answer.
    pub(super) most_rows: usize,
}

/// The calls of one phase.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) workers: BTreeMap<String, Count>,
    pub(super) managers: BTreeMap<String, Count>,
    /// By instance; managers only.
    pub(super) reads: BTreeMap<String, Reads>,
    pub(super) write_units: f64,
}

impl Tally {
    /// Adds calls; `managers` are the ids of the managers' instances.
    pub(super) fn add(&mut self, requests: &[Request], managers: &BTreeSet<String>) {
        for request in requests {
            let id = request.instance_id.as_deref().unwrap_or_default();
            let is_manager = managers.contains(id);
            let all = if is_manager { &mut self.managers } else { &mut self.workers };
            let count = all.entry(operation(request)).or_default();
            count.calls += 1;
            let is_throttled = request.code.as_deref().is_some_and(is_throttling);
            // The metadata answer 404 for a notice that was not given.
            let is_failure = request.status >= 400 || request.status == 0;
            let is_of_aws = request.service != Service::Imds;
            count.throttled += usize::from(is_throttled);
            count.failed += usize::from(is_failure && is_of_aws && !is_throttled);
            self.write_units += request.write_units;
            let is_read = request.service == Service::DynamoDb && request.read_units > 0.0;
            if is_manager && is_read {
                let reads = self.reads.entry(id.to_owned()).or_default();
                reads.calls += 1;
                reads.rows += request.rows;
                reads.units += request.read_units;
                reads.most_rows = reads.most_rows.max(request.rows);
            }
        }
    }

    /// Returns the calls of both kinds together.
    pub(super) fn all(&self) -> BTreeMap<String, Count> {
        let mut all = self.workers.clone();
        for (operation, more) in &self.managers {
            all.entry(operation.clone()).or_default().add(*more);
        }
        all
    }
}

/// `dynamodb GetItem`; all requests for metadata are one operation.
fn operation(request: &Request) -> String {
    match request.service {
        Service::Imds => "metadata".to_owned(),
        service => format!("{service} {}", request.action),
    }
}

fn is_throttling(code: &str) -> bool {
    let others = ["ProvisionedThroughputExceededException", "SlowDown"];
    code.starts_with("Throttling") || others.contains(&code)
}

/// The name of metadata requests, whose number depends on time and not on the boot.
pub(super) const METADATA: &str = "metadata";

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    fn request(id: &str, service: Service, action: &str, code: Option<&str>) -> Request {
        Request {
            at: OffsetDateTime::UNIX_EPOCH,
            service,
            action: action.to_owned(),
            principal: None,
            instance_id: Some(id.to_owned()),
            status: if code.is_some() { 400 } else { 200 },
            code: code.map(str::to_owned),
            summary: String::new(),
            read_units: 2.0,
            write_units: 0.0,
            rows: 3,
            took_micros: 0,
        }
    }

    #[test]
    fn calls_are_counted_by_the_kind_of_node_and_its_operations() {
        let mut tally = Tally::default();
        let throttled = Some("ProvisionedThroughputExceededException");
        tally.add(
            &[
                request("i-m", Service::DynamoDb, "Query", None),
                request("i-m", Service::DynamoDb, "Query", None),
                request("i-w", Service::DynamoDb, "GetItem", throttled),
                request("i-w", Service::Imds, "GET /latest/meta-data/spot", Some("x")),
                request("i-w", Service::Ssm, "GetParameter", Some("ParameterNotFound")),
            ],
            &BTreeSet::from(["i-m".to_owned()]),
        );
        let count = |calls, throttled, failed| Count { calls, throttled, failed };
        assert_eq!(tally.managers["dynamodb Query"], count(2, 0, 0));
        assert_eq!(tally.workers["dynamodb GetItem"], count(1, 1, 0));
        assert_eq!(tally.workers[METADATA], count(1, 0, 0), "no notice is no failure");
        assert_eq!(tally.workers["ssm GetParameter"], count(1, 0, 1));
        let reads = Reads { calls: 2, rows: 6, units: 4.0, most_rows: 3 };
        assert_eq!(tally.reads, BTreeMap::from([("i-m".to_owned(), reads)]));
        assert_eq!(tally.all().values().map(|count| count.calls).sum::<usize>(), 5);
    }
}
