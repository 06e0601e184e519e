//! Handles a notice that comes before the metadata have identified this machine: `skep leave`, or a power-off, in the
//! first moments of a skep that was restarted on a member.
//!
//! Guarantees: there is nothing to leave only if Docker itself reports that it is in no swarm. Otherwise skep waits for
//! the metadata until the departure's deadline, because it cannot write any row without them; after the deadline the
//! departure has failed, and the result is never "nothing to leave".

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::{Ended, RunError};
use crate::clients::docker::{LocalState, Swarm};
use crate::common::errors::chain;
use crate::common::state::StateHandle;
use crate::lifecycle::leave::Outcome;
use crate::lifecycle::notices::Notices;

/// Name of this duty's trouble.
pub const WHO: &str = "an early notice";
/// Time limit for Docker, which answers within milliseconds; a retry follows soon.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Time between two requests to Docker.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Waits for a notice, and returns if there is nothing to leave. Run it in parallel with the reading of the metadata.
///
/// # Errors
/// When, at the departure's deadline, this node is in a swarm or skep cannot tell.
pub async fn until_nothing_to_leave(
    swarm: &Swarm,
    notices: &Notices,
    state: &StateHandle,
) -> Result<Ended, RunError> {
    let mut departure = notices.given().await;
    let mut deadline = instant_of(departure.deadline);
    state.set_departure(&departure);
    loop {
        let asked = tokio::time::timeout(ANSWER_WITHIN, swarm.fetch_local_node()).await;
        let docker = match asked {
            Ok(Ok(local)) if local.state == LocalState::Inactive => {
                return Ok(Ended::Left(Outcome::NothingToLeave));
            }
            Ok(Ok(_)) => "Docker on this host is in a swarm".to_owned(),
            Ok(Err(error)) => chain(&error),
            Err(_) => format!("Docker has not answered for {} s", ANSWER_WITHIN.as_secs()),
        };
        // The deadline may be nearer now.
        if let Some(now) = notices.now().filter(|now| *now != departure) {
            deadline = deadline.min(instant_of(now.deadline));
            state.set_departure(&now);
            departure = now;
        }
        let failure = RunError::Unidentified { reason: departure.reason, docker };
        if Instant::now() >= deadline {
            return Err(failure);
        }
        state.trouble(WHO, Some(failure.to_string()));
        tokio::time::sleep_until(deadline.min(Instant::now() + RETRY_INTERVAL)).await;
    }
}

/// Converts a deadline, so that a later step of the wall clock takes no time from the departure.
fn instant_of(deadline: OffsetDateTime) -> Instant {
    Instant::now() + Duration::try_from(deadline - OffsetDateTime::now_utc()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use secrecy::SecretString;

    use super::*;
    use crate::clients::docker::tests::fake_engine::{FakeEngine, Instead, RELEASES};
    use crate::clients::docker::{Availability, JoinAnswer};
    use crate::common::instance::{Departure, Reason};

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    /// Returns the result for a notice whose deadline is in `longest`.
    async fn end(
        engine: &FakeEngine,
        state: &StateHandle,
        longest: Duration,
    ) -> Result<Ended, RunError> {
        let notices = Notices::default();
        let noticed_at = OffsetDateTime::now_utc();
        let deadline = noticed_at + longest;
        notices.give(Departure { reason: Reason::Shutdown, noticed_at, deadline });
        until_nothing_to_leave(&engine.swarm(), &notices, state).await
    }

    #[tokio::test]
    async fn only_dockers_word_shows_that_there_is_nothing_to_leave() {
        let engine = FakeEngine::start(RELEASES[0]);
        let state = StateHandle::default();
        let nothing = end(&engine, &state, Duration::ZERO).await.unwrap();
        assert_eq!(nothing, Ended::Left(Outcome::NothingToLeave));

        engine.lock().instead.insert("/info", Instead::Refusal(500, "busy"));
        let error = end(&engine, &state, Duration::ZERO).await.unwrap_err().to_string();
        assert!(error.contains("shutdown notice") && error.contains("busy"), "{error}");
        engine.lock().instead.clear();

        let token = SecretString::from("SWMTKN-1-a-b");
        let joined = engine.swarm().join(ADDRESS, ADDRESS, &token, Availability::Active).await;
        assert_eq!(joined, JoinAnswer::Joined);
        let error = end(&engine, &state, Duration::ZERO).await.unwrap_err().to_string();
        assert!(error.contains("is in a swarm"), "{error}");
    }

    #[tokio::test]
    async fn a_member_waits_for_its_metadata_and_shows_that() {
        let engine = FakeEngine::start(RELEASES[0]);
        let token = SecretString::from("SWMTKN-1-a-b");
        let joined = engine.swarm().join(ADDRESS, ADDRESS, &token, Availability::Active).await;
        assert_eq!(joined, JoinAnswer::Joined);
        let state = StateHandle::default();
        let mut shown = state.subscribe();
        tokio::select! {
            ended = end(&engine, &state, Duration::from_secs(3600)) => panic!("{ended:?}"),
            shown = shown.wait_for(|state| state.trouble.is_some()) => drop(shown.unwrap()),
        }
        assert!(state.now().departure.is_some());
    }
}
