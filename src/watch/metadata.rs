//! Polling the metadata: one cached token, one kept connection, every two seconds by default.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{Instant, MissedTickBehavior};

use super::vigil::Vigil;
use super::{Notices, Seen};
use crate::config::{Rebalance, Settings};
use crate::imds::{Imds, ImdsError, TargetState};
use crate::state::StateHandle;

/// An answer that comes later than this is worth less than the next one.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Looks for notices, for ever. `first_look` is told the target state when the metadata has answered
/// once: an instance that is to leave already, or to wait in a warm pool, must not begin to join.
pub async fn watch_metadata(
    imds: Imds,
    settings: Settings,
    notices: Notices,
    state: StateHandle,
    first_look: tokio::sync::oneshot::Sender<Option<TargetState>>,
) {
    let mut first_look = Some(first_look);
    let mut ticks = tokio::time::interval(settings.watch.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_silent = false;
    let mut vigil = Vigil::default();
    loop {
        ticks.tick().await;
        let seen = match look(&imds, &settings).await {
            Ok(seen) => {
                if is_silent {
                    tracing::info!("the metadata service answers again");
                }
                is_silent = false;
                seen
            }
            Err(error) => {
                // Said once: a service that is away for an hour is one event, not 1,800.
                if !is_silent {
                    tracing::warn!("no notice can be seen: {}", crate::errors::chain(&error));
                }
                is_silent = true;
                Seen::default()
            }
        };
        let seen = Seen { is_member: state.now().membership.is_some(), ..seen };
        let told = vigil.see(&seen, &settings, OffsetDateTime::now_utc());
        if let Some(departure) = told.notice {
            notices.give(departure);
        }
        if told.is_clear {
            notices.withdraw();
        }
        state.quieten(told.quiet);
        // Without an answer nothing changes.
        if let Some(target) = &seen.target {
            state.set_detached(*target == TargetState::Detached);
        }
        // Also after an error: a metadata service that fails must not keep a node from joining.
        first_look.take().map(|told| told.send(seen.target));
    }
}

async fn look(imds: &Imds, settings: &Settings) -> Result<Seen, ImdsError> {
    let deadline = Instant::now() + ANSWER_WITHIN;
    let spot = async {
        if settings.watch.spot { imds.fetch_spot_action(deadline).await } else { Ok(None) }
    };
    let maintenance = async {
        if settings.watch.maintenance {
            imds.fetch_scheduled_maintenance(deadline).await
        } else {
            Ok(Vec::new())
        }
    };
    let rebalance = async {
        match settings.watch.rebalance {
            Rebalance::Ignore => Ok(None),
            Rebalance::Pause | Rebalance::Leave => imds.fetch_rebalance(deadline).await,
        }
    };
    let target = imds.fetch_target_lifecycle_state(deadline);
    // One after the other, so that one kept connection serves them all. A notice that cannot be
    // parsed must not hide the others.
    let (target, spot, maintenance) = (target.await, spot.await, maintenance.await);
    let rebalance = rebalance.await;
    if let (Err(_), Err(_)) = (&target, &spot) {
        return target.map(|_| Seen::default());
    }
    Ok(Seen {
        is_member: false,
        is_whole: target.is_ok() && spot.is_ok() && maintenance.is_ok() && rebalance.is_ok(),
        target: heard(target),
        spot: heard(spot),
        maintenance: heard(maintenance),
        rebalance: heard(rebalance),
    })
}

fn heard<T: Default>(answer: Result<T, ImdsError>) -> T {
    answer.unwrap_or_else(|error| {
        tracing::debug!("{}", crate::errors::chain(&error));
        T::default()
    })
}
