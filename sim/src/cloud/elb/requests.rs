//! Reads the parameters of requests, and checks them against AWS's limits.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::specs::{HealthCheck, Probe, TargetGroupAttributes, TargetGroupSpec};
use crate::cloud::State;
use crate::cloud::errors::ApiError;
use crate::cloud::wire::Params;

/// AWS's limits: <https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_CreateTargetGroup.html>
const LONGEST_NAME: usize = 32;
const INTERVALS: RangeInclusive<u64> = 5..=300;
const TIMEOUTS: RangeInclusive<u64> = 2..=120;
const THRESHOLDS: RangeInclusive<u32> = 2..=10;
const PORTS: RangeInclusive<u16> = 1..=65535;

/// Returns the `Name` of a target group or of a load balancer.
pub(super) fn name(form: &Params) -> Result<&str, ApiError> {
    let name = form.required("Name")?;
    let is_fit = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if name.is_empty()
        || name.len() > LONGEST_NAME
        || !name.chars().all(is_fit)
        || name.starts_with('-')
        || name.ends_with('-')
    {
        return Err(ApiError::validation(format!(
            "The name '{name}' must have 1 to {LONGEST_NAME} letters, digits and hyphens, and no \
             hyphen at its ends"
        )));
    }
    Ok(name)
}

pub(super) fn target_group(form: &Params) -> Result<TargetGroupSpec, ApiError> {
    let spec = TargetGroupSpec {
        name: name(form)?.to_owned(),
        port: port(form)?,
        health_check: health_check(form, None)?,
        attributes: TargetGroupAttributes::default(),
    };
    only(form, "Protocol", "TCP")?;
    form.required("VpcId")?;
    if form.get("TargetType").is_some_and(|of_type| !matches!(of_type, "instance" | "ip")) {
        return Err(ApiError::validation("This cloud has targets of the types instance and ip"));
    }
    Ok(spec)
}

/// Returns the health checks of a request; `old`: those that it changes.
pub(super) fn health_check(
    form: &Params,
    old: Option<&HealthCheck>,
) -> Result<HealthCheck, ApiError> {
    let mut check = match (form.get("HealthCheckProtocol"), old) {
        (None, Some(old)) => old.clone(),
        (None | Some("TCP"), _) => HealthCheck { probe: Probe::Tcp, ..base(old, Probe::Tcp) },
        (Some("HTTP"), _) => HealthCheck { probe: Probe::Http, ..base(old, Probe::Http) },
        (Some(other), _) => {
            return Err(ApiError::validation(format!(
                "This cloud has health checks of the protocols TCP and HTTP, not {other}"
            )));
        }
    };
    match form.get("HealthCheckPort") {
        None => {}
        Some("traffic-port") => check.port = None,
        Some(_) => check.port = within(form, "HealthCheckPort", PORTS)?,
    }
    if let Some(path) = form.get("HealthCheckPath") {
        check.path = path.to_owned();
    }
    if let Some(seconds) = within(form, "HealthCheckIntervalSeconds", INTERVALS)? {
        check.interval = Duration::from_secs(seconds);
    }
    if let Some(seconds) = within(form, "HealthCheckTimeoutSeconds", TIMEOUTS)? {
        check.timeout = Duration::from_secs(seconds);
    }
    if let Some(count) = within(form, "HealthyThresholdCount", THRESHOLDS)? {
        check.healthy_threshold = count;
    }
    if let Some(count) = within(form, "UnhealthyThresholdCount", THRESHOLDS)? {
        check.unhealthy_threshold = count;
    }
    if let Some(codes) = form.get("Matcher.HttpCode") {
        let refused = || ApiError::validation(format!("Health check matcher '{codes}' is invalid"));
        check.matcher = codes.parse().map_err(|()| refused())?;
    }
    if check.timeout > check.interval {
        return Err(ApiError::validation(
            "Health check timeout must be smaller than or equal to the interval",
        ));
    }
    Ok(check)
}

/// Returns the settings that a request without further parameters has.
fn base(old: Option<&HealthCheck>, probe: Probe) -> HealthCheck {
    match (old, probe) {
        (Some(old), _) => old.clone(),
        (None, Probe::Tcp) => HealthCheck::tcp(),
        (None, Probe::Http) => HealthCheck::http("/"),
    }
}

/// Returns the required port of a target group or of a listener.
pub(super) fn port(form: &Params) -> Result<u16, ApiError> {
    form.required("Port")?;
    Ok(within(form, "Port", PORTS)?.unwrap_or_default())
}

/// Refuses all values of a required parameter but one.
pub(super) fn only(form: &Params, name: &str, value: &str) -> Result<(), ApiError> {
    let actual = form.required(name)?;
    if actual == value {
        return Ok(());
    }
    Err(ApiError::validation(format!("This cloud has {name} '{value}' only, not '{actual}'")))
}

/// One target of a request.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub id: String,
    pub port: Option<u16>,
}

/// Returns the `Targets` of a request.
pub(super) fn targets(form: &Params) -> Result<Vec<Wanted>, ApiError> {
    form.structures("Targets")
        .iter()
        .map(|target| {
            let id = target.required("Id")?.to_owned();
            Ok(Wanted { id, port: within(target, "Port", PORTS)? })
        })
        .collect()
}

/// Returns the address of a target: that of a running instance, or the target itself.
pub(super) fn address(state: &State, id: &str) -> Result<Ipv4Addr, ApiError> {
    if let Ok(address) = id.parse() {
        return Ok(address);
    }
    let of_group = state.scaling.instance(id);
    let address = of_group.map(|it| it.address).or_else(|| state.ec2.running_at(id));
    address.ok_or_else(|| {
        ApiError::new(400, "InvalidTarget", format!("Instance ID '{id}' is not valid"))
    })
}

fn within<T>(form: &Params, name: &str, range: RangeInclusive<T>) -> Result<Option<T>, ApiError>
where
    T: FromStr + PartialOrd + fmt::Display,
{
    let Some(text) = form.get(name) else { return Ok(None) };
    match text.parse().ok().filter(|value| range.contains(value)) {
        Some(value) => Ok(Some(value)),
        None => Err(ApiError::validation(format!(
            "{name} '{text}' must be between {} and {}",
            range.start(),
            range.end()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(more: &str) -> Result<TargetGroupSpec, ApiError> {
        let form = format!("Name=web&Protocol=TCP&Port=80&VpcId=vpc-1{more}");
        target_group(&Params::parse(form.as_bytes()))
    }

    #[test]
    fn a_target_group_has_the_defaults_of_its_health_check_protocol() {
        assert_eq!(spec("").unwrap(), TargetGroupSpec::new("web", 80));
        let http = spec("&HealthCheckProtocol=HTTP&HealthCheckPort=44554").unwrap();
        assert_eq!(http.health_check, HealthCheck::http("/").on_port(44554));
        assert_eq!(http.health_check.timeout, Duration::from_secs(6));
        let form = Params::parse(b"HealthCheckIntervalSeconds=10&HealthyThresholdCount=2");
        let changed = health_check(&form, Some(&http.health_check)).unwrap();
        let expected = http.health_check.every(Duration::from_secs(10)).thresholds(2, 2);
        assert_eq!(changed, expected);
    }

    #[test]
    fn values_beyond_awss_limits_are_refused() {
        for more in [
            "&HealthCheckIntervalSeconds=4",
            "&HealthCheckIntervalSeconds=5",
            "&HealthCheckTimeoutSeconds=121",
            "&HealthyThresholdCount=11",
            "&HealthCheckProtocol=HTTPS",
            "&HealthCheckPort=0",
            "&HealthCheckProtocol=HTTP&Matcher.HttpCode=100",
            "&TargetType=lambda",
        ] {
            assert_eq!(spec(more).unwrap_err().code, "ValidationError", "{more}");
        }
        for name in ["", "-a", "a-", "a_b", "a123456789a123456789a123456789abc"] {
            let form = format!("Name={name}&Protocol=TCP&Port=80&VpcId=vpc-1");
            assert!(target_group(&Params::parse(form.as_bytes())).is_err(), "{name}");
        }
    }
}
