//! What has been said, so that it is said once: a file per signal, written only after it arrived.

use std::path::{Path, PathBuf};

/// The marks of one instance: an image that was made from a running node carries another's.
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

    /// Takes a mark back: the signal is to be sent again.
    pub async fn clear(&self, signal: Signal) {
        let path = self.path(signal);
        match tokio::fs::remove_file(&path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("{}: {error}", path.display());
            }
            _ => {}
        }
    }

    /// An empty file is there or not: creating it is atomic. Without it the signal is sent again
    /// after a restart, which CloudFormation and Auto Scaling ignore.
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
