//! CloudWatch, as far as target tracking needs it: metrics that callers publish, and their statistics.
//!
//! [`CloudWatch`] is a pure core that gets the time as an argument. It has metrics of the account only, no metrics of AWS
//! services, and keeps the last points of each. It speaks the Query protocol and JSON, which the `aws` command line
//! uses; CBOR, which some SDKs use, is not supported.

mod admin;
mod alarms;
mod api;
mod data;
mod put;
mod read;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

pub use admin::MetricView;
pub(super) use api::{Input, answer, handle, refuse};

/// The most points that are kept of a metric: two weeks of one a minute.
const MOST_POINTS: usize = 20_160;

/// The identity of a metric: values with other dimensions are those of another metric.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Metric {
    pub namespace: String,
    pub name: String,
    pub dimensions: BTreeMap<String, String>,
}

impl Metric {
    pub fn new(namespace: &str, name: &str, dimensions: &[(&str, &str)]) -> Self {
        let dimensions =
            dimensions.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            dimensions: dimensions.collect(),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.namespace, self.name)?;
        self.dimensions.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

/// How several values become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Statistic {
    #[default]
    Average,
    Minimum,
    Maximum,
    Sum,
    SampleCount,
}

impl Statistic {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Average => "Average",
            Self::Minimum => "Minimum",
            Self::Maximum => "Maximum",
            Self::Sum => "Sum",
            Self::SampleCount => "SampleCount",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Average, Self::Minimum, Self::Maximum, Self::Sum, Self::SampleCount]
            .into_iter()
            .find(|it| it.as_str() == text)
    }
}

/// The values of one point or of a period.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sample {
    count: f64,
    sum: f64,
    min: f64,
    max: f64,
}

impl Sample {
    fn of(value: f64, count: f64) -> Self {
        Self { count, sum: value * count, min: value, max: value }
    }

    fn with(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            sum: self.sum + other.sum,
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }

    fn statistic(self, statistic: Statistic) -> f64 {
        match statistic {
            Statistic::Average => self.sum / self.count,
            Statistic::Minimum => self.min,
            Statistic::Maximum => self.max,
            Statistic::Sum => self.sum,
            Statistic::SampleCount => self.count,
        }
    }
}

#[derive(Clone, Debug)]
struct Point {
    at: OffsetDateTime,
    sample: Sample,
    unit: String,
}

/// All metrics.
#[derive(Debug, Default)]
pub(super) struct CloudWatch {
    /// The points of each metric, in the order of their times.
    metrics: BTreeMap<Metric, Vec<Point>>,
}

impl CloudWatch {
    fn add(&mut self, metric: Metric, point: Point) {
        let points = self.metrics.entry(metric).or_default();
        let place = points.partition_point(|it| it.at <= point.at);
        points.insert(place, point);
        let excess = points.len().saturating_sub(MOST_POINTS);
        points.drain(..excess);
    }

    /// Returns the points of a metric from `from` until before `to`, with this unit, where one is given.
    fn points<'a>(
        &'a self,
        metric: &Metric,
        unit: Option<&'a str>,
        from: OffsetDateTime,
        to: OffsetDateTime,
    ) -> impl Iterator<Item = &'a Point> {
        let points = self.metrics.get(metric).map(Vec::as_slice).unwrap_or_default();
        let first = points.partition_point(|it| it.at < from);
        let points = points[first..].iter().take_while(move |it| it.at < to);
        points.filter(move |it| unit.is_none_or(|unit| it.unit == unit))
    }

    /// Returns a statistic of the values from `from` until before `to`; `None` without values.
    pub fn statistic(
        &self,
        metric: &Metric,
        statistic: Statistic,
        unit: Option<&str>,
        from: OffsetDateTime,
        to: OffsetDateTime,
    ) -> Option<f64> {
        let samples = self.points(metric, unit, from, to).map(|point| point.sample);
        samples.reduce(Sample::with).map(|sample| sample.statistic(statistic))
    }
}

#[cfg(test)]
mod tests;
