//! Prepares the one image that every instance has: busybox, imported without a registry.
//!
//! Importing needs a running daemon, so it happens once per engine: the data root of that daemon is
//! kept as a template, and every instance starts on a copy. The copy takes some milliseconds, and
//! the image is present before Docker starts.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bollard::Docker;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::TryStreamExt;
use nix::sys::signal::Signal;
use serde_json::{Map, Value};

use super::clean::remove_dir;
use super::dockerd::{API_PATIENCE, Dockerd};
use super::machine::{Hardware, Machine};
use super::netns::Namespace;
use super::prerequisites::{find, search_path};
use super::process::Process;

/// Repository of the preloaded image.
const REPOSITORY: &str = "skep/busybox";
/// The preloaded image, for services.
pub const IMAGE: &str = "skep/busybox:latest";
/// What the image runs without a command: an HTTP server on port 80, which ends as soon as it gets SIGTERM.
const SERVE: &str = "trap 'exit 0' TERM; mkdir /www; echo hello >/www/index.html; httpd -h /www; while :; do sleep 3600 & wait $!; done";
/// The contents of a data root beside images: one host's own identity and state.
const OF_ONE_HOST: [&str; 8] =
    ["containers", "engine-id", "network", "plugins", "runtimes", "swarm", "tmp", "volumes"];
/// Time for the importing daemon to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// A data root with the image in it, ready to be copied.
#[derive(Clone, Debug)]
pub(crate) struct Template(PathBuf);

impl Template {
    /// Returns the template for this engine: the cached one, or a new one (about 2 s).
    pub(crate) async fn ensure(
        parent: &Path,
        namespace: &str,
        engine: Option<&Path>,
        overrides: &Map<String, Value>,
    ) -> anyhow::Result<Template> {
        let cache = parent.join("images");
        fs::create_dir_all(&cache)?;
        let key = key(engine, overrides)?;
        let ready = cache.join(&key);
        // Two runs that start together must not import into the same directory.
        let lock = File::create(cache.join(format!("{key}.lock")))?;
        let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await??;
        if !ready.exists() {
            let dir = cache.join(format!("{key}.tmp"));
            remove_dir(&dir)?;
            import(&dir, namespace, engine, overrides).await.context("cannot make the image")?;
            fs::rename(dir.join("data"), &ready)?;
            remove_dir(&dir)?;
        }
        drop(lock);
        Ok(Template(ready))
    }

    /// Creates a daemon's data root.
    pub(crate) fn copy_to(&self, data_root: &Path) -> anyhow::Result<()> {
        let output = Command::new("cp")
            .args(["-a", "--reflink=auto"])
            .args([&self.0, data_root])
            .output()
            .context("cannot run cp")?;
        ensure!(output.status.success(), "cp: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

/// The template's name: a hash of its inputs.
fn key(engine: Option<&Path>, overrides: &Map<String, Value>) -> anyhow::Result<String> {
    let path = search_path(engine);
    let mut hasher = DefaultHasher::new();
    for program in ["dockerd", "busybox"] {
        let Some(file) = find(program, &path) else { bail!("{program} is missing") };
        let metadata = file.metadata()?;
        (file, metadata.len(), metadata.modified()?).hash(&mut hasher);
    }
    Value::Object(overrides.clone()).to_string().hash(&mut hasher);
    SERVE.hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}

/// Runs a daemon of its own in `dir`, imports the image and stops the daemon.
async fn import(
    dir: &Path,
    namespace: &str,
    engine: Option<&Path>,
    overrides: &Map<String, Value>,
) -> anyhow::Result<()> {
    let dockerd = Dockerd {
        dir: dir.to_owned(),
        socket: dir.join("docker.sock"),
        log: dir.join("dockerd.log"),
        cgroup: "/skep-sim/image".to_owned(),
        engine: engine.map(Path::to_owned),
        pulls: false,
    };
    dockerd.prepare(overrides, &[])?;
    let namespace = Namespace::create(namespace)?;
    let machine = Machine::power_on(Hardware {
        hostname: "image".to_owned(),
        netns: namespace.path(),
        resolv_conf: dockerd.resolv_conf(),
        hosts: dockerd.hosts(),
        docker_conf: dockerd.etc(),
        certificates: None,
    })?;
    let daemon = Process::watch(machine.spawn(dockerd.command()?)?);
    let imported = async {
        let docker = dockerd.client(&dockerd.wait_api(API_PATIENCE).await?)?;
        preload(&docker).await?;
        anyhow::Ok(())
    };
    let imported = imported.await;
    daemon.signal(Signal::SIGTERM);
    let stopped = tokio::time::timeout(STOP_PATIENCE, daemon.exited()).await;
    tokio::task::spawn_blocking(move || machine.power_off()).await?;
    namespace.delete()?;
    imported.with_context(|| log_tail(&dockerd.log))?;
    stopped.context("the importing dockerd did not stop")?;
    for state in OF_ONE_HOST {
        remove_dir(&dockerd.data_root().join(state))?;
        fs::remove_file(dockerd.data_root().join(state)).ok();
    }
    Ok(())
}

/// Imports [`IMAGE`] into an engine.
pub async fn preload(docker: &Docker) -> anyhow::Result<()> {
    let options = CreateImageOptionsBuilder::new()
        .from_src("-")
        .repo(REPOSITORY)
        .tag("latest")
        .changes(vec![format!("CMD [\"sh\", \"-c\", \"{SERVE}\"]")])
        .build();
    let body = bollard::body_full(root_fs()?.into());
    docker.create_image(Some(options), Some(body), None).try_for_each(async |_| Ok(())).await?;
    docker.inspect_image(IMAGE).await?;
    Ok(())
}

fn log_tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// A root file system with busybox and its applets, as a tar archive.
fn root_fs() -> anyhow::Result<Vec<u8>> {
    let path = search_path(None);
    let busybox = find("busybox", &path).context("busybox is missing")?;
    let applets = Command::new(&busybox).arg("--list").output()?.stdout;
    let mut archive = tar::Builder::new(Vec::new());
    for (dir, mode) in [("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777)] {
        let mut header = header(tar::EntryType::Directory, mode);
        archive.append_data(&mut header, dir, std::io::empty())?;
    }
    let program = fs::read(&busybox)?;
    let mut program_header = header(tar::EntryType::Regular, 0o755);
    program_header.set_size(program.len().try_into()?);
    archive.append_data(&mut program_header, "bin/busybox", program.as_slice())?;
    for applet in String::from_utf8_lossy(&applets).lines().filter(|name| *name != "busybox") {
        let mut header = header(tar::EntryType::Symlink, 0o777);
        archive.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    let users = b"root:x:0:0:root:/root:/bin/sh\n";
    let mut users_header = header(tar::EntryType::Regular, 0o644);
    users_header.set_size(users.len().try_into()?);
    archive.append_data(&mut users_header, "etc/passwd", users.as_slice())?;
    Ok(archive.into_inner()?)
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(0);
    header
}
