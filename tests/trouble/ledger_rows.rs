//! The ledger's rows as an operator sees them, and as IAM policies depend on them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use harness::PATIENCE;
use harness::options;
use harness::trouble::{all_ready, aws, first_of, row, rows};
use serde_json::Value;
use skep_sim::fleet::{ClusterSpec, Fleet, FleetOptions};

const HOUR: i64 = 3600;

/// The rows of a partition by their sort key, as the `aws` command line returns them.
async fn partition(fleet: &Fleet, cluster: &str) -> anyhow::Result<BTreeMap<String, Value>> {
    let values = format!("{{\":c\":{{\"S\":\"{cluster}\"}}}}");
    let mut query = vec!["dynamodb", "query", "--table-name", "skep", "--consistent-read"];
    query.extend(["--key-condition-expression", "#c = :c"]);
    query.extend(["--expression-attribute-names", "{\"#c\":\"cluster\"}"]);
    query.extend(["--expression-attribute-values", &values]);
    let answer = aws(fleet, &query).await?;
    let rows = answer["Items"].as_array().context("no items")?.iter();
    rows.map(|row| Ok((row["item"]["S"].as_str().context("no sort key")?.to_owned(), row.clone())))
        .collect()
}

fn number(row: &Value, attribute: &str) -> anyhow::Result<i64> {
    let number = row[attribute]["N"].as_str();
    Ok(number.with_context(|| format!("{attribute} is no number in {row}"))?.parse()?)
}

#[tokio::test]
async fn rows_are_what_the_documentation_says() -> anyhow::Result<()> {
    let fleet = harness::fleet(options()).await?;
    fleet.create_cluster(&ClusterSpec::new("test", 1, 1))?;
    all_ready(&fleet, 2).await?;
    let manager = first_of(&fleet, "test-managers").await?;
    let worker = first_of(&fleet, "test-workers").await?;
    let (manager_row, worker_row) =
        (format!("member#manager#{}", manager.id()), format!("member#worker#{}", worker.id()));
    fleet
        .wait_until("both members, and no attempt any more", PATIENCE, async || {
            let attempt = format!("attempt#{}", worker.id());
            Ok(row(&fleet, &worker_row)?.is_some() && row(&fleet, &attempt)?.is_none())
        })
        .await?;

    let own = fleet.cloud().workers_partition("test", worker.id());
    let open = partition(&fleet, "test").await?;
    let items: BTreeSet<&str> = open.keys().map(String::as_str).collect();
    let expected = ["charter", "history", &*manager_row];
    assert_eq!(items, BTreeSet::from(expected), "only managers write here");
    let nodes = partition(&fleet, &own).await?;
    assert_eq!(nodes.keys().collect::<Vec<_>>(), [&worker_row]);
    let charter = &open["charter"];
    assert_eq!(charter["phase"]["S"], "open");
    assert_eq!(charter["founder"]["S"], manager.id());
    assert_eq!(number(charter, "generation")?, 1);
    assert_eq!(number(charter, "schema")?, 2);
    let swarm = manager.docker()?.inspect_swarm().await?;
    assert_eq!(charter["swarm_id"]["S"].as_str(), swarm.id.as_deref());
    let token = swarm.join_tokens.and_then(|tokens| tokens.worker).context("no token")?;
    assert_eq!(charter["ca_digest"]["S"].as_str(), token.split('-').nth(2));
    ensure!(charter["expires_at"].is_null(), "a charter never expires: {charter}");
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    for (table, item, node, role) in
        [(&open, &manager_row, &manager, "manager"), (&nodes, &worker_row, &worker, "worker")]
    {
        let member = &table[item];
        let info = node.docker()?.info().await?.swarm.unwrap_or_default();
        assert_eq!(member["node_id"]["S"].as_str(), info.node_id.as_deref());
        assert_eq!(member["address"]["S"], node.address().to_string());
        assert_eq!(member["role"]["S"], role);
        assert_eq!(member["state"]["S"], "ready");
        assert_eq!(member["zone"]["S"], node.launch().zone);
        assert_eq!(number(member, "generation")?, 1);
        if role == "manager" {
            ensure!(member["expires_at"].is_null(), "it goes only with evidence: {member}");
        } else {
            ensure!(number(member, "expires_at")? > now + 20 * 24 * HOUR, "{member}");
        }
        assert_eq!(number(member, "schema")?, 2);
    }
    let ttl = ["dynamodb", "describe-time-to-live", "--table-name", "skep"];
    let ttl = &aws(&fleet, &ttl).await?["TimeToLiveDescription"]["AttributeName"];
    assert_eq!(ttl, "expires_at");
    let described = aws(&fleet, &["ssm", "describe-parameters"]).await?;
    let parameters = described["Parameters"].as_array().context("no parameters")?;
    let parameters: BTreeSet<_> = parameters
        .iter()
        .filter_map(|it| Some((it["Name"].as_str()?, it["Type"].as_str()?)))
        .collect();
    let secure = |name| (name, "SecureString");
    let expected = ["/skep/test/manager-token/1", "/skep/test/worker-token/1"].map(secure);
    assert_eq!(parameters, BTreeSet::from(expected));

    fleet.cloud().set_desired("test-workers", 0)?;
    fleet.wait_until("the worker to go", PATIENCE, async || Ok(worker.is_gone())).await?;
    let departure = format!("departure#{}", worker.id());
    fleet
        .wait_until("the departure to be over", PATIENCE, async || {
            let departure = row(&fleet, &departure)?.context("no departure")?;
            Ok(departure["state"]["S"] == "removed" && row(&fleet, &worker_row)?.is_none())
        })
        .await?;
    let nodes = partition(&fleet, &own).await?;
    let departure = &nodes[&departure];
    assert_eq!(departure["reason"]["S"], "lifecycle");
    assert_eq!(departure["role"]["S"], "worker");
    assert_eq!(departure["instance_id"]["S"], worker.id());
    ensure!(number(departure, "deadline")? > number(departure, "requested_at")?);
    ensure!(number(departure, "expires_at")? > now + 12 * HOUR, "{departure}");
    fleet.stop().await
}

#[tokio::test]
async fn the_managers_token_has_a_partition_of_its_own() -> anyhow::Result<()> {
    let config = Some("tokens.store = \"dynamodb\"".to_owned());
    let fleet = harness::fleet(FleetOptions { config, ..options() }).await?;
    fleet.create_cluster(&ClusterSpec::new("test", 2, 1))?;
    all_ready(&fleet, 3).await?;
    let tokens = fleet.manager_docker().await?.inspect_swarm().await?.join_tokens;
    let tokens = tokens.context("no tokens")?;
    let (worker, manager) =
        (tokens.worker.context("no token")?, tokens.manager.context("no token")?);

    let open = partition(&fleet, "test").await?;
    assert_eq!(open["token#worker#1"]["token"]["S"], worker);
    let closed = partition(&fleet, "test#managers").await?;
    assert_eq!(closed.keys().collect::<Vec<_>>(), ["token#manager#1"]);
    assert_eq!(closed["token#manager#1"]["token"]["S"], manager);
    let holders: Vec<Value> = rows(&fleet, "skep")?
        .into_iter()
        .filter(|row| row.to_string().contains(&manager))
        .map(|row| row["cluster"]["S"].clone())
        .collect();
    assert_eq!(holders, ["test#managers"], "a worker's partition never holds it");
    assert!(fleet.cloud().parameter_names().is_empty());
    fleet.stop().await
}
