//! Polls any URL until its answer meets the operator's condition. The first such answer is enough, because the operator
//! has chosen a condition that proves arrival.

use serde_json::Value;

use super::page::Client;
use super::poll::{self, Look};
use super::progress::{Progress, Reading};
use crate::common::flush_result::FlushResult;
use crate::common::prometheus;
use crate::config::Condition;

pub async fn wait(condition: &Condition, progress: &Progress) -> Result<FlushResult, String> {
    let client = Client::new()?;
    poll::until_arrived(progress, std::time::Duration::ZERO, async || {
        let values = if condition.place.starts_with('/') {
            vec![at_pointer(&client.json(&condition.url).await?, &condition.place)?]
        } else {
            in_samples(&client.text(&condition.url).await?, &condition.place)?
        };
        Ok(judge(condition, &values))
    })
    .await
}

/// Reads the number at a JSON pointer; it can be written as text, and `false` and `true` are 0 and 1.
fn at_pointer(page: &Value, pointer: &str) -> Result<f64, String> {
    match page.pointer(pointer) {
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::Bool(value)) => Some(f64::from(u8::from(*value))),
        Some(Value::String(text)) => text.parse().ok(),
        _ => None,
    }
    .ok_or_else(|| format!("the answer has no number at {pointer}"))
}

/// Returns the values of all series with that name and at least those labels.
fn in_samples(page: &str, place: &str) -> Result<Vec<f64>, String> {
    let wanted =
        prometheus::selector(place).ok_or_else(|| format!("{place} does not name a sample"))?;
    let fits = |sample: &prometheus::Sample| {
        let has = |(name, value): &(String, String)| sample.label(name) == Some(value.as_str());
        sample.name == wanted.name && wanted.labels.iter().all(has)
    };
    let values: Vec<f64> =
        prometheus::samples(page).filter(fits).map(|sample| sample.value).collect();
    if values.is_empty() { Err(format!("the answer has no sample {place}")) } else { Ok(values) }
}

fn judge(condition: &Condition, values: &[f64]) -> Look {
    let holds = |value: &&f64| condition.comparison.holds(**value, condition.number);
    let detail =
        values.iter().find(|value| !holds(value)).map(|value| format!("the value is {value}"));
    Look {
        is_empty: detail.is_none(),
        reading: Reading { detail, ..Reading::default() },
        ..Look::default()
    }
}
