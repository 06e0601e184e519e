//! Tests of client and server together, and of the socket as a file.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use time::macros::datetime;
use tokio::sync::mpsc;

use super::*;
use crate::clients::docker::Rotation;
use crate::common::instance::{Departure, Reason, Role};
use crate::common::report::{
    FleetMember, FleetView, Outsider, Outsiders, QuorumView, Rotated, StatusReport, ViewSource,
};
use crate::common::state::{Phase, StateHandle};

pub(super) struct Running {
    pub(super) dir: tempfile::TempDir,
    state: StateHandle,
    pub(super) leave: mpsc::Receiver<LeaveRequest>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    pub(super) fn start(fleet: Option<FleetView>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = StateHandle::default();
        let (sender, leave) = mpsc::channel(1);
        let server = Server::bind(dir.path()).unwrap();
        let fleet = move || std::future::ready(fleet.clone());
        let task = tokio::spawn(server.serve(state.clone(), sender, fleet));
        Self { dir, state, leave, task }
    }

    fn client(&self) -> Client {
        Client::new(socket_path(self.dir.path()))
    }
}

fn fleet() -> FleetView {
    FleetView {
        source: ViewSource::LedgerAndDocker,
        quorum: Some(QuorumView { managers: 3, reachable: 3, may_be_lost: 1 }),
        quorum_lost_since: None,
        members: vec![FleetMember {
            instance_id: Some("i-0abc".into()),
            role: Role::Worker,
            node_id: Some("n1".into()),
            address: Some("10.0.1.7".parse().unwrap()),
            zone: Some("eu-central-1a".into()),
            group: Some("workers".into()),
            generation: Some(2),
            leaving: None,
            state: Some("ready".into()),
            docker_state: Some("ready".into()),
            docker_availability: Some("drain".into()),
            labels: [("skep.zone".into(), "eu-central-1a".into())].into(),
            leader: false,
            hostname: Some("ip-10-0-1-7".into()),
            engine: None,
            joined_at: None,
            departure: Some("lifecycle: draining".into()),
            scheduling_hold: Some("standby".into()),
            verdict: Some("Down for 35 s".into()),
            tasks: Some(3),
            updated_at: Some(datetime!(2026-11-20 10:00 UTC)),
        }],
        problem: Some("the ledger did not answer".into()),
        warnings: vec![],
        departed: vec![],
        outsiders: Some(Outsiders {
            asked_at: datetime!(2026-11-20 09:59 UTC),
            instances: vec![Outsider { instance_id: "i-1".into(), group: "workers".into() }],
        }),
    }
}

#[tokio::test]
async fn status_shows_the_node_and_the_fleet() {
    let running = Running::start(Some(fleet()));
    running.state.enter(Phase::Booting, "waiting for i-0abc to publish the swarm");
    let report: StatusReport<Value> = running.client().status().await.unwrap();
    assert_eq!(report.node["phase"], "booting");
    assert_eq!(report.node["doing"], "waiting for i-0abc to publish the swarm");
    assert_eq!(report.fleet, Some(fleet()));
    let node: Value = running.client().node().await.unwrap();
    assert_eq!(node, report.node);
    let report: StatusReport<Value> = Running::start(None).client().status().await.unwrap();
    assert_eq!(report.fleet, None);
}

#[tokio::test]
async fn leave_reaches_the_agent_once() {
    let mut running = Running::start(None);
    let client = running.client();
    client.leave(Some(Duration::from_millis(59_001)), Some("a new kernel ")).await.unwrap();
    let again = client.leave(None, None).await.unwrap_err();
    assert!(
        matches!(again, ClientError::AlreadyLeaving { .. }),
        "the first request still waits: {again}"
    );
    let request = running.leave.recv().await.unwrap();
    assert_eq!(request.deadline, Some(Duration::from_secs(60)));
    assert_eq!(request.reason.as_deref(), Some("a new kernel"));
    client.leave(None, None).await.unwrap();
    assert_eq!(running.leave.recv().await.unwrap(), LeaveRequest { deadline: None, reason: None });
    let now = time::OffsetDateTime::now_utc();
    let departs = |reason| {
        running.state.update(|state| {
            state.departure = Some(Departure { reason, noticed_at: now, deadline: now });
        });
    };
    departs(Reason::Spot);
    client.leave(None, None).await.unwrap();
    assert!(running.leave.try_recv().is_ok(), "the notice can be withdrawn, this request cannot");
    departs(Reason::Lifecycle);
    let again = client.leave(None, None).await.unwrap_err();
    assert!(again.to_string().starts_with("this node is already leaving: "), "{again}");
    assert!(running.leave.try_recv().is_err(), "a refused request must not arrive");
}

#[tokio::test]
async fn a_node_that_is_leaving_takes_a_nearer_deadline_and_says_that_a_later_one_changes_nothing()
{
    let mut running = Running::start(None);
    let noticed_at = time::OffsetDateTime::now_utc();
    let departure = Departure {
        reason: Reason::Operator,
        noticed_at,
        deadline: noticed_at + Duration::from_secs(600),
    };
    running.state.update(|state| state.departure = Some(departure));
    running.state.enter(Phase::Leaving, "draining");
    let client = running.client();
    let later = client.leave(Some(Duration::from_secs(u64::MAX)), None).await.unwrap_err();
    let ClientError::AlreadyLeaving { doing } = later else { panic!("{later}") };
    assert!(doing.starts_with("already leaving: draining; its deadline in 59"), "{doing}");
    client.leave(Some(Duration::from_secs(60)), None).await.unwrap();
    let deadline = Some(Duration::from_secs(60));
    assert_eq!(running.leave.recv().await.unwrap(), LeaveRequest { deadline, reason: None });
    running.state.enter(Phase::Left, "left");
    let over = client.leave(Some(Duration::from_secs(60)), None).await.unwrap_err();
    assert!(over.to_string().ends_with("already leaving: left"), "{over}");
}

#[tokio::test]
async fn an_agent_that_stops_refuses_and_nonsense_is_refused() {
    let mut running = Running::start(None);
    running.leave.close();
    let error = running.client().leave(None, None).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { status: 503, .. }), "{error}");
    let http = reqwest::Client::builder().unix_socket(socket_path(running.dir.path()));
    let http = http.build().unwrap();
    let escape = r#"{"reason": "\u001b[2J"}"#;
    for (body, code) in [("{\"deadline\": 1}", 400), ("soon", 400), (escape, 400), ("", 503)] {
        let request = http.post("http://skep/leave").body(body);
        assert_eq!(request.send().await.unwrap().status().as_u16(), code, "{body:?}");
    }
    assert_eq!(http.get("http://skep/leave").send().await.unwrap().status().as_u16(), 404);
    assert_eq!(http.get("http://skep/").send().await.unwrap().status().as_u16(), 404);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_hangs_is_a_problem_in_the_report() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, _leave) = mpsc::channel(1);
    let server = Server::bind(dir.path()).unwrap();
    tokio::spawn(server.serve(StateHandle::default(), sender, std::future::pending));
    let client = Client::new(socket_path(dir.path()));
    let report: StatusReport<Value> = client.status().await.unwrap();
    let fleet = report.fleet.unwrap();
    assert_eq!(fleet.source, ViewSource::Nothing);
    assert!(fleet.problem.unwrap().contains("5s"));
    assert_eq!(report.node["phase"], "starting");
}

#[tokio::test]
async fn a_rotation_is_asked_for_and_what_came_of_it_told() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, _leave) = mpsc::channel(1);
    let server = Server::bind(dir.path()).unwrap().rotating(async |what: Rotation| {
        match what.manager_token {
            true => Err("this node is not a manager".to_owned()),
            false => {
                Ok(Rotated { generation: 2, stored_in: vec!["/skep/a/worker-token/2".into()] })
            }
        }
    });
    tokio::spawn(server.serve(StateHandle::default(), sender, || std::future::ready(None)));
    let client = Client::new(socket_path(dir.path()));
    let worker = Rotation { worker_token: true, ..Rotation::default() };
    let rotated = client.rotate(worker).await.unwrap();
    assert_eq!((rotated.generation, rotated.stored_in.len()), (2, 1));
    let refused = client.rotate(Rotation { manager_token: true, ..worker }).await.unwrap_err();
    assert!(refused.to_string().ends_with(": this node is not a manager"), "{refused}");

    let early = Running::start(None).client().rotate(worker).await.unwrap_err();
    assert!(early.to_string().contains("is not known yet"), "{early}");
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn socket_and_directory_are_roots_alone() {
    let dir = tempfile::tempdir().unwrap();
    let runtime_dir = dir.path().join("run/skep");
    let _server = Server::bind(&runtime_dir).unwrap();
    assert_eq!(mode(&socket_path(&runtime_dir)), 0o600);
    assert_eq!(mode(&runtime_dir), 0o700);
}

#[tokio::test]
async fn a_second_skep_is_refused_and_the_first_goes_on() {
    let running = Running::start(None);
    let error = Server::bind(running.dir.path()).unwrap_err();
    assert!(matches!(error, ControlError::AlreadyRunning { .. }), "{error}");
    assert!(error.to_string().contains("another skep is running"), "{error}");
    running.client().status::<Value>().await.unwrap();
}

#[tokio::test]
async fn a_socket_that_was_left_behind_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = socket_path(dir.path());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    std::fs::write(dir.path().join("skep.lock"), "").unwrap();
    let error = Client::new(&path).status::<Value>().await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }), "refused: {error}");
    let (sender, _leave) = mpsc::channel(1);
    let server = Server::bind(dir.path()).unwrap();
    let fleet = || std::future::ready(None);
    let task = tokio::spawn(server.serve(StateHandle::default(), sender, fleet));
    Client::new(&path).status::<Value>().await.unwrap();
    task.abort();
    let _ = task.await;
    assert!(!path.exists(), "a skep that ends removes its socket");
    Server::bind(dir.path()).unwrap();
}

#[tokio::test]
async fn without_skep_the_client_says_so() {
    let running = Running::start(None);
    running.task.abort();
    let client = running.client();
    let _ = running.task.await;
    let error = client.leave(None, None).await.unwrap_err();
    assert!(matches!(&error, ClientError::NotRunning { .. }), "{error}");
    let path = socket_path(running.dir.path());
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_named() {
    let error = Server::bind(Path::new("/proc/nowhere")).unwrap_err();
    assert!(error.to_string().contains("/proc/nowhere"), "{error}");
}
