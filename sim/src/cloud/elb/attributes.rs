//! The attributes of target groups, by their names on the wire.

use std::time::Duration;

use super::specs::TargetGroupAttributes;
use crate::cloud::errors::ApiError;

const DELAY: &str = "deregistration_delay.timeout_seconds";
const TERMINATION: &str = "deregistration_delay.connection_termination.enabled";
const UNHEALTHY_TERMINATION: &str = "target_health_state.unhealthy.connection_termination.enabled";
const UNHEALTHY_INTERVAL: &str = "target_health_state.unhealthy.draining_interval_seconds";

/// The largest values in seconds:
/// <https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetGroupAttribute.html>
const LONGEST_DELAY: u64 = 3600;
const LONGEST_INTERVAL: u64 = 360_000;

/// Returns all attributes with their values.
pub(super) fn list(attributes: &TargetGroupAttributes) -> [(&'static str, String); 4] {
    [
        (DELAY, attributes.deregistration_delay.as_secs().to_string()),
        (TERMINATION, attributes.connection_termination.to_string()),
        (UNHEALTHY_TERMINATION, attributes.unhealthy_connection_termination.to_string()),
        (UNHEALTHY_INTERVAL, attributes.unhealthy_draining_interval.as_secs().to_string()),
    ]
}

/// Returns the attributes after a request of keys and values; nothing changes when one of them is refused.
pub(super) fn modified<'a>(
    old: TargetGroupAttributes,
    requested: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<TargetGroupAttributes, ApiError> {
    let mut new = old;
    for (key, value) in requested {
        match key {
            DELAY => new.deregistration_delay = seconds(key, value, LONGEST_DELAY)?,
            TERMINATION => new.connection_termination = boolean(key, value)?,
            UNHEALTHY_TERMINATION => new.unhealthy_connection_termination = boolean(key, value)?,
            UNHEALTHY_INTERVAL => {
                new.unhealthy_draining_interval = seconds(key, value, LONGEST_INTERVAL)?;
            }
            _ => {
                let message = format!("Target group attribute key '{key}' is not recognized");
                return Err(ApiError::validation(message));
            }
        }
    }
    if new.unhealthy_connection_termination && !new.unhealthy_draining_interval.is_zero() {
        let message = format!(
            "You can set '{UNHEALTHY_INTERVAL}' only if '{UNHEALTHY_TERMINATION}' is false"
        );
        return Err(ApiError::new(400, "InvalidConfigurationRequest", message));
    }
    Ok(new)
}

fn seconds(key: &str, value: &str, largest: u64) -> Result<Duration, ApiError> {
    let seconds = value.parse().ok().filter(|seconds| *seconds <= largest);
    seconds.map(Duration::from_secs).ok_or_else(|| {
        ApiError::validation(format!(
            "'{key}' must be an integer between 0 and {largest}, not '{value}'"
        ))
    })
}

fn boolean(key: &str, value: &str) -> Result<bool, ApiError> {
    value.parse().map_err(|_| {
        ApiError::validation(format!("'{key}' must be 'true' or 'false', not '{value}'"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_have_awss_defaults_and_limits() {
        let old = TargetGroupAttributes::default();
        let values = list(&old).map(|(_, value)| value);
        assert_eq!(values, ["300", "false", "true", "0"]);
        let new = modified(old, [(DELAY, "5"), (TERMINATION, "true")]).unwrap();
        assert_eq!(new.deregistration_delay, Duration::from_secs(5));
        assert!(new.connection_termination);
        for (key, value) in
            [(DELAY, "3601"), (DELAY, "-1"), (TERMINATION, "yes"), ("stickiness.enabled", "true")]
        {
            assert_eq!(modified(old, [(key, value)]).unwrap_err().code, "ValidationError");
        }
        let alone = modified(old, [(UNHEALTHY_INTERVAL, "9")]).unwrap_err();
        assert_eq!(alone.code, "InvalidConfigurationRequest");
        let both = [(UNHEALTHY_INTERVAL, "9"), (UNHEALTHY_TERMINATION, "false")];
        let both = modified(old, both).unwrap();
        assert_eq!(both.unhealthy_draining_interval, Duration::from_secs(9));
    }
}
