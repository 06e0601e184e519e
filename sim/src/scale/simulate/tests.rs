use super::super::tally::Count;
use super::table::{last, per_worker, units_an_hour};
use super::*;
use crate::cloud::{Quotas, Service};

const SECOND: Duration = Duration::from_secs(1);

fn fleet(nodes: usize, store: Store, seed: u64) -> Outcome {
    simulate(Plan { nodes, store, seed, within: SECOND })
}

#[test]
fn a_seed_decides_everything_and_another_seed_something_else() {
    let outcome = fleet(60, Store::Ssm, 7);
    assert_eq!(outcome, fleet(60, Store::Ssm, 7));
    assert_ne!(outcome.fates.ready, fleet(60, Store::Ssm, 8).fates.ready);
}

#[test]
fn nobody_is_lost() {
    for store in [Store::Dynamodb, Store::Ssm] {
        let Outcome { fates, leaving, .. } = fleet(300, store, 1);
        assert_eq!((fates.ready.len(), fates.failed.len()), (300, 0), "{store:?}");
        assert_eq!((fates.in_service.len(), fates.timed_out.len()), (300, 0), "{store:?}");
        assert_eq!(fates.labelled.len(), 300, "{store:?}");
        assert_eq!(leaving, 29);
        assert_eq!((fates.off_the_list.len(), fates.gone.len()), (29, 29), "{store:?}");
    }
}

#[test]
fn a_small_fleet_is_never_throttled() {
    let outcome = fleet(20, Store::Dynamodb, 1);
    for calls in [&outcome.at_boot, &outcome.idle] {
        assert!(calls.throttled_share() == 0.0, "{calls:?}");
    }
    let get = per_worker(&outcome, &outcome.at_boot, (Service::DynamoDb, "GetItem"));
    assert!(get >= 5.0, "the charter twice, the token, its departure, its row: {get}");
    assert!(last(&outcome.fates.ready).unwrap() < SECOND * 10);
}

/// `make scale` with 300 real processes and SSM: 4.9 GetParameter of each worker, 79 % of them throttled, and 73 s until
/// the last launch hook.
#[test]
fn three_hundred_nodes_call_what_real_ones_do() {
    let outcome = fleet(300, Store::Ssm, 1);
    let calls = |service, action| per_worker(&outcome, &outcome.at_boot, (service, action));
    let query = calls(Service::DynamoDb, "Query");
    assert!((1.0..4.0).contains(&query), "{query}, measured: 2.0");
    let parameters = calls(Service::Ssm, "GetParameter");
    assert!((2.5..8.0).contains(&parameters), "{parameters}, measured: 4.9");
    assert!((calls(Service::DynamoDb, "PutItem") - 2.0).abs() < 0.1);
    assert!((calls(Service::CloudFormation, "SignalResource") - 1.0).abs() < 0.01);
    let hooks = last(&outcome.fates.in_service).unwrap().as_secs();
    assert!((50..=110).contains(&hooks), "{hooks} s, measured: 73 s");
}

/// The table of costs in `docs/deploy.md`: 252,100 units an hour of 500 workers and three managers.
#[test]
fn an_idle_fleet_reads_what_the_documents_say() {
    let units = units_an_hour(&fleet(503, Store::Dynamodb, 1));
    assert!((200_000.0..260_000.0).contains(&units), "{units}");
}

#[test]
fn no_rate_of_the_account_is_exceeded() {
    let outcome = fleet(3000, Store::Dynamodb, 1);
    let count = |operation: (Service, &'static str)| outcome.at_boot.workers[&operation];
    let throttled = count((Service::DynamoDb, "GetItem")).throttled;
    assert!(throttled > 0, "too few nodes to show anything");
    let limit = Quotas::AWS.partition.read;
    let served = |second: u64| outcome.at_boot.shared.get(&second).copied().unwrap_or_default();
    let seconds = outcome.at_boot.shared.keys().last().copied().unwrap();
    let mut sum = 0.0;
    for second in 0..=seconds {
        sum += served(second);
        // The bucket is full at first.
        let most = limit * (second + 2) as f64;
        assert!(sum <= most, "{sum} units within {second} s");
    }
    let Count { calls, throttled, .. } = count((Service::AutoScaling, "CompleteLifecycleAction"));
    let Quotas { scaling_writes, .. } = Quotas::AWS;
    let until = last(&outcome.fates.in_service).unwrap().as_secs_f64();
    let most = scaling_writes.burst + scaling_writes.per_second * until;
    assert!((calls - throttled) as f64 <= most, "{calls} − {throttled} of {most}");
}
