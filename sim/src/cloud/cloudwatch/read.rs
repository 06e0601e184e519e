//! `GetMetricData` and `ListMetrics`.

use std::collections::BTreeMap;

use time::OffsetDateTime;

use super::data::Data;
use super::put::{dimensions, invalid, missing};
use super::{CloudWatch, Metric, Sample, Statistic};
use crate::cloud::errors::ApiError;

/// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html>
const MOST_QUERIES: usize = 500;
/// Periods below a minute that AWS accepts, in seconds; all others are multiples of a minute.
/// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_MetricStat.html>
const SHORT_PERIODS: [i64; 5] = [1, 5, 10, 20, 30];
const MINUTE: i64 = 60;

impl CloudWatch {
    pub(super) fn get(&self, input: &Data) -> Result<Data, ApiError> {
        let time = |name: &str| input.time_of(name)?.ok_or_else(|| missing(name));
        let (from, to) = (time("StartTime")?, time("EndTime")?);
        if from >= to {
            return Err(validation(
                "The parameter StartTime must be less than the parameter EndTime.",
            ));
        }
        let queries = input.list_of("MetricDataQueries");
        if queries.is_empty() || queries.len() > MOST_QUERIES {
            return Err(validation(format!(
                "MetricDataQueries must have 1 to {MOST_QUERIES} items."
            )));
        }
        let ascends = input.text_of("ScanBy") == Some("TimestampAscending");
        let mut results = vec![];
        for query in queries {
            let result = self.result(query, from, to, ascends)?;
            if query.bool_of("ReturnData")?.unwrap_or(true) {
                results.push(result);
            }
        }
        let messages = ("Messages", Data::List(vec![]));
        Ok(Data::map([("MetricDataResults", Data::List(results)), messages]))
    }

    fn result(
        &self,
        query: &Data,
        from: OffsetDateTime,
        to: OffsetDateTime,
        ascends: bool,
    ) -> Result<Data, ApiError> {
        let id = query.text_of("Id").ok_or_else(|| missing("MetricDataQueries.Id"))?;
        let Some(of) = query.get("MetricStat") else {
            return Err(validation(
                "This cloud has no metric math: every query needs a MetricStat.",
            ));
        };
        let metric = metric(of.get("Metric").ok_or_else(|| missing("MetricStat.Metric"))?)?;
        let stat = of.text_of("Stat").ok_or_else(|| missing("MetricStat.Stat"))?;
        let statistic = Statistic::parse(stat)
            .ok_or_else(|| validation(format!("This cloud does not have the statistic {stat}.")))?;
        let period = period(of.number_of("Period")?.ok_or_else(|| missing("MetricStat.Period"))?)?;
        let mut periods: Vec<(i64, f64)> = self
            .periods(&metric, of.text_of("Unit"), period, from, to)
            .into_iter()
            .map(|(start, sample)| (start, sample.statistic(statistic)))
            .collect();
        if !ascends {
            periods.reverse();
        }
        let time = |start: i64| OffsetDateTime::from_unix_timestamp(start).unwrap_or(from);
        let times = periods.iter().map(|(start, _)| Data::Time(time(*start))).collect();
        let values = periods.iter().map(|(_, value)| Data::Number(*value)).collect();
        Ok(Data::map([
            ("Id", Data::text(id)),
            ("Label", Data::text(query.text_of("Label").unwrap_or(&metric.name))),
            ("Timestamps", Data::List(times)),
            ("Values", Data::List(values)),
            ("StatusCode", Data::text("Complete")),
        ]))
    }

    /// Returns what each period with values has, by the second of its start. Periods start at multiples of their length.
    fn periods(
        &self,
        metric: &Metric,
        unit: Option<&str>,
        period: i64,
        from: OffsetDateTime,
        to: OffsetDateTime,
    ) -> BTreeMap<i64, Sample> {
        let start = |at: OffsetDateTime| at.unix_timestamp().div_euclid(period) * period;
        let first = OffsetDateTime::from_unix_timestamp(start(from)).unwrap_or(from);
        let mut periods: BTreeMap<i64, Sample> = BTreeMap::new();
        for point in self.points(metric, unit, first, to) {
            let sample = periods.entry(start(point.at));
            sample.and_modify(|it| *it = it.with(point.sample)).or_insert(point.sample);
        }
        periods
    }

    pub(super) fn list(&self, input: &Data) -> Result<Data, ApiError> {
        let wanted = dimension_filters(input)?;
        let is_wanted = |metric: &&Metric| {
            let fits = |name: &str, actual: &str| input.text_of(name).is_none_or(|it| it == actual);
            let has = |(name, value): &(&str, Option<&str>)| {
                let actual = metric.dimensions.get(*name);
                actual.is_some_and(|actual| value.is_none_or(|value| value == actual))
            };
            fits("Namespace", &metric.namespace)
                && fits("MetricName", &metric.name)
                && wanted.iter().all(has)
        };
        let metrics = self.metrics.keys().filter(is_wanted).map(describe).collect();
        Ok(Data::map([("Metrics", Data::List(metrics))]))
    }
}

/// Returns the dimensions that a metric must have, with their values, where these are given.
fn dimension_filters(input: &Data) -> Result<Vec<(&str, Option<&str>)>, ApiError> {
    let filters = input.list_of("Dimensions").iter();
    filters
        .map(|of| {
            let name = of.text_of("Name").ok_or_else(|| missing("Dimensions.Name"))?;
            Ok((name, of.text_of("Value")))
        })
        .collect()
}

fn metric(of: &Data) -> Result<Metric, ApiError> {
    let text = |name: &str| of.text_of(name).map(str::to_owned).ok_or_else(|| missing(name));
    Ok(Metric {
        namespace: text("Namespace")?,
        name: text("MetricName")?,
        dimensions: dimensions(of, "Metric")?,
    })
}

/// Returns a metric as answers show it.
pub(super) fn describe(metric: &Metric) -> Data {
    Data::map([
        ("Namespace", Data::text(&metric.namespace)),
        ("MetricName", Data::text(&metric.name)),
        ("Dimensions", describe_dimensions(metric)),
    ])
}

pub(super) fn describe_dimensions(metric: &Metric) -> Data {
    let dimension = |(name, value): (&String, &String)| {
        Data::map([("Name", Data::text(name)), ("Value", Data::text(value))])
    };
    Data::List(metric.dimensions.iter().map(dimension).collect())
}

fn period(seconds: f64) -> Result<i64, ApiError> {
    // Other numbers fit no period below.
    let period = seconds as i64;
    let is_whole = seconds.fract() == 0.0 && period > 0;
    if is_whole && (SHORT_PERIODS.contains(&period) || period % MINUTE == 0) {
        return Ok(period);
    }
    Err(invalid(format!("The value {seconds} for parameter Period is invalid.")))
}

fn validation(message: impl Into<String>) -> ApiError {
    ApiError::validation(message)
}
