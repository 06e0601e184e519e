//! A backup in S3 brings the services of a lost swarm back: after a founding without anybody's hand, and by
//! `skep restore`.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use bollard::Docker;
use bollard::models::{ConfigSpec, NetworkCreateRequest, SecretSpec, ServiceSpec};
use harness::departures::{options_with, running};
use harness::swarm::{self, CLUSTER};
use harness::{PATIENCE, policies, secs};
use serde_json::{Value, json};
use skep_sim::cloud::{Deny, Fault, Service, Who};
use skep_sim::fleet::{self, Fleet, FleetOptions, Instance, workload};

const BUCKET: &str = "backups";
/// Region of the fleet.
const HOME: &str = "eu-central-1";
const ABROAD: &str = "eu-west-1";
/// `ship-now`, and `a-password`.
const CONFIG_DATA: &str = "c2hpcC1ub3c=";
const SECRET_DATA: &str = "YS1wYXNzd29yZA==";
/// With the key in the template's policies.
const SETTINGS: &str = "[backup]\nto = \"s3://backups/skep\"\nkms_key = \"arn:aws:kms:eu-central-1:123456789012:key/backups\"\n";

/// A fleet without instances, whose managers may store backups.
async fn start(more: &str) -> anyhow::Result<Fleet> {
    let options = options_with(&format!("{SETTINGS}{more}"));
    let fleet = harness::fleet(FleetOptions { one_swarm: false, ..options }).await?;
    policies::enforce(fleet.cloud(), &[CLUSTER], &["ssm-with-backups"])?;
    Ok(fleet)
}

/// A service with tasks on workers, and what `more` sets in its spec, by JSON pointer.
fn service(name: &str, more: &Value) -> anyhow::Result<ServiceSpec> {
    let mut spec = json!(fleet::service(name, 2, workload::graceful(), secs(5))?);
    spec["TaskTemplate"]["Placement"] = json!({ "Constraints": ["node.role==worker"] });
    for (pointer, value) in more.as_object().context("an object")? {
        let (parent, field) = pointer.rsplit_once('/').context("a pointer")?;
        spec.pointer_mut(parent).context("a parent")?[field] = value.clone();
    }
    Ok(serde_json::from_value(spec)?)
}

async fn create_secret(docker: &Docker) -> anyhow::Result<String> {
    let secret: SecretSpec = serde_json::from_value(json!({ "Name": "key", "Data": SECRET_DATA }))?;
    Ok(docker.create_secret(secret).await?.id)
}

/// One service of each kind that a restore treats in its own way, and what they use.
async fn deploy(docker: &Docker) -> anyhow::Result<()> {
    let network: NetworkCreateRequest = serde_json::from_value(
        json!({ "Name": "back", "Driver": "overlay", "IPAM": { "Config": [{ "Subnet": "10.99.0.0/24" }] } }),
    )?;
    docker.create_network(network).await?;
    let config: ConfigSpec =
        serde_json::from_value(json!({ "Name": "orders", "Data": CONFIG_DATA }))?;
    let config = docker.create_config(config).await?.id;
    let secret = create_secret(docker).await?;
    let file = |name: &str| json!({ "Name": name, "UID": "0", "GID": "0", "Mode": 292 });
    let container = "/TaskTemplate/ContainerSpec";
    for (name, more) in [
        (
            "web",
            json!({
                format!("{container}/Env"): ["PASSWORD=hidden"],
                format!("{container}/Configs"):
                    [{ "ConfigID": config, "ConfigName": "orders", "File": file("/orders") }],
            }),
        ),
        (
            "api",
            json!({
                format!("{container}/Secrets"):
                    [{ "SecretID": secret, "SecretName": "key", "File": file("key") }],
            }),
        ),
        (
            "db",
            json!({
                format!("{container}/Mounts"):
                    [{ "Type": "volume", "Source": "data", "Target": "/data" }],
            }),
        ),
        ("far", json!({ "/TaskTemplate/Placement/Constraints": ["node.labels.disk==ssd"] })),
        (
            "net",
            json!({
                "/Mode/Replicated/Replicas": 0,
                "/TaskTemplate/Networks": [{ "Target": "back" }],
            }),
        ),
        (
            "job",
            json!({ "/Mode": { "ReplicatedJob": { "MaxConcurrent": 1, "TotalCompletions": 1 } } }),
        ),
    ] {
        docker
            .create_service(service(name, &more)?, None)
            .await
            .with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// The specs of the services, by name.
async fn services(docker: &Docker) -> anyhow::Result<BTreeMap<String, Value>> {
    let all = docker.list_services(None::<bollard::query_parameters::ListServicesOptions>).await?;
    let named = all.into_iter().filter_map(|one| {
        let spec = one.spec?;
        Some((spec.name.clone()?, json!(spec)))
    });
    Ok(named.collect())
}

/// The newest backup with `services` services: its key and its content.
async fn backup_of(fleet: &Fleet, services: usize) -> anyhow::Result<(String, Value)> {
    fleet
        .wait_for(&format!("a backup of {services} services"), PATIENCE, async || {
            let objects = fleet.cloud().objects(BUCKET)?;
            let Some(newest) = objects.into_iter().last() else { return Ok(None) };
            let content: Value = serde_json::from_slice(&newest.body)?;
            let number = content["services"].as_array().context("services")?.len();
            Ok((number == services).then_some((newest.key, content)))
        })
        .await
}

async fn restore(instance: &Instance, arguments: &[&str]) -> anyhow::Result<(i32, String)> {
    let output = instance.skep([&["restore"], arguments].concat()).await?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(!said.contains("hidden"), "an environment variable is shown: {said}");
    Ok((output.status.code().context("a code")?, said))
}

#[tokio::test]
async fn after_the_loss_of_all_managers_the_services_run_again_untouched_by_hand()
-> anyhow::Result<()> {
    let more = "restore = true\n[boot]\nlost_after = \"75s\"\n";
    let fleet = start(more).await?;
    fleet.cloud().create_bucket(BUCKET, HOME)?;
    fleet.create_cluster(&swarm::cluster(3, 2))?;
    swarm::all_ready(&fleet, 5).await?;
    let docker = fleet.manager_docker().await?;
    deploy(&docker).await?;
    running(&fleet, "web", 2).await?;
    let before = services(&docker).await?;
    let (key, content) = backup_of(&fleet, before.len()).await?;
    ensure!(key.starts_with(&format!("skep/{CLUSTER}/")), "{key}");
    ensure!(content["configs"][0]["Data"] == CONFIG_DATA, "the config has lost its data");
    ensure!(content["secrets"][0]["Name"] == "key", "the secret is not named");
    ensure!(!content.to_string().contains(SECRET_DATA), "the secret's data are in the backup");
    for object in fleet.cloud().objects(BUCKET)? {
        ensure!(object.kms_key.is_some(), "{} is not encrypted", object.key);
    }

    for manager in fleet.group(&format!("{CLUSTER}-managers")) {
        fleet.cloud().crash(manager.id())?;
    }
    running(&fleet, "web", 2).await?;
    fleet
        .wait_until("every node to be in the next swarm", PATIENCE, async || {
            Ok(swarm::whole(&fleet, 3, 2).await.is_ok())
        })
        .await?;
    let docker = fleet.manager_docker().await?;
    let charter = swarm::charter(&fleet).await?.context("a charter")?;
    assert_eq!(charter.generation, 2);
    fleet
        .wait_until("all that can be restored", PATIENCE, async || {
            Ok(services(&docker).await?.keys().eq(["db", "far", "net", "web"]))
        })
        .await?;
    let after = services(&docker).await?;
    assert_eq!(after["db"]["Mode"]["Replicated"]["Replicas"], 0, "it has lost its data");
    // The same, but for the ids of this swarm.
    let mut far = before["far"].clone();
    far["TaskTemplate"]["Networks"] = after["far"]["TaskTemplate"]["Networks"].clone();
    assert_eq!(after["far"], far);
    let config = |spec: &Value| spec["TaskTemplate"]["ContainerSpec"]["Configs"][0].clone();
    assert_eq!(config(&after["web"])["ConfigName"], "orders");
    assert_ne!(config(&after["web"])["ConfigID"], config(&before["web"])["ConfigID"]);
    let leader = fleet.leader().await?;
    for words in [
        "service job: it is a job, and jobs are never started",
        "no node meets its constraint node.labels.disk==ssd",
        "it has volumes or bind mounts, so it comes back with 0 replicas; it had 2",
        "service api waits for the secret key",
    ] {
        swarm::logged(&fleet, &leader, words).await?;
    }

    // What an operator removes stays removed, and what waits comes with its secret.
    docker.delete_service("far").await?;
    create_secret(&docker).await?;
    running(&fleet, "api", 2).await?;
    let row = async || anyhow::Ok(swarm::rows(&fleet, CLUSTER, "restore").await?[0].clone());
    fleet
        .wait_until("the end of the restoration", PATIENCE, async || {
            Ok(row().await?["state"] == "done")
        })
        .await?;
    tokio::time::sleep(secs(20)).await;
    ensure!(services(&docker).await?.keys().eq(["api", "db", "net", "web"]), "something came back");
    running(&fleet, "web", 2).await?;
    fleet.stop().await
}

#[tokio::test]
async fn an_operator_restores_what_is_missing_and_every_obstacle_is_named() -> anyhow::Result<()> {
    let fleet = start("").await?;
    fleet.create_cluster(&swarm::cluster(1, 1))?;
    swarm::all_ready(&fleet, 2).await?;
    let manager = fleet.leader().await?;
    let docker = manager.docker()?;
    let refused = async |words: &[&str]| {
        let (code, said) = restore(&manager, &["--yes"]).await?;
        ensure!([1, 3].contains(&code), "{code}: {said}");
        ensure!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
        anyhow::Ok(())
    };
    refused(&["bucket backups", "NoSuchBucket"]).await?;
    fleet.cloud().create_bucket(BUCKET, ABROAD)?;
    refused(&["the bucket is in another region", ABROAD, "backup.region"]).await?;
    fleet.cloud().delete_bucket(BUCKET)?;
    // The leader has not stored the first one yet.
    fleet.cloud().create_bucket(BUCKET, HOME)?;
    let faults = fleet.cloud().faults();
    faults.set(Service::S3, Some("PutObject"), Fault { error: 1.0, ..Fault::default() });
    refused(&["there is no backup of this cluster in s3://backups/skep/test/"]).await?;
    faults.clear();

    deploy(&docker).await?;
    running(&fleet, "web", 2).await?;
    let before = services(&docker).await?;
    let (key, content) = backup_of(&fleet, before.len()).await?;
    // It cannot be read, or is damaged, or of a newer skep.
    let (code, said) = restore(&manager, &["--from", "../x.json"]).await?;
    ensure!(code == 3 && said.contains("is not the key of a backup"), "{code}: {said}");
    let unknown = "20260101T000000Z-1-s1-bb.json";
    let (code, said) = restore(&manager, &["--from", unknown]).await?;
    ensure!(code == 3 && said.contains("there is no backup skep/test/2026"), "{code}: {said}");
    let prefix = format!("skep/{CLUSTER}/");
    let other = format!("{prefix}20260101T000000Z-1-s1-aa.json");
    let mut newer = content.clone();
    newer["format"] = json!(99);
    let mut foreign = content.clone();
    foreign["cluster"] = json!("other");
    for (body, words) in [
        ("{ \"services\"".to_owned(), "cannot be read: it is damaged"),
        (newer.to_string(), "was written by a newer skep (format 99"),
        (foreign.to_string(), "is a backup of the cluster other"),
    ] {
        fleet.cloud().put_object(BUCKET, &other, body.into())?;
        let (code, said) = restore(&manager, &["--from", &other, "--yes"]).await?;
        ensure!(code == 3 && said.contains(words), "{code}: {said}");
    }
    fleet.cloud().delete_object(BUCKET, &other)?;

    // A restore over what exists changes nothing.
    let (code, said) = restore(&manager, &["--from", &key, "--yes"]).await?;
    ensure!(code == 0 && said.contains("Nothing is to be created"), "{code}: {said}");
    assert_eq!(services(&docker).await?, before);
    let (code, said) = restore(&manager, &["--list"]).await?;
    ensure!(code == 0 && said.contains(&key), "{code}: {said}");

    // Two are lost, and one has changed.
    for name in ["web", "job"] {
        docker.delete_service(name).await?;
    }
    fleet
        .update_service("net", |spec| spec.labels = Some([("a".into(), "b".into())].into()))
        .await?;
    let (code, said) = restore(&manager, &["--from", &key]).await?;
    ensure!(code == 3 && said.contains("cannot ask for confirmation"), "{code}: {said}");
    for words in ["service web", "service job: it is a job", "net: exists, and differs"] {
        ensure!(said.contains(words), "{words}: {said}");
    }
    ensure!(!services(&docker).await?.contains_key("web"), "it was not confirmed");
    let output = manager.skep(["restore", "--from", &key, "--json"]).await?;
    let plan: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(plan["create"], json!([["service", "web"]]));

    // It stops half-way, and the same command continues.
    manager.kill_dockerd().await?;
    let (code, said) = restore(&manager, &["--from", &key, "--yes"]).await?;
    ensure!(code == 1, "{code}: {said}");
    manager.start_dockerd()?;
    swarm::ready(&fleet, &manager).await?;
    let (code, said) = fleet
        .wait_for("a restore", PATIENCE, async || {
            let (code, said) = restore(&manager, &["--from", &key, "--yes"]).await?;
            // Docker's swarm needs some seconds.
            Ok((code != 1).then_some((code, said)))
        })
        .await?;
    ensure!(code == 4 && said.contains("created service web"), "{code}: {said}");
    running(&fleet, "web", 2).await?;
    let after = services(&docker).await?;
    assert_eq!(after["web"], before["web"]);
    ensure!(!after.contains_key("job"), "a job was started");

    // The bucket denies.
    fleet.cloud().deny(Deny::new(Who::Anyone, Service::S3, "GetObject"));
    let (code, said) = restore(&manager, &["--from", &key, "--yes"]).await?;
    ensure!(code == 1 && said.contains("s3:GetObject"), "{code}: {said}");
    fleet.stop().await
}
