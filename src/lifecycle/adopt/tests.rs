//! Tests of the decision: what is refused, what blocks, and what is only reported.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use time::OffsetDateTime;

use super::conflicts::conflicts;
use super::decide::plan;
use super::*;
use crate::clients::aws::ec2::Ec2Instance;
use crate::clients::docker::{
    CLUSTER_LABEL, Cluster, Engine, LocalNode, LocalState, NodeView, RaftView, Tokens,
};
use crate::clients::ledger::{Charter, CharterPhase, Traces};
use crate::common::instance::{Role, Tags};

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
const SWARM: &str = "swarm";

fn address(n: u8) -> IpAddr {
    [10, 0, 0, n].into()
}

fn view(n: u8, role: Role) -> NodeView {
    NodeView {
        hostname: format!("host-{n}"),
        address: Some(address(n).to_string()),
        ..NodeView::example(&format!("n{n}"), role)
    }
}

fn instance(n: u8, role: &str) -> Ec2Instance {
    let tag = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let mut instance = Ec2Instance::example(&format!("i-{n}"), address(n));
    instance.tags = Tags::from([tag("skep:role", role), tag("skep:cluster", "prod")]);
    instance
}

/// Two managers and a worker, made by hand; the ledger is empty.
fn seen() -> Observed {
    let local = LocalNode {
        state: LocalState::Active,
        node_id: Some("n1".into()),
        swarm_id: Some(SWARM.into()),
        is_manager: true,
        has_managers: true,
        managers: vec![],
        error: String::new(),
        address: Some(address(1).to_string()),
        live_restore: false,
    };
    let cluster = Cluster {
        id: SWARM.into(),
        created_at: None,
        labels: HashMap::new(),
        tokens: Tokens { worker: "w".into(), manager: "m".into() },
        is_autolocked: false,
    };
    let nodes = vec![view(1, Role::Manager), view(2, Role::Manager), view(3, Role::Worker)];
    let instances = vec![instance(1, "manager"), instance(2, "manager"), instance(3, "worker")];
    let managers = [1, 2].map(|n| (address(n), 2377).into()).into();
    let engine = Engine { managers, data_path_port: Some(4789), ..Engine::default() };
    Observed {
        me: "i-1".into(),
        cluster: "prod".into(),
        role: Role::Manager,
        address: address(1),
        wants_autolock: false,
        charter: None,
        traces: Traces::default(),
        rivals: [].into(),
        has_row: false,
        unreadable: [].into(),
        local,
        swarm: Some(SwarmSeen { cluster, nodes, engine, instances: Ok(instances) }),
        token_place: "SSM".into(),
        now: NOW,
    }
}

fn swarm(seen: &mut Observed) -> &mut SwarmSeen {
    seen.swarm.as_mut().unwrap()
}

fn charter(phase: CharterPhase, founder: &str, swarm_id: Option<&str>) -> Charter {
    let claim = Charter::claim(None, &Traces::default(), founder, NOW, Duration::from_secs(60));
    Charter { phase, generation: 4, swarm_id: swarm_id.map(str::to_owned), ..claim }
}

#[test]
fn a_swarm_made_by_hand_is_adopted_under_the_next_generation() {
    let mut seen = seen();
    assert_eq!(decide(&seen), Ok(1));
    let shown = plan(&seen, &decide(&seen));
    assert_eq!((shown.nodes.len(), shown.conflicts.len(), shown.refusal), (3, 0, None));
    assert!(shown.steps.concat().contains("skep.cluster=prod, skep.generation=1 and"));
    seen.traces.highest = 7;
    assert_eq!(decide(&seen), Ok(8), "rows name an earlier swarm");
    seen.charter = Some(charter(CharterPhase::Closed, "i-9", Some("former")));
    seen.traces.highest = 0;
    assert_eq!(decide(&seen), Ok(5), "its swarm no longer exists");
}

/// Their managers may live, and a claim without a charter would have their nodes leave them.
#[test]
fn swarms_that_no_charter_names_are_not_given_up() {
    let mut seen = seen();
    seen.traces.swarms = ["another".to_owned()].into();
    assert!(matches!(decide(&seen), Err(Refusal::Traces { swarms }) if swarms == "another"));
    seen.charter = Some(charter(CharterPhase::Closed, "i-9", Some("former")));
    assert_eq!(decide(&seen), Ok(5));
}

#[test]
fn an_adoption_that_was_cut_off_goes_on_and_that_of_another_manager_is_waited_for() {
    let mut seen = seen();
    let claim = charter(CharterPhase::Founding, "i-1", None);
    let of = |swarm: &str| Charter { adopts: Some(swarm.into()), ..claim.clone() };
    seen.charter = Some(of(SWARM));
    assert_eq!(decide(&seen), Ok(4), "its own claim");
    seen.now += Duration::from_secs(61);
    assert_eq!(decide(&seen), Ok(5), "others can claim, too");
    seen.now = NOW;
    for another in [of("another"), claim.clone()] {
        seen.charter = Some(another);
        assert!(matches!(decide(&seen), Err(Refusal::Claimed { .. })));
    }
    seen.charter = Some(charter(CharterPhase::Founding, "i-2", None));
    assert!(matches!(decide(&seen), Err(Refusal::Claimed { .. })));
    seen.now += Duration::from_secs(61);
    assert_eq!(decide(&seen), Ok(5), "the lease has expired");
    let recovery =
        Charter { recovers: Some(SWARM.into()), ..charter(CharterPhase::Founding, "i-2", None) };
    seen.charter = Some(recovery);
    assert!(
        matches!(decide(&seen), Err(Refusal::Claimed { .. })),
        "its founder has the only state"
    );
}

/// Each change of the good case, and the refusal that it causes.
#[test]
fn what_is_not_this_clusters_is_refused() {
    let refused = |change: &dyn Fn(&mut Observed)| {
        let mut seen = seen();
        change(&mut seen);
        let refusal = decide(&seen).unwrap_err();
        let shown = plan(&seen, &Err(refusal.clone()));
        assert!(shown.steps.is_empty() && shown.generation.is_none());
        assert_eq!(shown.refusal, Some(refusal.to_string()));
        refusal
    };
    let open = |swarm: &str| Some(charter(CharterPhase::Open, "i-9", Some(swarm)));
    assert_eq!(refused(&|seen| seen.local.live_restore = true), Refusal::LiveRestore);
    assert_eq!(refused(&|seen| seen.local.node_id = None), Refusal::InNoSwarm);
    assert_eq!(refused(&|seen| seen.local.is_manager = false), Refusal::NotManager);
    assert_eq!(refused(&|seen| seen.role = Role::Worker), Refusal::Worker);
    assert_eq!(refused(&|seen| seen.swarm = None), Refusal::NoLeader);
    let adopted = Refusal::Adopted { generation: 4 };
    assert_eq!(refused(&|seen| seen.charter = open(SWARM)), adopted);
    let other = refused(&|seen| seen.charter = open("another"));
    assert!(other.to_string().contains("another"), "{other}");
    let labelled = refused(&|seen| {
        let labels = &mut swarm(seen).cluster.labels;
        labels.insert(CLUSTER_LABEL.to_owned(), "test".to_owned());
    });
    assert_eq!(labelled, Refusal::OtherCluster { cluster: "test".into() });
    let rivals = refused(&|seen| seen.rivals = ["i-7".to_owned()].into());
    assert!(rivals.to_string().contains("i-7"), "{rivals}");
    let unreadable = refused(&|seen| seen.unreadable = ["member#x".to_owned()].into());
    assert!(unreadable.to_string().contains("member#x"), "{unreadable}");
}

/// Each change of the good case, a word of the conflict that it causes, and whether that blocks the adoption.
#[test]
fn conflicts_are_found_and_only_some_of_them_block() {
    type Change<'a> = &'a dyn Fn(&mut Observed);
    let unreachable = RaftView { is_leader: false, is_reachable: false };
    let cases: [(&str, &str, bool, Change<'_>); 14] = [
        ("swarm", "another port", true, &|seen| {
            swarm(seen).engine.managers[1] = (address(2), 2378).into();
        }),
        ("swarm", "EC2 did not list", true, &|seen| swarm(seen).instances = Err("denied".into())),
        ("swarm", "UDP port 5789", false, &|seen| swarm(seen).engine.data_path_port = Some(5789)),
        ("swarm", "do not lock", false, &|seen| seen.wants_autolock = true),
        ("swarm", "lock themselves", false, &|seen| swarm(seen).cluster.is_autolocked = true),
        ("host-2", "not private", true, &|seen| {
            swarm(seen).nodes[1].address = Some("3.120.1.1".into());
        }),
        ("host-3", "not private", false, &|seen| {
            swarm(seen).nodes[2].address = Some("3.120.1.1".into());
        }),
        ("host-1", "for this node", true, &|seen| seen.address = address(9)),
        ("host-2", "member of raft", false, &|seen| {
            swarm(seen).nodes[1].raft = Some(unreachable);
        }),
        ("host-3", "down", false, &|seen| swarm(seen).nodes[2].state = "down".into()),
        ("host-3", "without an address", false, &|seen| swarm(seen).nodes[2].address = None),
        ("host-3", "no instance", false, &|seen| {
            swarm(seen).instances.as_mut().unwrap().truncate(2);
        }),
        ("host-3", "name the role manager", false, &|seen| {
            let tags = &mut swarm(seen).instances.as_mut().unwrap()[2].tags;
            tags.insert("skep:role".into(), "manager".into());
        }),
        ("host-2", "several addresses", false, &|seen| {
            let instance = &mut swarm(seen).instances.as_mut().unwrap()[1];
            instance.primary = Some(address(99));
        }),
    ];
    for (subject, word, blocks, change) in cases {
        let mut seen = seen();
        change(&mut seen);
        let found = conflicts(&seen, seen.swarm.as_ref().unwrap());
        let [one] = &found[..] else { panic!("{word}: {found:?}") };
        assert_eq!((one.subject.as_str(), one.blocks), (subject, blocks), "{found:?}");
        assert!(one.what.contains(word), "{word}: {found:?}");
        match decide(&seen) {
            Err(Refusal::Conflicts { nodes }) => assert!(blocks && nodes == subject, "{nodes}"),
            decision => assert!(!blocks && decision == Ok(1), "{word}: {decision:?}"),
        }
    }
}

/// Docker for AWS names the role of its instances by tags of its own.
#[test]
fn the_tags_of_docker_for_aws_name_cluster_and_role() {
    let mut seen = seen();
    let tag = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let tags = &mut swarm(&mut seen).instances.as_mut().unwrap()[2].tags;
    *tags = Tags::from([tag("swarm-node-type", "worker"), tag("swarm-stack-id", "legacy")]);
    let shown = plan(&seen, &decide(&seen));
    assert_eq!(shown.nodes[2].role_by_tags, Some(Role::Worker));
    let [conflict] = &shown.conflicts[..] else { panic!("{:?}", shown.conflicts) };
    assert!(conflict.what.contains("name the cluster legacy"), "{conflict:?}");
}
