//! Plain types: the requests for target groups and load balancers, and their views.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// A target group of the protocol TCP. Through this API, its times can be shorter than AWS's minimums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetGroupSpec {
    pub name: String,
    /// The port of targets that are registered without one.
    pub port: u16,
    pub health_check: HealthCheck,
    pub attributes: TargetGroupAttributes,
}

impl TargetGroupSpec {
    /// Returns a target group with AWS's defaults for network load balancers.
    pub fn new(name: &str, port: u16) -> Self {
        Self {
            name: name.to_owned(),
            port,
            health_check: HealthCheck::tcp(),
            attributes: TargetGroupAttributes::default(),
        }
    }
}

/// The protocol of a health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// The target accepts a connection.
    Tcp,
    /// The target answers a GET with an expected status.
    Http,
}

impl Probe {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Http => "HTTP",
        }
    }
}

/// The health checks of a target group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    pub probe: Probe,
    /// `None`: the port that receives the target's traffic.
    pub port: Option<u16>,
    /// The path of an HTTP check.
    pub path: String,
    pub interval: Duration,
    pub timeout: Duration,
    /// Consecutive successes that make a target healthy.
    pub healthy_threshold: u32,
    /// Consecutive failures that make a target unhealthy.
    pub unhealthy_threshold: u32,
    /// The status codes of a successful HTTP check.
    pub matcher: Matcher,
}

impl HealthCheck {
    /// AWS's defaults for a network load balancer:
    /// <https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_CreateTargetGroup.html>
    pub fn tcp() -> Self {
        Self {
            probe: Probe::Tcp,
            port: None,
            path: "/".to_owned(),
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(10),
            healthy_threshold: 5,
            unhealthy_threshold: 2,
            matcher: Matcher::default(),
        }
    }

    /// AWS's defaults for HTTP checks of a network load balancer:
    /// <https://docs.aws.amazon.com/elasticloadbalancing/latest/network/target-group-health-checks.html>
    pub fn http(path: &str) -> Self {
        Self {
            probe: Probe::Http,
            path: path.to_owned(),
            timeout: Duration::from_secs(6),
            ..Self::tcp()
        }
    }

    /// Sets another port than the one that receives the traffic.
    #[must_use]
    pub fn on_port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    #[must_use]
    pub fn every(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    #[must_use]
    pub fn thresholds(mut self, healthy: u32, unhealthy: u32) -> Self {
        (self.healthy_threshold, self.unhealthy_threshold) = (healthy, unhealthy);
        self
    }
}

/// The status codes of a successful HTTP check, such as `200-399` or `200,202`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matcher(Vec<RangeInclusive<u16>>);

/// The codes that a network load balancer accepts in a matcher.
const CODES: RangeInclusive<u16> = 200..=599;

impl Matcher {
    pub fn fits(&self, code: u16) -> bool {
        self.0.iter().any(|range| range.contains(&code))
    }
}

impl Default for Matcher {
    fn default() -> Self {
        Self(vec![200..=399])
    }
}

impl FromStr for Matcher {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let code = |text: &str| text.parse().ok().filter(|code| CODES.contains(code)).ok_or(());
        let range = |text: &str| match text.split_once('-') {
            Some((from, to)) => Ok(code(from)?..=code(to)?),
            None => Ok(code(text)?..=code(text)?),
        };
        text.split(',').map(range).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
            (from, to) if from == to => from.to_string(),
            (from, to) => format!("{from}-{to}"),
        };
        f.write_str(&self.0.iter().map(range).collect::<Vec<_>>().join(","))
    }
}

/// The attributes of a target group that this cloud has, with AWS's defaults:
/// <https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetGroupAttribute.html>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetGroupAttributes {
    /// The time for which a deregistering target is draining.
    pub deregistration_delay: Duration,
    /// Whether the flows of a target are cut at the end of its deregistration delay.
    pub connection_termination: bool,
    /// Whether the flows of a target are cut when it becomes unhealthy.
    pub unhealthy_connection_termination: bool,
    /// Time until the flows of an unhealthy target are cut, where they are not cut at once; zero: they are not cut.
    pub unhealthy_draining_interval: Duration,
}

impl Default for TargetGroupAttributes {
    fn default() -> Self {
        Self {
            deregistration_delay: Duration::from_secs(300),
            connection_termination: false,
            unhealthy_connection_termination: true,
            unhealthy_draining_interval: Duration::ZERO,
        }
    }
}

/// A network load balancer with its listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadBalancerSpec {
    pub name: String,
    pub listeners: Vec<ListenerSpec>,
}

/// A listener, and the target group that it forwards to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSpec {
    pub port: u16,
    pub target_group: TargetGroupSpec,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matcher_has_codes_and_ranges() {
        let matcher: Matcher = "200-299,404".parse().unwrap();
        assert!(matcher.fits(204) && matcher.fits(404) && !matcher.fits(301));
        assert_eq!(matcher.to_string(), "200-299,404");
        assert_eq!(Matcher::default().to_string(), "200-399");
        for bad in ["", "ok", "100", "200-", "200-600"] {
            assert!(bad.parse::<Matcher>().is_err(), "{bad}");
        }
    }
}
