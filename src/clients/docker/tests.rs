//! Tests against a fake engine: the API versions of each release of Docker, and of an engine that is replaced under
//! skep.

pub(crate) mod fake_engine;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use secrecy::SecretString;
use serde_json::json;

use super::*;
use crate::common::fact::Fact;
use crate::common::labels::Labels;
use fake_engine::{FakeEngine, Instead, RELEASES, Release, release};

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
/// Registry credentials in the form that Docker accepts.
const AUTH: &str = "e30=";

fn spec() -> InitSpec {
    InitSpec {
        address: ADDRESS,
        address_pool: vec![],
        subnet_size: 24,
        labels: HashMap::new(),
        availability: Availability::Active,
        autolock: false,
        force_new_cluster: false,
    }
}

async fn join(swarm: &Swarm) -> JoinAnswer {
    swarm.join(ADDRESS, ADDRESS, &SecretString::from("SWMTKN-1-a-b"), Availability::Active).await
}

async fn state(swarm: &Swarm) -> LocalState {
    swarm.fetch_local_node().await.unwrap().state
}

/// Switches the node between active and pause.
async fn toggle(swarm: &Swarm) {
    let toggled = |labels: &crate::common::labels::Labels, now| {
        let is_active = now == Availability::Active;
        Some((labels.clone(), if is_active { Availability::Pause } else { Availability::Active }))
    };
    assert!(swarm.relabel("n1", toggled).await.unwrap());
}

async fn renew_credentials(swarm: &Swarm) -> Result<(), SwarmError> {
    let services = swarm.fetch_services().await?;
    swarm.update_registry_auth(&services[0], AUTH.into()).await
}

/// Docker connects to the managers that it lists: a list without one of them would be wrong.
#[tokio::test]
async fn the_managers_that_docker_knows_are_all_read_or_none() {
    let engine = FakeEngine::start(RELEASES[0]);
    let swarm = engine.swarm();
    swarm.init(spec()).await.unwrap();
    let read = async |addresses: &[&str]| {
        let remote = |addr: &&str| serde_json::json!({ "NodeID": "n", "Addr": addr });
        engine.lock().managers = addresses.iter().map(remote).collect();
        let local = swarm.fetch_local_node().await.unwrap();
        assert!(local.has_managers, "even where no address can be parsed");
        local.managers.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(read(&["10.0.0.1:2377", "10.0.0.2:2377"]).await, ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(read(&["[fd00::7]:2377"]).await, ["fd00::7"]);
    for unreadable in ["", "10.0.0.2", "fd00::7", "manager-2:2377"] {
        assert_eq!(read(&["10.0.0.1:2377", unreadable]).await, [""; 0], "{unreadable}");
    }
    engine.lock().managers = serde_json::json!([{ "NodeID": "n" }]);
    assert!(swarm.fetch_local_node().await.unwrap().managers.is_empty(), "no address");
    engine.lock().managers = serde_json::Value::Null;
    let local = swarm.fetch_local_node().await.unwrap();
    assert!(!local.has_managers && local.managers.is_empty());
}

/// Returns the API version that skep uses with this release.
fn spoken(release: Release) -> &'static str {
    if release.oldest == "1.44" { "1.44" } else { "1.41" }
}

/// Checks that every request except `GET /version` names the version; those about services name the newest one.
fn check_versions(engine: &FakeEngine, release: Release) {
    for asked in &engine.lock().asked {
        let expected = match asked.what.as_str() {
            "GET /version" => None,
            what if what.contains("/services") => Some(release.newest),
            _ => Some(spoken(release)),
        };
        assert_eq!(asked.version.as_deref(), expected, "{} {asked:?}", release.name);
    }
}

#[tokio::test]
async fn every_release_is_spoken_to_in_a_version_that_it_takes() {
    for release in RELEASES {
        let engine = FakeEngine::start(release);
        let swarm = engine.swarm();
        assert_eq!(state(&swarm).await, LocalState::Inactive, "{}", release.name);
        swarm.init(spec()).await.unwrap();
        assert_eq!(state(&swarm).await, LocalState::Active, "{}", release.name);
        assert_eq!(swarm.init(spec()).await.unwrap_err().kind, SwarmErrorKind::AlreadyInSwarm);
        assert!(swarm.drain("n1").await.unwrap());
        let nodes = swarm.fetch_nodes().await.unwrap();
        assert_eq!(nodes[0].availability, Availability::Drain, "{}", release.name);
        renew_credentials(&swarm).await.unwrap();
        assert_eq!(engine.lock().service_spec["TaskTemplate"]["Later"], 7, "{}", release.name);
        assert!(swarm.fetch_containers().await.unwrap().is_empty());
        swarm.leave(false).await.unwrap();
        swarm.leave(false).await.unwrap();
        assert_eq!(join(&swarm).await, JoinAnswer::Joined, "{}", release.name);
        assert_eq!(swarm.fetch_engine().await.unwrap().version, release.name);
        check_versions(&engine, release);
    }
}

#[tokio::test]
async fn an_engine_that_is_replaced_under_skep_is_spoken_to_in_its_own_version() {
    for (before, after) in [(RELEASES[0], RELEASES[4]), (RELEASES[4], RELEASES[0])] {
        let engine = FakeEngine::start(before);
        let swarm = engine.swarm();
        // Each call is the first one after the replacement.
        let replaced = async || {
            engine.replace(before);
            state(&swarm).await;
            engine.replace(after);
        };
        swarm.connect().await.unwrap();
        replaced().await;
        swarm.init(spec()).await.unwrap();
        replaced().await;
        assert_eq!(state(&swarm).await, LocalState::Active);
        replaced().await;
        toggle(&swarm).await;
        replaced().await;
        renew_credentials(&swarm).await.unwrap();
        replaced().await;
        swarm.leave(true).await.unwrap();
        replaced().await;
        assert_eq!(join(&swarm).await, JoinAnswer::Joined);

        let done = engine.lock().done.clone();
        let once = ["/swarm/init", "/nodes/n1/update", "/services/s1/update", "/swarm/leave"];
        let once = once.into_iter().chain(["/swarm/join"]).map(|path| format!("POST {path}"));
        assert_eq!(done, once.collect::<Vec<_>>(), "nothing is done twice");
        let info = engine.last("POST /swarm/join");
        assert_eq!(info.version.as_deref(), Some(spoken(after)));
    }
}

#[tokio::test]
async fn clones_share_the_version_and_the_engine_is_asked_for_it_once() {
    let engine = FakeEngine::start(RELEASES[4]);
    let swarm = engine.swarm();
    let clone = swarm.clone();
    swarm.connect().await.unwrap();
    state(&clone).await;
    state(&swarm).await;
    let asked = engine.lock().asked.iter().filter(|asked| asked.what == "GET /version").count();
    assert_eq!(asked, 1);
}

#[tokio::test]
async fn only_an_answer_says_whether_this_node_is_a_manager_and_no_error_is_kept() {
    let engine = FakeEngine::start(RELEASES[0]);
    let swarm = engine.swarm();
    let hour = Duration::from_secs(3600);
    engine.lock().instead.insert("/info", Instead::Refusal(500, "busy"));
    assert_eq!(swarm.is_manager_lately(hour).await, Fact::CannotTell);
    engine.lock().instead.clear();
    assert_eq!(join(&swarm).await, JoinAnswer::Joined);
    assert_eq!(swarm.is_manager_lately(hour).await, Fact::Yes);
    engine.lock().instead.insert("/info", Instead::Refusal(500, "busy"));
    assert_eq!(swarm.is_manager_lately(hour).await, Fact::Yes, "by the earlier answer");
    assert_eq!(swarm.is_manager_lately(Duration::ZERO).await, Fact::CannotTell);
    assert_eq!(
        swarm.is_manager_lately(hour).await,
        Fact::CannotTell,
        "an error discards the kept answer"
    );
}

/// Docker starts two programs for each answer.
#[tokio::test]
async fn those_who_only_wait_for_a_change_share_an_answer() {
    let engine = FakeEngine::start(RELEASES[0]);
    let swarm = engine.swarm();
    let asked = || engine.lock().asked.iter().filter(|asked| asked.what == "GET /info").count();
    let hour = Duration::from_secs(3600);
    let local = swarm.fetch_local_node().await.unwrap();
    assert_eq!(swarm.fetch_local_node_lately(hour).await.unwrap(), local);
    assert_eq!(swarm.clone().is_manager_lately(hour).await, Fact::No);
    assert_eq!(asked(), 1);
    let ask = || swarm.fetch_local_node_lately(Duration::ZERO);
    ask().await.unwrap();
    swarm.fetch_local_node().await.unwrap();
    assert_eq!(asked(), 3, "the kept answer is too old, or not allowed");
}

#[tokio::test(start_paused = true)]
async fn a_docker_that_hangs_is_asked_once_for_all_who_wait() {
    let engine = FakeEngine::start(RELEASES[0]);
    let swarm = engine.swarm();
    swarm.connect().await.unwrap();
    engine.lock().instead.insert("/info", Instead::Silence);
    let begin = tokio::time::Instant::now();
    let ask = || swarm.fetch_local_node_lately(Duration::ZERO);
    let (one, other, third) = tokio::join!(ask(), ask(), ask());
    assert!([one, other, third].iter().all(Result::is_err));
    assert!(begin.elapsed() < 2 * CALL_TIMEOUT, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn an_engine_that_has_no_version_in_common_is_refused_until_it_is_replaced() {
    let newer = release("31.0", "1.60", "1.54");
    let older = release("19.03", "1.40", "1.12");
    for (release, kind, remedy) in [
        (newer, SwarmErrorKind::TooNew, "upgrade skep"),
        (older, SwarmErrorKind::TooOld, "install Docker 20.10 or newer"),
    ] {
        let engine = FakeEngine::start(RELEASES[3]);
        let swarm = engine.swarm();
        state(&swarm).await;
        engine.replace(release);
        for fresh in [false, true] {
            let swarm = if fresh { engine.swarm() } else { swarm.clone() };
            let error = swarm.fetch_local_node().await.unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.message.ends_with(remedy), "{error}");
            let error = swarm.init(spec()).await.unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
        }
        engine.replace(RELEASES[6]);
        assert_eq!(state(&swarm).await, LocalState::Inactive);
    }
}

#[tokio::test]
async fn a_refused_version_is_no_wrong_key() {
    let engine = FakeEngine::start(RELEASES[0]);
    let swarm = engine.swarm();
    swarm.connect().await.unwrap();
    engine.replace(RELEASES[4]);
    let answer = swarm.unlock(&"SWMKEY-1-x".into()).await.unwrap();
    assert_eq!(answer, UnlockAnswer::Unlocked);
    engine.lock().instead.insert("/swarm/unlock", Instead::Refusal(400, "malformed key"));
    let answer = swarm.unlock(&"SWMKEY-1-x".into()).await.unwrap();
    assert_eq!(answer, UnlockAnswer::WrongKey);
}

#[tokio::test]
async fn a_spec_is_never_sent_in_another_version_than_it_was_read_in() {
    let engine = FakeEngine::start(RELEASES[6]);
    let swarm = engine.swarm();
    let services = swarm.fetch_services().await.unwrap();
    engine.replace(RELEASES[0]);
    let error = swarm.update_registry_auth(&services[0], AUTH.into()).await.unwrap_err();
    assert_eq!(error.kind, SwarmErrorKind::Stale, "{error}");
    assert!(engine.lock().done.is_empty());
    renew_credentials(&swarm).await.unwrap();
}

#[tokio::test]
async fn an_engine_that_does_not_say_what_it_speaks_is_no_reason_to_guess() {
    let engine = FakeEngine::start(RELEASES[4]);
    engine.lock().instead.insert("/version", Instead::Refusal(500, "containerd is not there"));
    let error = engine.swarm().fetch_local_node().await.unwrap_err();
    assert_eq!(error.kind, SwarmErrorKind::Other, "{error}");
    assert!(error.message.contains("containerd is not there"), "{error}");
    assert_eq!(engine.lock().asked.len(), 1, "no request is sent without a version");
}

/// The reason for skep's own prefix. Once this test fails, bollard sets the prefix by itself.
#[tokio::test]
async fn bollard_alone_names_no_version() {
    let engine = FakeEngine::start(RELEASES[0]);
    let version = bollard::ClientVersion { major_version: 1, minor_version: 41 };
    let docker = bollard::Docker::connect_with_unix(&engine.host(), 5, &version).unwrap();
    docker.info().await.unwrap();
    assert_eq!(engine.last("GET /info").version, None);
}

#[tokio::test]
async fn a_refusal_without_a_text_is_reported_with_its_status() {
    let engine = FakeEngine::start(RELEASES[0]);
    engine.lock().instead.insert("/info", Instead::Refusal(500, ""));
    let error = engine.swarm().fetch_local_node().await.unwrap_err();
    assert_eq!(error.to_string(), "read /info: status 500");
}

#[tokio::test]
async fn docker_settings_that_exclude_swarm_mode_are_told_apart() {
    use JoinAnswer::{LiveRestore, NftablesFirewall};
    let engine = FakeEngine::start(RELEASES[4]);
    let swarm = engine.swarm();
    for (text, kind, answer) in [
        (
            "--live-restore daemon configuration is incompatible with swarm mode",
            SwarmErrorKind::LiveRestore,
            LiveRestore,
        ),
        (
            "--firewall-backend=nftables is incompatible with swarm mode",
            SwarmErrorKind::NftablesFirewall,
            NftablesFirewall,
        ),
    ] {
        let refusal = Instead::Refusal(500, text);
        engine.lock().instead.extend([("/swarm/init", refusal), ("/swarm/join", refusal)]);
        assert_eq!(swarm.init(spec()).await.unwrap_err().kind, kind);
        assert_eq!(join(&swarm).await, answer);
    }
}

#[tokio::test]
async fn a_leave_that_is_never_answered_is_reported_within_a_minute() {
    let engine = FakeEngine::start(RELEASES[0]);
    let swarm = engine.swarm();
    swarm.init(spec()).await.unwrap();
    engine.lock().instead.insert("/swarm/leave", Instead::Silence);
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let error = swarm.leave(false).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(60));
    assert_eq!(error.kind, SwarmErrorKind::TimedOut, "{error}");
    assert!(error.to_string().starts_with("leave the swarm: Docker has not answered for 40 s"));
    assert!(engine.lock().done.iter().all(|done| done != "POST /swarm/leave"));
}

/// A node chooses its availability when it joins, and swarmkit stores any number; Docker lists it, and refuses it in an
/// update.
#[tokio::test]
async fn an_availability_that_docker_does_not_define_hides_no_node_and_is_replaced_by_the_next_write()
 {
    let engine = FakeEngine::start(RELEASES[0]);
    let swarm = engine.swarm();
    engine.lock().node_spec = json!({ "Role": "worker", "Availability": "7" });
    let nodes = swarm.fetch_nodes().await.unwrap();
    assert_eq!(nodes[0].availability, Availability::Pause, "swarmkit gives it no tasks");
    let label = |labels: &Labels, now| {
        let mut labels = labels.clone();
        labels.insert("a".into(), "b".into());
        Some((labels, now))
    };
    assert!(swarm.relabel("n1", label).await.unwrap());
    let written = engine.last("POST /nodes/n1/update").body;
    assert_eq!((&written["Availability"], &written["Role"]), (&json!("pause"), &json!("worker")));
}

#[tokio::test]
async fn a_list_with_an_entry_that_has_no_id_is_an_error() {
    let engine = FakeEngine::start(RELEASES[0]);
    let nodes = r#"[{ "ID": "n1" }, { "Spec": { "Role": "worker" } }]"#;
    engine.lock().instead.insert("/nodes", Instead::Answer(nodes));
    let error = engine.swarm().fetch_nodes().await.unwrap_err();
    assert_eq!(error.to_string(), "list the nodes: an entry has no id");
}
