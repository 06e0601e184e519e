//! A node that is out of the swarm without a notice detects it, and joins again; a node that only has a bad network
//! stays as it is.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use bollard::models::{NodeState, SwarmJoinRequest};
use bollard::query_parameters::{DeleteNodeOptionsBuilder, LeaveSwarmOptionsBuilder};
use harness::PATIENCE;
use harness::departures::{Leaver, node_id};
use harness::secs;
use harness::swarm::{self, CLUSTER};
use serde_json::json;
use skep_sim::fleet::{Fleet, FleetOptions, Instance};

/// The promised time.
/// Managers need 45 s to be sure, and a worker that reaches a manager reads the ledger every three minutes.
const BACK_WITHIN: Duration = secs(330);
/// Several polls.
const BAD_DAY: Duration = secs(90);
/// The log line of a node that has detected it.
const NOTICED: &str = "no longer in the cluster's swarm";

/// Waits until a manager lists the instance's node as ready, under another id than `before`.
pub async fn is_back(
    fleet: &Fleet,
    instance: &Arc<Instance>,
    before: &str,
    patience: Duration,
) -> anyhow::Result<()> {
    fleet
        .wait_until(&format!("{} to be back", instance.id()), patience, async || {
            let own = node_id(instance).await?;
            let nodes = fleet.nodes().await?;
            let listed = nodes.iter().find(|node| node.id.as_ref() == Some(&own));
            let state = listed.and_then(|node| node.status.as_ref()?.state);
            Ok(own != before && state == Some(NodeState::READY))
        })
        .await?;
    swarm::logged(fleet, instance, "phase=\"ready\"").await?;
    assert_eq!(instance.exit_codes(), Vec::<i32>::new(), "the same process");
    assert_eq!(swarm::said(fleet, instance.id()).0, ["SUCCESS"], "nothing is reported twice");
    Ok(())
}

#[tokio::test]
async fn who_was_taken_out_by_hand_comes_back_and_who_is_cut_off_is_left_alone()
-> anyhow::Result<()> {
    // A node that leaves and joins again removes and creates Docker's part for published ports.
    let options = FleetOptions { ingress: true, ..harness::options() };
    let fleet = swarm::standing(options, 1, 3).await?;
    let workers = fleet.group(&format!("{CLUSTER}-workers"));
    let [removed, left, isolated] = workers.as_slice() else { anyhow::bail!("three workers") };
    let before = (node_id(removed).await?, node_id(left).await?, node_id(isolated).await?);

    isolated.isolate(true)?;
    let begin = tokio::time::Instant::now();
    let force = DeleteNodeOptionsBuilder::default().force(true).build();
    fleet.manager_docker().await?.delete_node(&before.0, Some(force)).await?;
    left.docker()?.leave_swarm(Some(LeaveSwarmOptionsBuilder::default().build())).await?;
    let place = swarm::place(removed).await?;
    println!("removed by force: {:?}, error {:?}", place.local_node_state, place.error);

    is_back(&fleet, left, &before.1, PATIENCE).await?;
    println!("back after leaving by hand: {:.1} s", begin.elapsed().as_secs_f64());
    let rest = BACK_WITHIN.saturating_sub(begin.elapsed());
    is_back(&fleet, removed, &before.0, rest).await?;
    println!("back after node rm --force: {:.1} s", begin.elapsed().as_secs_f64());

    tokio::time::sleep_until(begin + BAD_DAY).await;
    let place = swarm::place(isolated).await?;
    println!("isolated: {:?}, error {:?}", place.local_node_state, place.error);
    isolated.isolate(false)?;
    fleet
        .wait_until("it to be well", PATIENCE, async || {
            let nodes = fleet.nodes().await?;
            let own = nodes.iter().find(|node| node.id.as_ref() == Some(&before.2));
            Ok(own.and_then(|node| node.status.as_ref()?.state) == Some(NodeState::READY))
        })
        .await?;
    assert_eq!(node_id(isolated).await?, before.2);
    ensure!(!isolated.log().contains(NOTICED), "{}", isolated.log());
    fleet.stop().await
}

/// Docker learns about new managers from those that it knows. If all of them were replaced while a worker was cut off,
/// it would be Down for ever.
#[tokio::test]
async fn a_worker_whose_managers_have_all_been_replaced_meanwhile_joins_anew() -> anyhow::Result<()>
{
    let fleet = swarm::standing(harness::options(), 1, 1).await?;
    let worker = fleet.group(&format!("{CLUSTER}-workers")).remove(0);
    let before = node_id(&worker).await?;
    let old = Leaver::of(&fleet.group(&format!("{CLUSTER}-managers"))[0]).await?;
    worker.isolate(true)?;
    swarm::resize(&fleet, "manager", 2)?;
    let new = swarm::newest(&fleet, "manager", 2).await?;
    swarm::ready(&fleet, &new).await?;
    fleet.cloud().terminate(old.id(), true)?;
    old.has_left_by_its_hook(&fleet).await?;
    worker.isolate(false)?;

    is_back(&fleet, &worker, &before, PATIENCE).await?;
    ensure!(worker.log().contains("no manager that Docker knows here listens"), "{}", worker.log());
    swarm::whole(&fleet, 1, 1).await?;
    fleet.stop().await
}

/// The report of a last manager that has died came late, when another had taken its place: skep opens the charter again
/// for the living swarm. No manager opens a charter that was closed by hand under a later generation: the next manager
/// founds another swarm, and workers of the older generation join it. A manager whose swarm has a leader stays: the
/// operator decides which of the two swarms ends.
#[tokio::test]
async fn a_late_close_is_taken_back_and_an_older_generation_moves_over() -> anyhow::Result<()> {
    let options = FleetOptions { one_swarm: false, ..harness::options() };
    let fleet = swarm::standing(options, 1, 1).await?;
    let open = swarm::charter(&fleet).await?;
    let mut charter = swarm::rows(&fleet, CLUSTER, "charter").await?.pop().expect("a charter");
    let old = charter["swarm_id"].clone();
    charter.insert("phase".into(), json!("closed"));
    swarm::put_row(&fleet, &charter).await?;
    fleet
        .wait_until("the charter to be open again", PATIENCE, async || {
            Ok(swarm::charter(&fleet).await? == open)
        })
        .await?;
    swarm::whole(&fleet, 1, 1).await?;

    charter.insert("generation".into(), json!(2));
    swarm::put_row(&fleet, &charter).await?;
    swarm::resize(&fleet, "manager", 2)?;
    let second = swarm::newest(&fleet, "manager", 2).await?;
    swarm::ready(&fleet, &second).await?;
    let managers = fleet.group(&format!("{CLUSTER}-managers"));
    let first = managers.iter().find(|it| it.id() != second.id()).expect("the first one");
    swarm::logged(&fleet, first, "this manager's swarm has a leader").await?;
    ensure!(swarm::swarm_of(first).await?.is_some(), "it is still in its swarm");
    let force = LeaveSwarmOptionsBuilder::default().force(true).build();
    first.docker()?.leave_swarm(Some(force)).await?;
    fleet
        .wait_until("one swarm of three", PATIENCE, async || {
            Ok(swarm::whole(&fleet, 2, 1).await.is_ok())
        })
        .await?;
    let next = swarm::charter(&fleet).await?.expect("a charter");
    assert_eq!((next.generation, next.founder.as_str()), (3, second.id()));
    assert_ne!(json!(next.swarm_id), old);
    fleet.stop().await
}

/// Replaces the node's certificate by one of the same name that expired years ago; runs in the folder of the
/// certificates.
const EXPIRE: &str = r#"
set -e
printf '[ca]\ndefault_ca=c\n[c]\ndatabase=i\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\npolicy=p\n[p]\norganizationName=supplied\norganizationalUnitName=supplied\ncommonName=supplied\n' > c
: > i
subject=$(openssl x509 -in swarm-node.crt -noout -subject -nameopt compat | sed 's/^subject=//')
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout k -subj "$subject" -out r
openssl ca -batch -notext -config c -selfsign -keyfile k -in r -startdate 20200101000000Z -enddate 20200201000000Z -out swarm-node.crt
cp k swarm-node.key
rm -f c i* k r *.pem
"#;

/// Stops Docker on the instance, and starts it with an expired certificate.
pub async fn expire(instance: &Arc<Instance>) -> anyhow::Result<()> {
    let root = instance.docker()?.info().await?.docker_root_dir.expect("a data root");
    instance.stop_dockerd().await?;
    swarm::sh(instance, &format!("cd {root}/swarm/certificates\n{EXPIRE}")).await?;
    instance.start_dockerd()?;
    instance.wait_docker().await?;
    Ok(())
}

/// Like an instance that was stopped for longer than a certificate is valid.
#[tokio::test]
async fn a_worker_whose_certificate_has_expired_joins_anew() -> anyhow::Result<()> {
    let fleet = swarm::standing(harness::options(), 1, 1).await?;
    let worker = fleet.group(&format!("{CLUSTER}-workers")).pop().expect("a worker");
    let before = node_id(&worker).await?;
    expire(&worker).await?;
    let place = swarm::place(&worker).await?;
    println!(
        "expired: {:?}, node {:?}, error {:?}",
        place.local_node_state, place.node_id, place.error
    );
    ensure!(place.error.is_some_and(|error| error.contains("expired")), "it is not refused");
    is_back(&fleet, &worker, &before, PATIENCE).await?;
    ensure!(worker.log().contains(NOTICED), "{}", worker.log());
    fleet.stop().await
}

/// The swarm lists a node under an address of an interface that is gone: like an image with Docker's state that was
/// restored.
pub async fn join_elsewhere(
    fleet: &Fleet,
    instance: &Arc<Instance>,
    address: &str,
    token: String,
) -> anyhow::Result<()> {
    instance.stop_skep().await?;
    let force = LeaveSwarmOptionsBuilder::default().force(true).build();
    instance.docker()?.leave_swarm(Some(force)).await?;
    let manager = fleet.leader().await?.address();
    swarm::sh(instance, &format!("ip addr add {address}/24 dev ens5")).await?;
    let request = SwarmJoinRequest {
        listen_addr: Some("0.0.0.0:2377".to_owned()),
        advertise_addr: Some(address.to_owned()),
        remote_addrs: Some(vec![format!("{manager}:2377")]),
        join_token: Some(token),
        ..SwarmJoinRequest::default()
    };
    instance.docker()?.join_swarm(request).await?;
    swarm::sh(instance, &format!("ip addr del {address}/24 dev ens5")).await?;
    Ok(())
}

#[tokio::test]
async fn a_worker_that_is_known_by_another_address_joins_anew() -> anyhow::Result<()> {
    let fleet = swarm::standing(harness::options(), 1, 1).await?;
    let worker = fleet.group(&format!("{CLUSTER}-workers")).pop().expect("a worker");
    let token = swarm::parameter(&fleet, &swarm::token_name("worker", 1)).await?;
    join_elsewhere(&fleet, &worker, "10.78.0.201", token).await?;
    let before = node_id(&worker).await?;
    assert_eq!(swarm::place(&worker).await?.node_addr.as_deref(), Some("10.78.0.201"));
    worker.start_skep()?;
    swarm::logged(&fleet, &worker, "the swarm has another address for this node").await?;
    fleet
        .wait_until("one swarm of two", PATIENCE, async || {
            Ok(swarm::whole(&fleet, 1, 1).await.is_ok())
        })
        .await?;
    assert_ne!(node_id(&worker).await?, before);
    fleet.stop().await
}
