//! `DescribeAlarms`: the alarms of scaling policies, the only ones here.

use super::data::Data;
use super::read::describe_dimensions;
use crate::cloud::autoscaling::{Alarm, Scaling};
use crate::cloud::clock::Clock;

pub(super) fn describe(scaling: &Scaling, clock: &Clock, input: &Data) -> Data {
    let names = input.list_of("AlarmNames");
    let prefix = input.text_of("AlarmNamePrefix").unwrap_or_default();
    let state = input.text_of("StateValue");
    let is_wanted = |alarm: &Alarm| {
        (names.is_empty() || names.contains(&Data::text(&alarm.name)))
            && alarm.name.starts_with(prefix)
            && state.is_none_or(|state| state == alarm.state.as_str())
    };
    let alarms = scaling.alarms().filter(is_wanted).map(|alarm| one(&alarm, clock));
    let composite = ("CompositeAlarms", Data::List(vec![]));
    Data::map([("MetricAlarms", Data::List(alarms.collect())), composite])
}

fn one(alarm: &Alarm, clock: &Clock) -> Data {
    let spec = &alarm.spec;
    let comparison = if alarm.is_high { "GreaterThanThreshold" } else { "LessThanThreshold" };
    // Whole seconds, as in AWS's API model; only this cloud has shorter periods.
    let period = i64::try_from(alarm.period.as_secs().max(1)).unwrap_or(i64::MAX);
    Data::map([
        ("AlarmName", Data::text(&alarm.name)),
        ("AlarmArn", Data::text(&alarm.arn)),
        ("AlarmActions", Data::List(vec![Data::text(&alarm.policy_arn)])),
        ("ActionsEnabled", Data::Bool(true)),
        ("StateValue", Data::text(alarm.state.as_str())),
        ("StateUpdatedTimestamp", Data::Time(clock.date(alarm.since))),
        ("Namespace", Data::text(&spec.metric.namespace)),
        ("MetricName", Data::text(&spec.metric.name)),
        ("Dimensions", describe_dimensions(&spec.metric)),
        ("Statistic", Data::text(spec.statistic.as_str())),
        ("Period", Data::Whole(period)),
        ("EvaluationPeriods", Data::Whole(alarm.periods.into())),
        ("Threshold", Data::Number(alarm.threshold)),
        ("ComparisonOperator", Data::text(comparison)),
    ])
}
