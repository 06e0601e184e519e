//! The load balancer carries real connections between sockets of this process. The instances' addresses are those of
//! the loopback network, so that no network namespace is needed.

mod bench;

use std::time::Duration;

use bench::{Bench, Client, soon};
use skep_sim::cloud::{
    EventKind, FlowCounts, HealthCheckType, HookSpec, LifecycleState, TargetGroupAttributes,
    TargetState, Transition,
};

/// Attributes with a deregistration delay that passes within a test.
fn quick() -> TargetGroupAttributes {
    TargetGroupAttributes {
        deregistration_delay: Duration::from_millis(300),
        ..TargetGroupAttributes::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_are_spread_over_the_healthy_targets() {
    let bench = Bench::start(3, quick()).await;
    bench.all_healthy().await;
    bench.servers[2].refuse_health(true);
    bench.until(2, TargetState::Unhealthy).await;
    for _ in 0..60 {
        let mut client = Client::connect(&bench).await;
        assert!([0, 1].contains(&client.server().await));
        client.close().await;
    }
    for number in [0, 1] {
        assert!(bench.cloud.flows_of(bench.id(number)).opened > 10);
    }
    soon(|| bench.cloud.flows().open == 0).await;
    let flows = bench.cloud.flows();
    assert_eq!(flows, FlowCounts { opened: 60, closed: 60, ..FlowCounts::default() });
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_healthy_target_flows_go_to_all_and_without_any_they_are_refused() {
    let bench = Bench::start(2, quick()).await;
    for number in [0, 1] {
        bench.servers[number].refuse_health(true);
        bench.until(number, TargetState::Unhealthy).await;
    }
    let mut seen = [false; 2];
    while seen != [true; 2] {
        seen[Client::connect(&bench).await.server().await] = true;
    }
    for number in [0, 1] {
        bench.cloud.deregister_target(&bench.target_group, bench.id(number)).unwrap();
    }
    assert!(Client::connect(&bench).await.is_cut().await);
    assert_eq!(bench.cloud.flows().unplaced, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_target_keeps_its_flows_beyond_the_delay_and_gets_no_new_ones() {
    let bench = Bench::start(2, quick()).await;
    bench.all_healthy().await;
    let mut old = Client::of(&bench, 0).await;
    bench.cloud.deregister_target(&bench.target_group, bench.id(0)).unwrap();
    for _ in 0..20 {
        assert_eq!(Client::connect(&bench).await.server().await, 1);
    }
    assert!(old.echoes().await);
    bench.until(0, TargetState::Unused).await;
    assert!(old.echoes().await, "connection termination is not enabled");
    assert_eq!(Client::connect(&bench).await.server().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_termination_cuts_flows_at_the_end_of_the_delay() {
    let attributes = TargetGroupAttributes { connection_termination: true, ..quick() };
    let bench = Bench::start(2, attributes).await;
    bench.all_healthy().await;
    let mut old = Client::of(&bench, 0).await;
    let mut other = Client::of(&bench, 1).await;
    let mut events = bench.cloud.subscribe();
    bench.cloud.deregister_target(&bench.target_group, bench.id(0)).unwrap();
    assert!(old.is_cut().await);
    let is_over =
        |kind: &EventKind| matches!(kind, EventKind::TargetHealth { to: TargetState::Unused, .. });
    let mut is_seen = false;
    while let Ok(event) = events.try_recv() {
        is_seen |= is_over(&event.kind);
    }
    assert!(is_seen, "the flow was cut before the end of the delay");
    assert!(other.echoes().await);
    assert_eq!(bench.cloud.flows_of(bench.id(0)).cut_deregistered, 1);
    assert_eq!(bench.cloud.flows().cut(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unhealthy_targets_flows_are_cut_unless_the_attribute_is_off() {
    for terminates in [true, false] {
        let attributes = TargetGroupAttributes {
            unhealthy_connection_termination: terminates,
            ..TargetGroupAttributes::default()
        };
        let bench = Bench::start(2, attributes).await;
        bench.all_healthy().await;
        let mut client = Client::of(&bench, 0).await;
        bench.servers[0].refuse_health(true);
        bench.until(0, TargetState::Unhealthy).await;
        if terminates {
            assert!(client.is_cut().await);
        } else {
            assert!(client.echoes().await);
        }
        assert_eq!(bench.cloud.flows_of(bench.id(0)).cut_unhealthy, u64::from(terminates));
        bench.servers[0].refuse_health(false);
        bench.until(0, TargetState::Healthy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_target_that_becomes_unhealthy_loses_its_flows_before_the_delay_ends() {
    // AWS's delay of five minutes: it is not what ends the flow.
    let bench = Bench::start(2, TargetGroupAttributes::default()).await;
    bench.all_healthy().await;
    let mut client = Client::of(&bench, 0).await;
    bench.cloud.deregister_target(&bench.target_group, bench.id(0)).unwrap();
    assert!(client.echoes().await);
    bench.servers[0].refuse_health(true);
    assert!(client.is_cut().await);
    assert_eq!(bench.health(0), TargetState::Draining);
    assert_eq!(bench.cloud.flows_of(bench.id(0)).cut_unhealthy, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_interval_delays_the_cut_of_an_unhealthy_targets_flows() {
    let attributes = TargetGroupAttributes {
        unhealthy_connection_termination: false,
        unhealthy_draining_interval: Duration::from_millis(300),
        ..TargetGroupAttributes::default()
    };
    let bench = Bench::start(2, attributes).await;
    bench.all_healthy().await;
    let mut client = Client::of(&bench, 0).await;
    let mut events = bench.cloud.subscribe();
    bench.servers[0].refuse_health(true);
    assert!(client.is_cut().await);
    let mut states = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let EventKind::TargetHealth { to, .. } = event.kind {
            states.push(to);
        }
    }
    assert_eq!(states, [TargetState::UnhealthyDraining, TargetState::Unhealthy]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_accepts_no_connection_is_a_failed_connect() {
    let mut bench = Bench::start(1, quick()).await;
    bench.all_healthy().await;
    bench.servers[0].close_traffic().await;
    assert!(Client::connect(&bench).await.is_cut().await);
    let flows = bench.cloud.flows_of(bench.id(0));
    assert_eq!((flows.failed_connects, flows.opened), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_load_balancer_and_a_terminated_instance_end_their_flows() {
    let bench = Bench::start(2, quick()).await;
    bench.all_healthy().await;
    let (mut first, mut second) = (Client::of(&bench, 0).await, Client::of(&bench, 1).await);
    bench.cloud.crash(bench.id(0)).unwrap();
    assert!(first.is_cut().await);
    assert_eq!(bench.cloud.flows_of(bench.id(0)).cut_gone, 1);
    assert!(second.echoes().await);
    bench.cloud.delete_load_balancer("front").unwrap();
    assert!(second.is_cut().await);
    assert_eq!(bench.cloud.flows_of(bench.id(1)).cut_unlistened, 1);
    soon_refused(&bench).await;
}

/// The socket closes a moment after the listener is deleted.
async fn soon_refused(bench: &Bench) {
    while tokio::net::TcpStream::connect(bench.listener).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hooks_of_a_termination_start_when_the_deregistration_is_over() {
    let bench = Bench::start(2, quick()).await;
    bench.all_healthy().await;
    let hook = HookSpec::new("nodes", "drain", Transition::Terminating);
    bench.cloud.put_hook(hook).unwrap();
    let mut client = Client::of(&bench, 0).await;
    let events = bench.cloud.events_since(0).len();
    bench.cloud.terminate(bench.id(0), true).unwrap();
    let lifecycle = || bench.cloud.instance(bench.id(0)).unwrap().lifecycle;
    soon(|| lifecycle() == LifecycleState::TerminatingWait).await;
    let of_victim: Vec<EventKind> = bench
        .cloud
        .events_since(events)
        .into_iter()
        .map(|event| event.kind)
        .filter(|kind| kind.instance_id() == Some(bench.id(0)))
        .collect();
    let (instance_id, group) = (bench.id(0).to_owned(), "nodes".to_owned());
    let target_group = "web".to_owned();
    let moved = |from, to| {
        let (instance_id, group) = (instance_id.clone(), group.clone());
        EventKind::LifecycleChanged { instance_id, group, from, to }
    };
    let target = |from, to| {
        let (instance_id, target_group) = (instance_id.clone(), target_group.clone());
        EventKind::TargetHealth { instance_id, target_group, from, to }
    };
    assert_eq!(
        of_victim,
        [
            moved(LifecycleState::InService, LifecycleState::Terminating),
            target(TargetState::Healthy, TargetState::Draining),
            target(TargetState::Draining, TargetState::Unused),
            EventKind::HookStarted {
                instance_id: instance_id.clone(),
                hook: "drain".to_owned(),
                transition: Transition::Terminating,
                heartbeat_timeout_ms: 3_600_000,
            },
            moved(LifecycleState::Terminating, LifecycleState::TerminatingWait),
        ]
    );
    assert!(client.echoes().await, "the node still serves the flow while its hook waits");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_with_elb_health_checks_replaces_an_unhealthy_instance() {
    let bench = Bench::with(2, quick(), HealthCheckType::Elb).await;
    bench.all_healthy().await;
    let mut events = bench.cloud.subscribe();
    bench.servers[0].refuse_health(true);
    let replaced = async {
        loop {
            if let EventKind::Replaced { old, .. } = events.recv().await.unwrap().kind {
                return old;
            }
        }
    };
    let replaced = tokio::time::timeout(bench::PATIENCE, replaced).await.unwrap();
    assert_eq!(replaced, bench.id(0));
}
