//! Tests with real executables and real HTTP.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use super::*;
use crate::common::instance::{Departure, Reason, Role};
use crate::config::{self, Inputs};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn settings(pairs: &[(&str, &str)]) -> Settings {
    let variables = pairs.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let dir = tempfile::tempdir().unwrap();
    let inputs = Inputs { directory: Some(dir.path().into()), variables, flags: vec![] };
    config::load(&inputs).unwrap().settings
}

fn leaving() -> StateHandle {
    let state = StateHandle::default();
    let now = time::OffsetDateTime::UNIX_EPOCH + secs(1_700_000_000);
    state.update(|state| {
        state.cluster = Some("prod".into());
        state.role = Some(Role::Worker);
        let deadline = now + secs(60);
        state.departure = Some(Departure { reason: Reason::Spot, noticed_at: now, deadline });
    });
    state
}

fn write(dir: &Path, name: &str, script: &str) {
    let file = dir.join(name);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs the hook scripts of `left`, each with a timeout of 2 s.
async fn run_left(dir: &Path) -> Message {
    let settings = settings(&[
        ("SKEP_HOOK_SCRIPTS_DIR", dir.to_str().unwrap()),
        ("SKEP_HOOK_SCRIPTS_TIMEOUT", "2s"),
    ]);
    let message = Message::new(Event::Left, &leaving().now(), Some("left, and off the node list"));
    hook_scripts::run(&settings.hook_scripts, &message).await;
    message
}

#[tokio::test]
async fn a_hook_reads_the_event_and_the_folder_of_an_event_runs_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    write(dir.path(), "left/20-b", &format!("cat >> {0}.json; echo b >> {0}", out.display()));
    write(dir.path(), "left/10-a", &format!("env > {0}.env; echo a >> {0}", out.display()));
    write(dir.path(), "joined", &format!("echo joined >> {}", out.display()));
    let message = run_left(dir.path()).await;
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "a\nb\n");
    let read: Value =
        serde_json::from_str(&std::fs::read_to_string(dir.path().join("out.json")).unwrap())
            .unwrap();
    assert_eq!(read["id"], message.id.as_str());
    assert_eq!(
        (&read["event"], &read["reason"], &read["role"], &read["node_id"]),
        (&"left".into(), &"spot".into(), &"worker".into(), &Value::Null)
    );
    assert_eq!(read["deadline"], "2023-11-14T22:14:20Z");
    let env = std::fs::read_to_string(dir.path().join("out.env")).unwrap();
    for line in [
        "SKEP_EVENT=left",
        "SKEP_REASON=spot",
        "SKEP_DEADLINE=1700000060",
        "SKEP_CLUSTER=prod",
        "SKEP_OUTCOME=left, and off the node list",
    ] {
        assert!(env.lines().any(|it| it == line), "{line} in {env}");
    }
    assert!(!env.contains("CARGO"), "a hook script must not inherit skep's environment: {env}");
}

fn is_alive(pid_file: &Path) -> bool {
    let pid = std::fs::read_to_string(pid_file).unwrap();
    let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    state.is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn a_hook_that_hangs_forks_or_floods_ends_in_time_with_all_it_has_started() {
    let dir = tempfile::tempdir().unwrap();
    let pid = |name: &str| dir.path().join(name);
    let forks = |name: &str| format!("sleep 600 & echo $! > {}", pid(name).display());
    write(dir.path(), "left/1-hangs", &format!("{}; wait", forks("hangs")));
    write(dir.path(), "left/2-forks", &forks("forks"));
    write(dir.path(), "left/3-floods", &format!("echo $$ > {}; exec yes", pid("floods").display()));
    write(dir.path(), "left/4-fails", "cat > /dev/null; exit 3");
    write(dir.path(), "left/5-last", &format!("echo > {}", pid("last").display()));
    let began = Instant::now();
    run_left(dir.path()).await;
    let took = began.elapsed();
    assert!(took >= secs(4) && took < secs(120), "two timeouts of 2 s: {took:?}");
    tokio::time::sleep(Duration::from_millis(100)).await;
    for name in ["hangs", "forks", "floods"] {
        assert!(!is_alive(&pid(name)), "a process that {name} has started still runs");
    }
    assert!(pid("last").exists(), "failed hook scripts must not stop the next ones");
}

/// A receiver: answers by `answers`, and keeps the requests.
#[derive(Clone)]
struct Receiver {
    answers: Arc<dyn Fn(u32) -> Option<u16> + Send + Sync>,
    asked: Arc<AtomicU32>,
    got: Arc<Mutex<Vec<(String, String)>>>,
    url: String,
}

impl Receiver {
    /// `answers`: the status for the attempt with this number; `None` for no answer.
    async fn start(answers: impl Fn(u32) -> Option<u16> + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/T0KEN/in-the-path", listener.local_addr().unwrap());
        let (asked, got) = Default::default();
        let receiver = Self { answers: Arc::new(answers), asked, got, url };
        let app = Router::new().fallback(post(receive)).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        receiver
    }

    fn webhook(&self, dir: &Path, more: &[(&str, &str)]) -> Webhook {
        let (url, secret) = (dir.join("url"), dir.join("secret"));
        keep_private(&url, &self.url);
        keep_private(&secret, "hive\n");
        let mut pairs = vec![
            ("SKEP_WEBHOOK_URL_FILE", url.to_str().unwrap()),
            ("SKEP_WEBHOOK_SECRET_FILE", secret.to_str().unwrap()),
            ("SKEP_WEBHOOK_TIMEOUT", "500ms"),
        ];
        pairs.extend(more);
        Webhook::new(&settings(&pairs).webhook).unwrap()
    }
}

fn keep_private(path: &Path, content: &str) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: String) -> StatusCode {
    let number = receiver.asked.fetch_add(1, Ordering::SeqCst);
    let signature = headers["x-skep-signature"].to_str().unwrap().to_owned();
    receiver.got.lock().unwrap().push((signature, body));
    match (receiver.answers)(number) {
        Some(status) => StatusCode::from_u16(status).unwrap(),
        None => std::future::pending().await,
    }
}

fn left() -> Message {
    Message::new(Event::Left, &leaving().now(), None)
}

#[tokio::test]
async fn a_delivery_is_signed_and_tried_again_until_it_has_arrived() {
    let receiver = Receiver::start(|n| [Some(503), None, Some(204)][n as usize]).await;
    let dir = tempfile::tempdir().unwrap();
    let message = left();
    receiver.webhook(dir.path(), &[]).deliver(&message).await;
    let got = receiver.got.lock().unwrap().clone();
    assert_eq!(got.len(), 3, "refused, not answered, accepted");
    for (signature, body) in &got {
        assert_eq!(*body, message.json(), "the same body and id each time");
        let time = signature.strip_prefix("t=").unwrap().split_once(',').unwrap().0;
        let time: i64 = time.parse().unwrap();
        assert!((time::OffsetDateTime::now_utc().unix_timestamp() - time).abs() < 60);
        assert_eq!(*signature, signature::sign(b"hive", time, body));
        assert_ne!(*signature, signature::sign(b"wasp", time, body));
    }
}

#[tokio::test]
async fn one_that_never_answers_is_given_up_in_time_and_one_that_refuses_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(|_| None).await;
    let began = Instant::now();
    receiver.webhook(dir.path(), &[("SKEP_WEBHOOK_GIVE_UP_AFTER", "3s")]).deliver(&left()).await;
    assert!(began.elapsed() < secs(60), "{:?}", began.elapsed());
    assert!(receiver.asked.load(Ordering::SeqCst) >= 2);

    let refuses = Receiver::start(|_| Some(400)).await;
    refuses.webhook(dir.path(), &[]).deliver(&left()).await;
    assert_eq!(refuses.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_https_address_is_spoken_to_in_tls() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let (asked, got) = Default::default();
    let receiver = Receiver { answers: Arc::new(|_| None), asked, got, url };
    let dir = tempfile::tempdir().unwrap();
    let webhook = receiver.webhook(dir.path(), &[("SKEP_WEBHOOK_GIVE_UP_AFTER", "1s")]);
    let hello = async {
        /// The record type of a handshake (RFC 8446, 5.1), followed by its version.
        const HANDSHAKE: [u8; 2] = [0x16, 0x03];
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut first = [0; 2];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(first, HANDSHAKE);
    };
    let message = left();
    tokio::join!(hello, webhook.deliver(&message));
}

#[tokio::test]
async fn a_secret_or_an_address_that_everybody_may_read_sends_nothing_and_is_not_shown() {
    let receiver = Receiver::start(|_| Some(200)).await;
    let dir = tempfile::tempdir().unwrap();
    let webhook = receiver.webhook(dir.path(), &[]);
    for name in ["secret", "url"] {
        let file = dir.path().join(name);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = webhook.read_files().await.unwrap_err();
        let shown = format!("{webhook:?} {error:?} {}", crate::common::errors::chain(&error));
        assert!(shown.contains("chmod 400"), "{shown}");
        assert!(!shown.contains("T0KEN") && !shown.contains("hive"), "{shown}");
        webhook.deliver(&left()).await;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    assert_eq!(receiver.asked.load(Ordering::SeqCst), 0);
    webhook.deliver(&left()).await;
    assert_eq!(receiver.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_new_address_is_used_from_the_next_attempt_on() {
    let (former, new) =
        (Receiver::start(|_| Some(503)).await, Receiver::start(|_| Some(200)).await);
    let dir = tempfile::tempdir().unwrap();
    let webhook = former.webhook(dir.path(), &[]);
    let change = async {
        while former.asked.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        keep_private(&dir.path().join("url"), &new.url);
    };
    let message = left();
    tokio::join!(webhook.deliver(&message), change);
    assert_eq!(new.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn hooks_keep_their_order_and_nobody_waits_longer_than_was_said() {
    let receiver = Receiver::start(|_| None).await;
    let dir = tempfile::tempdir().unwrap();
    drop(receiver.webhook(dir.path(), &[]));
    let out = dir.path().join("out");
    for event in Event::ALL {
        write(
            dir.path(),
            &format!("hooks/{}", event.as_str()),
            &format!("echo $SKEP_EVENT >> {}", out.display()),
        );
    }
    let hooks = dir.path().join("hooks");
    let (url, secret) = (dir.path().join("url"), dir.path().join("secret"));
    let settings = settings(&[
        ("SKEP_HOOK_SCRIPTS_DIR", hooks.to_str().unwrap()),
        ("SKEP_WEBHOOK_URL_FILE", url.to_str().unwrap()),
        ("SKEP_WEBHOOK_SECRET_FILE", secret.to_str().unwrap()),
    ]);
    let mut tasks = JoinSet::new();
    let events = Events::start(&settings, &leaving(), &mut tasks);
    let began = Instant::now();
    for event in [Event::Joined, Event::Departing, Event::Drained, Event::Failed, Event::Failed] {
        events.tell(event, None);
    }
    assert!(began.elapsed() < secs(3), "sending must not wait");
    events.settle(secs(3)).await;
    assert!(
        began.elapsed() >= secs(3) && began.elapsed() < secs(60),
        "the delivery to the webhook has not ended"
    );
    let told = std::fs::read_to_string(&out).unwrap();
    assert_eq!(told, "joined\ndeparting\ndrained\nfailed\n", "a failure is sent once");
    assert!(receiver.asked.load(Ordering::SeqCst) >= 4, "deliveries run in parallel");
}

#[tokio::test]
async fn without_hooks_and_webhook_there_is_nothing_to_wait_for() {
    let mut tasks = JoinSet::new();
    let settings = settings(&[("SKEP_HOOK_SCRIPTS_DIR", "/nonexistent")]);
    let events = Events::start(&settings, &leaving(), &mut tasks);
    let began = Instant::now();
    events.tell(Event::Left, None);
    events.settle(secs(30)).await;
    assert!(began.elapsed() < secs(20));
}
