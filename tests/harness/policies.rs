//! The permissions that the CloudFormation template grants to the roles.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use serde_json::{Map, Value};
use skep_sim::cloud::Cloud;

use crate::swarm::TABLE;

/// Placeholder for the cluster in the policies that the template's test has written.
const CLUSTER: &str = "cluster-of-this-stack";
/// Both stores of join tokens, as the policies' file names them.
pub const STORES: [&str; 2] = ["ssm", "dynamodb"];

/// Allows the roles from now on only the calls that the template's policies allow for these clusters and token stores.
///
/// # Errors
/// When the template's test has not run, or the policies contain an element that the local cloud does not enforce.
pub fn enforce(cloud: &Cloud, clusters: &[&str], stores: &[&str]) -> anyhow::Result<()> {
    enforce_on_table(cloud, clusters, stores, TABLE)
}

/// The same for another table.
///
/// # Errors
/// Like [`enforce`], and when the policies name another table than the template's default.
pub fn enforce_on_table(
    cloud: &Cloud,
    clusters: &[&str],
    stores: &[&str],
    table: &str,
) -> anyhow::Result<()> {
    let path = written_by_the_templates_test()?;
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("{}: run `make test STAGES=cloudformation`", path.display()))?;
    let default = format!(":table/{TABLE}\"");
    ensure!(text.contains(&default), "{} does not name the table {TABLE}", path.display());
    let text = text.replace(&default, &format!(":table/{table}\""));
    let mut roles = Map::new();
    for cluster in clusters {
        let policies: Value = serde_json::from_str(&text.replace(CLUSTER, cluster))?;
        for store in stores {
            let of_store = policies[store].as_object().context("no policies for a token store")?;
            for (role, documents) in of_store {
                let documents = documents.as_array().context("no list of documents")?;
                let all = roles.entry(role).or_insert_with(|| Value::Array(Vec::new()));
                all.as_array_mut().context("no list")?.extend(documents.iter().cloned());
            }
        }
    }
    for (role, documents) in &roles {
        cloud.set_role_policies(role, documents.as_array().context("no list")?)?;
    }
    Ok(())
}

fn written_by_the_templates_test() -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    let target = test.ancestors().nth(3).context("it is in target/<profile>/deps")?;
    Ok(target.join("test").join("policies.json"))
}
