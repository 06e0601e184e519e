//! Starts a real registry (Debian's docker-registry) behind ECR's hosts. It listens on a socket of the run, which is
//! reachable only through the cloud's ECR endpoint; that endpoint requires ECR's tokens.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::pin::pin;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use bollard::auth::DockerCredentials;
use bollard::query_parameters::{
    PushImageOptionsBuilder, RemoveImageOptionsBuilder, TagImageOptionsBuilder,
};
use futures_util::TryStreamExt;
use serde_json::json;

use super::process::Bound;
use super::{Fleet, IMAGE, Instance};

/// On an idle machine it starts within 1 s.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// A running registry. It ends when this value is dropped, and with this process.
#[derive(Debug)]
pub struct Registry {
    process: Bound,
    socket: PathBuf,
}

impl Fleet {
    /// Starts the registry and puts it behind the cloud's ECR endpoint. Instances reach it under the names in
    /// [`super::FleetOptions::hosts`] and Docker's `insecure-registries`.
    ///
    /// # Errors
    ///
    /// When docker-registry is missing, or does not start.
    pub async fn start_registry(&self) -> anyhow::Result<Registry> {
        let dir = self.dir();
        let (socket, log) = (dir.join("registry.sock"), File::create(dir.join("registry.log"))?);
        // The file is YAML; JSON is valid YAML.
        let config = json!({
            "version": "0.1",
            "log": { "accesslog": { "disabled": true } },
            "storage": {
                "filesystem": { "rootdirectory": self.site().run.record.scratch.join("registry") },
            },
            "http": { "net": "unix", "addr": socket, "relativeurls": true },
        });
        let file = dir.join("registry.yml");
        fs::write(&file, config.to_string())?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).env_clear().env("PATH", super::SYSTEM_PATH);
        command.stdout(log.try_clone()?).stderr(log);
        let process = Bound::spawn(command).context("is Debian's docker-registry installed?")?;
        let registry = Registry { process, socket };
        registry.wait().await?;
        self.cloud().set_registry(registry.socket.clone());
        Ok(registry)
    }

    /// Pushes the preloaded image under another name, such as `<host>/app:1`, as an operator does, and then
    /// removes that name from the engine.
    ///
    /// # Errors
    ///
    /// When the engine, ECR or the registry refuses.
    pub async fn push_image(&self, by: &Instance, name: &str) -> anyhow::Result<()> {
        let docker = by.docker()?;
        let (repository, tag) = name.rsplit_once(':').context("an image without a tag")?;
        let tagged = TagImageOptionsBuilder::new().repo(repository).tag(tag).build();
        docker.tag_image(IMAGE, Some(tagged)).await?;
        let options = PushImageOptionsBuilder::new().tag(tag).build();
        let credentials = Some(self.operators_credentials());
        let mut pushing = pin!(docker.push_image(repository, Some(options), credentials));
        while let Some(progress) = pushing.try_next().await? {
            if let Some(error) = progress.error_detail {
                bail!("{name} is not pushed: {error:?}");
            }
        }
        let options = RemoveImageOptionsBuilder::new().build();
        docker.remove_image(name, Some(options), None).await?;
        Ok(())
    }

    /// The credentials that an operator's `docker login` stores.
    pub fn operators_credentials(&self) -> DockerCredentials {
        DockerCredentials {
            username: Some("AWS".to_owned()),
            password: Some(self.cloud().registry_password()),
            ..DockerCredentials::default()
        }
    }
}

impl Registry {
    async fn wait(&self) -> anyhow::Result<()> {
        let end = tokio::time::Instant::now() + START_PATIENCE;
        while self.process.process.is_running() && tokio::time::Instant::now() < end {
            if UnixStream::connect(&self.socket).is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("no registry at {}: see registry.log beside it", self.socket.display())
    }
}
