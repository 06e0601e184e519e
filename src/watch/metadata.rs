//! Polling the metadata: one cached token, one kept connection, every two seconds by default.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{Instant, MissedTickBehavior};

use super::{Notices, Seen, notice};
use crate::config::Settings;
use crate::imds::{Imds, ImdsError, TargetState};

/// An answer that comes later than this is worth less than the next one.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Looks for notices, for ever. `first_look` is told the target state when the metadata has answered
/// once: an instance that is to leave already, or to wait in a warm pool, must not begin to join.
pub async fn watch_metadata(
    imds: Imds,
    settings: Settings,
    notices: Notices,
    first_look: tokio::sync::oneshot::Sender<Option<TargetState>>,
) {
    let mut first_look = Some(first_look);
    let mut ticks = tokio::time::interval(settings.watch.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_silent = false;
    loop {
        ticks.tick().await;
        let target = match look(&imds, &settings).await {
            Ok(seen) => {
                if is_silent {
                    tracing::info!("the metadata service answers again");
                }
                is_silent = false;
                if let Some(departure) = notice(&seen, &settings, OffsetDateTime::now_utc()) {
                    notices.give(departure);
                }
                seen.target
            }
            Err(error) => {
                // Said once: a service that is away for an hour is one event, not 1,800.
                if !is_silent {
                    tracing::warn!("no notice can be seen: {}", crate::errors::chain(&error));
                }
                is_silent = true;
                None
            }
        };
        // Also after an error: a metadata service that fails must not keep a node from joining.
        first_look.take().map(|told| told.send(target));
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
    let target = imds.fetch_target_lifecycle_state(deadline);
    // One after the other, so that one kept connection serves all three. A notice that cannot be
    // parsed must not hide the others.
    let (target, spot, maintenance) = (target.await, spot.await, maintenance.await);
    match (target, spot, maintenance) {
        (Err(error), Err(_), _) => Err(error),
        (target, spot, maintenance) => {
            Ok(Seen { target: heard(target), spot: heard(spot), maintenance: heard(maintenance) })
        }
    }
}

fn heard<T: Default>(answer: Result<T, ImdsError>) -> T {
    answer.unwrap_or_else(|error| {
        tracing::debug!("{}", crate::errors::chain(&error));
        T::default()
    })
}
