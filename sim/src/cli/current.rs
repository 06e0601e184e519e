//! Finds the running cloud: `up` writes its address to a file, and the other commands read it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use skep_sim::fleet::{Fleet, default_dir, live_runs};

/// The data that `up` stores for the other commands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Current {
    pub run: String,
    pub endpoint: String,
    pub region: String,
    /// The run's directory.
    pub dir: PathBuf,
    /// The network namespace of the AWS side; an instance's namespace is this name and `-ip-10-78-0-5`.
    pub netns: String,
}

#[derive(Debug, Args)]
pub struct Endpoint {
    /// Endpoint of the cloud [default: the one of the last `up`]
    #[arg(long, global = true, value_name = "URL")]
    endpoint: Option<String>,
}

impl Current {
    pub fn of(fleet: &Fleet, region: &str) -> Current {
        Current {
            run: fleet.run_id().to_owned(),
            endpoint: fleet.endpoint(),
            region: region.to_owned(),
            dir: fleet.dir().to_owned(),
            netns: fleet.netns().to_owned(),
        }
    }

    fn file() -> PathBuf {
        default_dir().join("current.json")
    }

    pub fn write(&self) -> anyhow::Result<()> {
        let file = Current::file();
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&file, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// Removes the file, unless a later `up` has written its own.
    pub fn remove(&self) {
        if Current::read(&Current::file()).is_ok_and(|current| current.run == self.run) {
            fs::remove_file(Current::file()).ok();
        }
    }

    fn read(file: &Path) -> anyhow::Result<Current> {
        Ok(serde_json::from_slice(&fs::read(file)?)?)
    }

    /// Finds the cloud of the last `up`.
    pub fn find() -> anyhow::Result<Current> {
        let current = Current::read(&Current::file()).ok();
        let alive = |current: &Current| live_runs().iter().any(|(id, _)| *id == current.run);
        match current.filter(alive) {
            Some(current) => Ok(current),
            None => bail!("no cloud is running here: start one with `skep-sim up`"),
        }
    }
}

impl Endpoint {
    fn url(&self) -> anyhow::Result<String> {
        match &self.endpoint {
            Some(endpoint) => Ok(endpoint.trim_end_matches('/').to_owned()),
            None => Ok(Current::find()?.endpoint),
        }
    }

    /// Sends a GET request to the admin side.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let url = format!("{}/_sim/{path}", self.url()?);
        answer(client()?.get(url)).await
    }

    /// Sends a POST request to the admin side.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<()> {
        let url = format!("{}/_sim/{path}", self.url()?);
        answer::<Value>(client()?.post(url).json(body)).await.map(drop)
    }

    /// Sends a DELETE request to the admin side.
    pub async fn delete(&self, path: &str, body: &Value) -> anyhow::Result<()> {
        let url = format!("{}/_sim/{path}", self.url()?);
        answer::<Value>(client()?.delete(url).json(body)).await.map(drop)
    }
}

/// An HTTP client without a proxy: the cloud is on this machine, even if the environment names a proxy.
fn client() -> anyhow::Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().build()?)
}

async fn answer<T: DeserializeOwned>(request: reqwest::RequestBuilder) -> anyhow::Result<T> {
    let response = request.send().await.context("the cloud does not answer")?;
    let status = response.status();
    if status.is_success() {
        return Ok(response.json().await?);
    }
    let text = response.text().await?;
    let error: Value = serde_json::from_str(&text).unwrap_or_default();
    match error["message"].as_str() {
        Some(message) => bail!("{message}"),
        None => bail!("the cloud answers {status}: {text}"),
    }
}

/// The variables for the `aws` command line. The cloud accepts any credentials.
pub fn variables(endpoint: &str, region: &str) -> [(&'static str, String); 5] {
    [
        ("AWS_ENDPOINT_URL", endpoint.to_owned()),
        ("AWS_REGION", region.to_owned()),
        // The aws command line reads this one instead.
        ("AWS_DEFAULT_REGION", region.to_owned()),
        ("AWS_ACCESS_KEY_ID", "AKIALOCALCLOUD000000".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "local".to_owned()),
    ]
}

pub fn print_variables(endpoint: &Endpoint) -> anyhow::Result<()> {
    let region = Current::find().map_or("eu-central-1".to_owned(), |current| current.region);
    for (name, value) in variables(&endpoint.url()?, &region) {
        println!("export {name}={value}");
    }
    Ok(())
}
