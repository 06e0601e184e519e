//! Reads the timeouts of skep's unit, and logind's settings for the power button, which is what EC2 presses.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use super::LIST_JOBS_TIMEOUT;
use crate::common::process;

const UNIT: &str = "skep.service";

/// Timeouts of the loaded unit, drop-ins included; `None` where the unit sets no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// `TimeoutStartSec=`: time within which skep must be Ready.
    pub timeout_start: Option<Duration>,
    /// `TimeoutStopSec=`: time within which skep must stop; systemd kills it afterwards.
    pub timeout_stop: Option<Duration>,
}

/// logind's settings for a press of the power button.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowerButton {
    /// `poweroff`, `ignore`, …
    pub action: String,
    /// Time for which other programs can delay a shutdown before systemd stops skep (`InhibitDelayMaxSec=`).
    pub inhibit_delay: Duration,
}

/// Fetches the unit's timeouts; `None` without systemd, or where systemd does not have the unit.
pub async fn fetch_unit() -> Option<Unit> {
    const PROPERTIES: &str = "--property=LoadState,TimeoutStartUSec,TimeoutStopUSec";
    parse_unit(&ask("systemctl".as_ref(), &["show", UNIT, PROPERTIES]).await?)
}

/// Fetches logind's settings; `None` where logind does not run.
pub async fn fetch_power_button() -> Option<PowerButton> {
    const LOGIND: [&str; 4] = [
        "get-property",
        "org.freedesktop.login1",
        "/org/freedesktop/login1",
        "org.freedesktop.login1.Manager",
    ];
    let asked = [&LOGIND[..], &["HandlePowerKey", "InhibitDelayMaxUSec"]].concat();
    parse_power_button(&ask("busctl".as_ref(), &asked).await?)
}

async fn ask(program: &OsStr, arguments: &[&str]) -> Option<String> {
    let asked = process::command(program).args(arguments).stderr(Stdio::null()).output();
    let output = tokio::time::timeout(LIST_JOBS_TIMEOUT, asked).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Parses lines of `Name=value`.
fn parse_unit(text: &str) -> Option<Unit> {
    let value = |name| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    // `infinity` does not parse as a duration.
    let time = |name| humantime::parse_duration(value(name)?).ok();
    (value("LoadState")? == "loaded").then(|| Unit {
        timeout_start: time("TimeoutStartUSec"),
        timeout_stop: time("TimeoutStopUSec"),
    })
}

/// Parses the lines `s "poweroff"` and `t 5000000`.
fn parse_power_button(text: &str) -> Option<PowerButton> {
    let mut lines = text.lines();
    let action = lines.next()?.strip_prefix("s ")?.trim_matches('"').to_owned();
    let delay = lines.next()?.strip_prefix("t ")?.parse().ok()?;
    Some(PowerButton { action, inhibit_delay: Duration::from_micros(delay) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_tells_its_times() {
        let unit = parse_unit("LoadState=loaded\nTimeoutStartUSec=15min\nTimeoutStopUSec=1min 30s");
        let (start, stop) = (Duration::from_secs(900), Duration::from_secs(90));
        assert_eq!(unit, Some(Unit { timeout_start: Some(start), timeout_stop: Some(stop) }));
        let unit = parse_unit("LoadState=loaded\nTimeoutStopUSec=infinity\n").unwrap();
        assert_eq!(unit.timeout_stop, None);
        assert_eq!(parse_unit("LoadState=not-found\nTimeoutStopUSec=1min 30s\n"), None);
        assert_eq!(parse_unit(""), None);
    }

    #[test]
    fn logind_tells_what_the_power_button_does() {
        let button = parse_power_button("s \"poweroff\"\nt 5000000\n").unwrap();
        assert_eq!((button.action.as_str(), button.inhibit_delay.as_secs()), ("poweroff", 5));
        assert_eq!(parse_power_button("Failed to get property"), None);
    }
}
