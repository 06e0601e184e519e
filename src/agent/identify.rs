//! Reads the identity of this machine. In the first minute of an instance, its metadata may not answer yet, or may be
//! incomplete.
//!
//! Guarantees: incomplete answers and missing tags end the start only when they last; until then skep retries. If the
//! service does not answer, skep retries until the boot's deadline. An error that no waiting cures ends the start at
//! once. Each case is logged when it begins; a missing answer is logged again in growing intervals.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::Instant;

use crate::clients::imds::{Imds, ImdsError};
use crate::common::instance::Instance;
use crate::common::state::{Phase, StateHandle};
use crate::config::Settings;
use crate::config::identity::Identity;

/// How long the metadata may lack the items of every instance, or the tags that identify this node, counted from the
/// first such answer. EC2 fills them in while the instance starts, mostly within a few seconds; tags that are set by a
/// call after the launch come a little later. A lasting mistake is reported after this time.
const SETTLE_TIME: Duration = Duration::from_secs(60);
/// Time between two polls; the service throttles per instance.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Time without an answer after which a line is logged; the service usually answers within milliseconds. Each further
/// line comes [`MORE_SELDOM`] times as late: after 5 s, 30 s, 3 min, 18 min.
const FIRST_LINE: Duration = Duration::from_secs(5);
const MORE_SELDOM: u32 = 6;

/// Reads the identity of this machine until it is complete enough to continue. If neither settings nor tags name the
/// cluster and the role, it waits for the tags.
///
/// # Errors
/// When an error occurs that no waiting cures, or one has lasted too long.
pub async fn fetch_instance(
    imds: &Imds,
    settings: &Settings,
    state: &StateHandle,
    deadline: Instant,
) -> Result<Instance, ImdsError> {
    let mut settling = Settling::default();
    loop {
        let look = tokio::select! {
            look = imds.fetch_instance(deadline) => look,
            never = say_silence(imds, state) => match never {},
        };
        let Some(why) = unsettled(settings, &look) else { return look };
        if !settling.may_go_on(Instant::now(), deadline) {
            return look;
        }
        state.enter(Phase::Starting, format!("waiting for the instance metadata: {why}"));
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Logs in growing intervals that the service does not answer. Never returns.
async fn say_silence(imds: &Imds, state: &StateHandle) -> Infallible {
    let started = Instant::now();
    let mut line_at = FIRST_LINE;
    loop {
        tokio::time::sleep_until(started + line_at).await;
        let doing = format!(
            "waiting for the instance metadata: no usable answer from {}; check that this is an EC2 \
             instance with HttpEndpoint enabled, and that the address is routed and not firewalled",
            imds.endpoint()
        );
        if line_at > FIRST_LINE {
            tracing::warn!("after {} s still {doing}", line_at.as_secs());
        }
        state.enter(Phase::Starting, doing);
        line_at = line_at.saturating_mul(MORE_SELDOM);
    }
}

/// Returns what an answer lacks, if an instance in its first seconds may lack it.
fn unsettled(settings: &Settings, look: &Result<Instance, ImdsError>) -> Option<String> {
    match look {
        Ok(instance) => {
            let mistakes = Identity::resolve(settings, instance).err()?;
            mistakes.are_silence().then(|| mistakes.to_string())
        }
        Err(error) => error.may_settle().then(|| error.to_string()),
    }
}

/// The time of the first incomplete answer.
#[derive(Default)]
struct Settling {
    since: Option<Instant>,
}

impl Settling {
    /// Whether there is time for another poll, after one that ended `now`.
    fn may_go_on(&mut self, now: Instant, deadline: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        now + LOOK_INTERVAL < deadline.min(since + SETTLE_TIME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::imds::stub::{Stub, soon};
    use crate::common::instance::Role;

    #[tokio::test]
    async fn metadata_that_are_filled_in_late_are_waited_for() {
        let stub = Stub::start().await;
        let (imds, settings, state) = (stub.imds(), Settings::default(), StateHandle::default());
        let filled_in = async {
            let mut seen = state.subscribe();
            let mut until = async |words: &str| {
                seen.wait_for(|state| state.doing.contains(words)).await.map(drop).unwrap();
            };
            until("every EC2 instance has it").await;
            stub.answers().revoked = u64::MAX;
            until("refused a fresh token").await;
            stub.answers().revoked = 0;
            stub.fill();
            until("no source names the cluster").await;
            stub.set("tags/instance", "skep:cluster\nskep:role");
            stub.set("tags/instance/skep:cluster", "prod");
            stub.set("tags/instance/skep:role", "worker");
        };
        let fetched = fetch_instance(&imds, &settings, &state, soon());
        let both = async { tokio::join!(fetched, filled_in) };
        let both = tokio::time::timeout(Duration::from_secs(30), both).await;
        let (instance, ()) = both.expect("it stopped waiting before the metadata were filled in");
        assert_eq!(instance.unwrap().tags["skep:role"], "worker");
    }

    #[tokio::test]
    async fn what_lasts_ends_as_it_is_found() {
        let stub = Stub::start().await;
        let (imds, settings, state) = (stub.imds(), Settings::default(), StateHandle::default());
        let soon = || Instant::now() + LOOK_INTERVAL * 2;
        let error = fetch_instance(&imds, &settings, &state, soon()).await.unwrap_err();
        assert!(matches!(error, ImdsError::Missing { .. }), "{error}");
        stub.fill();
        let instance = fetch_instance(&imds, &settings, &state, soon()).await.unwrap();
        assert!(instance.tags.is_empty(), "the caller reports missing tags");
        stub.answers().next_puts = [403; 20].into();
        let error = fetch_instance(&stub.imds(), &settings, &state, soon()).await.unwrap_err();
        assert!(matches!(error, ImdsError::SwitchedOff { .. }), "{error}");
    }

    #[test]
    fn answers_of_the_first_seconds_have_their_time_from_the_first_of_them() {
        let started = Instant::now();
        let at = |seconds| started + Duration::from_secs(seconds);
        let mut settling = Settling::default();
        assert!(settling.may_go_on(at(100), at(600)), "the service did not answer before");
        assert!(settling.may_go_on(at(158), at(600)));
        assert!(!settling.may_go_on(at(159), at(600)));
        assert!(!Settling::default().may_go_on(at(0), at(1)), "the deadline is nearer");
    }

    #[test]
    fn only_tags_that_say_nothing_are_waited_for() {
        let instance = Instance::example();
        let lacks = |settings: &Settings, tags: &[(&str, &str)]| {
            let tags = tags.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
            unsettled(settings, &Ok(Instance { tags, ..instance.clone() }))
        };
        let settings = Settings::default();
        assert!(lacks(&settings, &[]).is_some_and(|why| why.contains("InstanceMetadataTags")));
        let cluster = ("skep:cluster", "prod");
        assert!(lacks(&settings, &[cluster]).is_some_and(|why| why.contains("skep:role")));
        assert_eq!(lacks(&settings, &[cluster, ("skep:role", "worker")]), None);
        let mistake = lacks(&settings, &[cluster, ("skep:role", "boss")]);
        assert_eq!(mistake, None, "a value that is wrong is reported at once");
        let (cluster, role) = (Some("prod".into()), Some(Role::Worker));
        let settings = Settings { cluster, role, ..Settings::default() };
        assert_eq!(lacks(&settings, &[]), None, "the settings name both");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_shown_after_five_seconds() {
        let (imds, state) = (Imds::new("http://127.0.0.1:9").unwrap(), StateHandle::default());
        let shown = async |seconds| {
            let silent = say_silence(&imds, &state);
            assert!(tokio::time::timeout(Duration::from_secs(seconds), silent).await.is_err());
            state.now().doing.contains("no usable answer from http://127.0.0.1:9")
        };
        assert!(!shown(4).await);
        assert!(shown(6).await);
    }
}
