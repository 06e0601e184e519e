//! `PutMetricData`, with AWS's limits:
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html>.

use std::collections::BTreeMap;

use time::{Duration, OffsetDateTime};

use super::data::Data;
use super::{CloudWatch, Metric, Point, Sample};
use crate::cloud::errors::ApiError;

const MOST_METRICS: usize = 1000;
/// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_MetricDatum.html>
const MOST_DIMENSIONS: usize = 30;
const MOST_VALUES: usize = 150;
const LONGEST_NAME: usize = 255;
const LONGEST_DIMENSION: usize = 1024;
/// The largest absolute value is 2 to this power.
const LARGEST_POWER: i32 = 360;
const OLDEST: Duration = Duration::weeks(2);
const NEWEST: Duration = Duration::hours(2);
const UNITS: [&str; 27] = [
    "Seconds",
    "Microseconds",
    "Milliseconds",
    "Bytes",
    "Kilobytes",
    "Megabytes",
    "Gigabytes",
    "Terabytes",
    "Bits",
    "Kilobits",
    "Megabits",
    "Gigabits",
    "Terabits",
    "Percent",
    "Count",
    "Bytes/Second",
    "Kilobytes/Second",
    "Megabytes/Second",
    "Gigabytes/Second",
    "Terabytes/Second",
    "Bits/Second",
    "Kilobits/Second",
    "Megabits/Second",
    "Gigabits/Second",
    "Terabits/Second",
    "Count/Second",
    "None",
];

impl CloudWatch {
    /// Adds the values of a call; all of them or none.
    pub fn put(&mut self, input: &Data, now: OffsetDateTime) -> Result<(), ApiError> {
        if input.get("EntityMetricData").is_some() {
            return Err(invalid("This cloud has no entities: EntityMetricData cannot be used"));
        }
        let namespace = input.text_of("Namespace").ok_or_else(|| missing("Namespace"))?;
        check_namespace(namespace)?;
        let data = input.list_of("MetricData");
        if data.is_empty() {
            return Err(missing("MetricData"));
        }
        if data.len() > MOST_METRICS {
            return Err(invalid(format!(
                "The collection MetricData must not have a size greater than {MOST_METRICS}."
            )));
        }
        let mut points = vec![];
        for (index, datum) in data.iter().enumerate() {
            let place = format!("MetricData.member.{}", index + 1);
            points.push(point(namespace, datum, &place, now)?);
        }
        for (metric, of_metric) in points {
            of_metric.into_iter().for_each(|point| self.add(metric.clone(), point));
        }
        Ok(())
    }
}

fn check_namespace(namespace: &str) -> Result<(), ApiError> {
    let is_of_aws = namespace.starts_with("AWS/") || namespace.starts_with(':');
    if namespace.is_empty() || namespace.len() > LONGEST_NAME || is_of_aws {
        return Err(invalid(format!("The value {namespace} for parameter Namespace is invalid.")));
    }
    Ok(())
}

/// Returns the metric of one item, and its points.
fn point(
    namespace: &str,
    datum: &Data,
    place: &str,
    now: OffsetDateTime,
) -> Result<(Metric, Vec<Point>), ApiError> {
    let of = |name: &str| format!("{place}.{name}");
    let name = datum.text_of("MetricName").ok_or_else(|| missing(&of("MetricName")))?;
    if name.is_empty() || name.len() > LONGEST_NAME {
        return Err(bad(&of("MetricName"), name));
    }
    let metric = Metric {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        dimensions: dimensions(datum, place)?,
    };
    let at = datum.time_of("Timestamp")?.unwrap_or(now);
    if at < now - OLDEST || at > now + NEWEST {
        return Err(invalid(format!(
            "The parameter {} must specify a time no more than two weeks in the past, and no more \
             than two hours in the future.",
            of("Timestamp")
        )));
    }
    let unit = datum.text_of("Unit").unwrap_or("None").to_owned();
    if !UNITS.contains(&unit.as_str()) {
        return Err(bad(&of("Unit"), &unit));
    }
    if let Some(resolution) = datum.number_of("StorageResolution")?
        && ![1.0, 60.0].contains(&resolution)
    {
        return Err(bad(&of("StorageResolution"), &resolution.to_string()));
    }
    let samples = samples(datum, place)?.into_iter();
    Ok((metric, samples.map(|sample| Point { at, sample, unit: unit.clone() }).collect()))
}

/// Returns the dimensions of an item or of a query.
pub(super) fn dimensions(of: &Data, place: &str) -> Result<BTreeMap<String, String>, ApiError> {
    let list = of.list_of("Dimensions");
    if list.len() > MOST_DIMENSIONS {
        return Err(invalid(format!(
            "The collection {place}.Dimensions must not have a size greater than \
             {MOST_DIMENSIONS}."
        )));
    }
    let mut dimensions = BTreeMap::new();
    for (index, dimension) in list.iter().enumerate() {
        let place = format!("{place}.Dimensions.member.{}", index + 1);
        let text = |member: &str, longest: usize| {
            let name = format!("{place}.{member}");
            let text = dimension.text_of(member).ok_or_else(|| missing(&name))?;
            let is_right = text.len() <= longest && text.is_ascii() && !text.trim().is_empty();
            if is_right { Ok(text.to_owned()) } else { Err(bad(&name, text)) }
        };
        let (name, value) = (text("Name", LONGEST_NAME)?, text("Value", LONGEST_DIMENSION)?);
        if name.starts_with(':') || dimensions.insert(name.clone(), value).is_some() {
            return Err(bad(&format!("{place}.Name"), &name));
        }
    }
    Ok(dimensions)
}

/// Returns the values of an item: one, several with their counts, or a summary.
fn samples(datum: &Data, place: &str) -> Result<Vec<Sample>, ApiError> {
    let forms = ["Value", "StatisticValues", "Values"].map(|form| datum.get(form));
    match forms {
        [None, None, None] => Err(missing(&format!("{place}.Value"))),
        [Some(_), None, None] => {
            let value = finite(datum, "Value", place)?;
            Ok(vec![Sample::of(value, 1.0)])
        }
        [None, Some(set), None] => {
            let place = format!("{place}.StatisticValues");
            let of = |name: &str| finite(set, name, &place);
            let sample = Sample {
                count: of("SampleCount")?,
                sum: of("Sum")?,
                min: of("Minimum")?,
                max: of("Maximum")?,
            };
            if sample.count <= 0.0 {
                return Err(bad(&format!("{place}.SampleCount"), &sample.count.to_string()));
            }
            Ok(vec![sample])
        }
        [None, None, Some(_)] => several(datum, place),
        _ => Err(ApiError::new(
            400,
            "InvalidParameterCombination",
            format!("{place} can have only one of Value, Values and StatisticValues."),
        )),
    }
}

fn several(datum: &Data, place: &str) -> Result<Vec<Sample>, ApiError> {
    let (values, counts) = (datum.list_of("Values"), datum.list_of("Counts"));
    if values.is_empty() || values.len() > MOST_VALUES {
        return Err(invalid(format!("{place}.Values must have 1 to {MOST_VALUES} values.")));
    }
    if !counts.is_empty() && counts.len() != values.len() {
        return Err(invalid(format!("{place}.Counts must have as many values as Values.")));
    }
    let sample = |(index, value): (usize, &Data)| {
        let value = check(value.number(), &format!("{place}.Values.member.{}", index + 1))?;
        let count = match counts.get(index) {
            None => 1.0,
            Some(count) => check(count.number(), &format!("{place}.Counts.member.{}", index + 1))?,
        };
        Ok(Sample::of(value, count))
    };
    let samples = values.iter().enumerate().map(sample);
    // A value that was seen never is none.
    Ok(samples.collect::<Result<Vec<_>, _>>()?.into_iter().filter(|it| it.count > 0.0).collect())
}

fn finite(of: &Data, name: &str, place: &str) -> Result<f64, ApiError> {
    let value = of.get(name);
    let name = format!("{place}.{name}");
    check(value.ok_or_else(|| missing(&name))?.number(), &name)
}

fn check(value: Option<f64>, name: &str) -> Result<f64, ApiError> {
    let value = value.ok_or_else(|| bad(name, "that is no number"))?;
    let largest = 2f64.powi(LARGEST_POWER);
    if value.is_finite() && (-largest..=largest).contains(&value) {
        return Ok(value);
    }
    Err(bad(name, &value.to_string()))
}

pub(super) fn missing(name: &str) -> ApiError {
    ApiError::new(400, "MissingParameter", format!("The parameter {name} is required."))
}

fn bad(name: &str, value: &str) -> ApiError {
    invalid(format!("The value {value} for parameter {name} is invalid."))
}

pub(super) fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(400, "InvalidParameterValue", message)
}
