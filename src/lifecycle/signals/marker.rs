//! Records the signals that have arrived, so that each is sent once: a file per signal, written only after it arrived.

use std::path::{Path, PathBuf};

/// The marks of one instance: an image of a running node contains the marks of another instance.
#[derive(Clone, Debug)]
pub struct Marker {
    dir: PathBuf,
}

#[derive(Clone, Copy, Debug)]
pub enum Signal {
    CloudFormation,
    LaunchHook,
}

impl Marker {
    pub fn of(state_dir: &Path, instance_id: &str) -> Self {
        Self { dir: state_dir.join(instance_id) }
    }

    fn path(&self, signal: Signal) -> PathBuf {
        self.dir.join(match signal {
            Signal::CloudFormation => "cloudformation-signalled",
            Signal::LaunchHook => "launch-hook-completed",
        })
    }

    pub async fn is_set(&self, signal: Signal) -> bool {
        tokio::fs::try_exists(self.path(signal)).await.unwrap_or_default()
    }

    /// Removes a mark, so that skep sends the signal again.
    pub async fn clear(&self, signal: Signal) {
        let path = self.path(signal);
        match tokio::fs::remove_file(&path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("{}: {error}", path.display());
            }
            _ => {}
        }
    }

    /// Writes a mark: an empty file, because its creation is atomic. Without it skep sends the signal again after a
    /// restart, which CloudFormation and Auto Scaling ignore.
    pub async fn set(&self, signal: Signal) {
        let path = self.path(signal);
        let written = async {
            tokio::fs::create_dir_all(&self.dir).await?;
            tokio::fs::File::create(&path).await?.sync_all().await
        };
        if let Err(error) = written.await {
            tracing::warn!("{}: {error}", path.display());
        }
    }
}
