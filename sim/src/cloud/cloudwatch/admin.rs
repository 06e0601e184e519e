//! Functions with which tests publish and read metrics.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{CloudWatch, Metric, Point, Sample, Statistic};
use crate::cloud::Cloud;

/// A metric and its newest point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricView {
    pub metric: Metric,
    /// The average of the newest point.
    pub value: f64,
    pub unit: String,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

impl CloudWatch {
    /// Adds one value without a unit.
    pub fn publish(&mut self, metric: &Metric, value: f64, at: OffsetDateTime) {
        let point = Point { at, sample: Sample::of(value, 1.0), unit: "None".to_owned() };
        self.add(metric.clone(), point);
    }

    fn newest(&self) -> impl Iterator<Item = MetricView> {
        self.metrics.iter().filter_map(|(metric, points)| {
            let point = points.last()?;
            Some(MetricView {
                metric: metric.clone(),
                value: point.sample.statistic(Statistic::Average),
                unit: point.unit.clone(),
                at: point.at,
            })
        })
    }
}

impl Cloud {
    /// Returns the newest point of every metric.
    pub fn metrics(&self) -> Vec<MetricView> {
        self.change(|state, _| state.cloudwatch.newest().collect())
    }

    /// Returns the newest value of a metric; `None`: it was never published.
    pub fn metric(&self, metric: &Metric) -> Option<f64> {
        self.metrics().into_iter().find(|it| it.metric == *metric).map(|it| it.value)
    }

    /// Publishes a value of a metric, at this moment and without a unit.
    pub fn put_metric(&self, metric: &Metric, value: f64) {
        let at = self.now();
        self.change(|state, _| state.cloudwatch.publish(metric, value, at));
    }
}
