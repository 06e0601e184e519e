//! Limits how often a failed start ends and systemd starts skep again.

use std::time::Duration;

use tokio::time::Instant;

use super::RunError;
use super::background_tasks::until_stopped;
use crate::common::state::StateHandle;
use crate::config::Settings;
use crate::lifecycle::notices::Notices;

/// Shortest time from a start to its end after a failure. Together with `RestartSec=` of the unit there are fewer
/// failed starts than its start limit allows, so that systemd never stops trying while an operator repairs a role.
/// Crashes are quicker, and reach the limit.
const SHORTEST_FAILURE: Duration = Duration::from_secs(20);

/// Waits until this process may end after `error`. A stop, or a notice, ends the wait.
pub async fn pace(
    error: &RunError,
    started: Instant,
    settings: &Settings,
    notices: &Notices,
    state: &StateHandle,
) {
    if !is_restarted(error) {
        return;
    }
    tokio::select! {
        () = tokio::time::sleep_until(started + SHORTEST_FAILURE) => {}
        _ = until_stopped(settings, notices, state) => {}
        _ = notices.given() => {}
    }
}

/// Whether systemd starts skep again: it runs it, and this is not a mistake in the configuration.
fn is_restarted(error: &RunError) -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some() && !matches!(error, RunError::Identity(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/skep.service"));

    fn of_the_unit(key: &str) -> &'static str {
        let mut lines = UNIT.lines().filter_map(|line| line.split_once('='));
        lines.find(|(name, _)| *name == key).map(|(_, value)| value).expect(key)
    }

    #[test]
    fn failures_never_reach_the_start_limit() {
        assert_eq!(of_the_unit("StartLimitIntervalSec"), "10min");
        let interval = Duration::from_secs(600);
        let burst: u32 = of_the_unit("StartLimitBurst").parse().unwrap();
        let pause = Duration::from_secs(of_the_unit("RestartSec").parse().unwrap());
        assert!(
            (SHORTEST_FAILURE + pause) * burst > interval,
            "{burst} failed starts fit into less than {interval:?}: systemd would refuse the next one"
        );
    }
}
