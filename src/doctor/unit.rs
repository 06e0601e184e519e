//! Checks skep's unit, the running skep, and how long a shutdown can be delayed.

use std::time::Duration;

use humantime::format_duration;
use serde_json::Value;

use super::Finding;
use crate::api::control::{Client, ClientError, socket_path};
use crate::clients::systemd::{self, PowerButton, Unit};
use crate::common::errors::chain;
use crate::common::report::StatusReport;
use crate::config::Settings;

const UNIT: &str = "unit";
const POWER: &str = "power button";
const TROUBLE_REMEDY: &str = "look up when it began with `skep events --since 1h`, and look it up in docs/troubleshooting.md";

pub async fn examine(settings: &Settings) -> Vec<Finding> {
    let client = Client::new(socket_path(&settings.runtime_dir));
    let (status, unit, button) = tokio::join!(
        client.status::<Value>(),
        systemd::fetch_unit(),
        systemd::fetch_power_button()
    );
    vec![running(status), times(unit, settings), power(button)]
}

fn running(status: Result<StatusReport<Value>, ClientError>) -> Finding {
    const CHECK: &str = "skep";
    match status {
        Ok(report) => {
            let text = |key: &str| report.node[key].as_str().unwrap_or_default().to_owned();
            match text("trouble") {
                trouble if trouble.is_empty() => {
                    Finding::ok(CHECK, format!("{}: {}", text("phase"), text("doing")))
                }
                trouble => Finding::warning(CHECK, trouble, TROUBLE_REMEDY),
            }
        }
        // skep may not have been started yet, which is no fault.
        Err(error @ ClientError::NotRunning { .. }) => {
            Finding::skipped(CHECK, error.to_string(), "systemctl start skep; journalctl -u skep")
        }
        Err(error @ ClientError::NotPermitted { .. }) => {
            Finding::skipped(CHECK, error.to_string(), "sudo skep doctor")
        }
        Err(error) => Finding::warning(CHECK, chain(&error), "systemctl status skep"),
    }
}

fn times(unit: Option<Unit>, settings: &Settings) -> Finding {
    let Some(Unit { timeout_start, timeout_stop }) = unit else {
        let why = "systemd does not run on this host, or has no skep.service";
        return Finding::skipped(UNIT, why, "systemctl show skep.service");
    };
    let words = |limit: Option<Duration>| {
        limit.map_or_else(|| "no limit".to_owned(), |limit| format_duration(limit).to_string())
    };
    let evidence = format!(
        "TimeoutStartSec {} (boot.deadline {}), TimeoutStopSec {} (leave.shutdown_deadline {})",
        words(timeout_start),
        format_duration(settings.boot.deadline),
        words(timeout_stop),
        format_duration(settings.leave.shutdown_deadline),
    );
    let is_short = |limit: Option<Duration>, needed| limit.is_some_and(|limit| limit <= needed);
    if is_short(timeout_stop, settings.leave.shutdown_deadline) {
        let remedy = "raise TimeoutStopSec= (systemctl edit skep), or lower leave.shutdown_deadline: systemd would kill skep during a departure";
        return Finding::failed(UNIT, evidence, remedy);
    }
    if is_short(timeout_start, settings.boot.deadline) {
        let remedy = "raise TimeoutStartSec= (systemctl edit skep), or lower boot.deadline: systemd would kill skep during a boot";
        return Finding::failed(UNIT, evidence, remedy);
    }
    Finding::ok(UNIT, evidence)
}

fn power(button: Option<PowerButton>) -> Finding {
    let Some(PowerButton { action, inhibit_delay }) = button else {
        return Finding::skipped(
            POWER,
            "logind does not run on this host",
            "systemctl status systemd-logind",
        );
    };
    let delay = format_duration(inhibit_delay);
    let evidence = format!("HandlePowerKey {action}, InhibitDelayMaxSec {delay}");
    if action != "poweroff" {
        let remedy = "set HandlePowerKey=poweroff in logind.conf: EC2 stops an instance by this button, and skep would get no notice";
        return Finding::failed(POWER, evidence, remedy);
    }
    Finding::ok(POWER, evidence)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_unit_that_kills_who_leaves_or_boots_is_a_failure() {
        let settings = Settings::default();
        let verdict = |start: u64, stop: u64| {
            let limit = |seconds| (seconds > 0).then(|| Duration::from_secs(seconds));
            let unit = Unit { timeout_start: limit(start), timeout_stop: limit(stop) };
            times(Some(unit), &settings).verdict
        };
        assert_eq!(verdict(900, 90), Verdict::Ok);
        assert_eq!(verdict(0, 0), Verdict::Ok, "no limits");
        assert_eq!(verdict(900, 80), Verdict::Failed);
        assert_eq!(verdict(600, 90), Verdict::Failed);
        assert_eq!(times(None, &settings).verdict, Verdict::Skipped);
    }

    #[test]
    fn a_trouble_of_the_running_skep_is_a_warning_with_a_sentence_as_its_remedy() {
        let node = serde_json::json!({ "phase": "ready", "doing": "x", "trouble": "no disk" });
        let finding = running(Ok(StatusReport { node, fleet: None }));
        assert_eq!((finding.verdict, &*finding.evidence), (Verdict::Warning, "no disk"));
        let remedy = finding.remedy.unwrap();
        assert!(remedy.starts_with("look up when it began with `skep events"), "{remedy}");
    }

    #[test]
    fn a_power_button_that_is_ignored_is_a_failure() {
        let verdict = |action: &str| {
            let inhibit_delay = Duration::from_secs(5);
            power(Some(PowerButton { action: action.into(), inhibit_delay })).verdict
        };
        assert_eq!(verdict("poweroff"), Verdict::Ok);
        assert_eq!(verdict("ignore"), Verdict::Failed);
        assert_eq!(power(None).verdict, Verdict::Skipped);
    }
}
