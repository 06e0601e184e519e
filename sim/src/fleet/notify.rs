//! systemd's side of `NOTIFY_SOCKET`: keeps skep's notifications.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use tokio::net::UnixDatagram;
use tokio::task::JoinHandle;

/// One datagram of sd_notify(3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// `READY=1`, `STATUS=…`, in the order in which they were sent.
    pub fields: Vec<(String, String)>,
}

impl Notification {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn parse(text: &str) -> Notification {
        let fields = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Notification { fields }
    }
}

#[derive(Debug, Default)]
struct Heard {
    all: Vec<Notification>,
    /// Number of notifications before the start of the present process.
    before_start: usize,
}

/// The notifications of one instance.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notifications(Arc<Mutex<Heard>>);

impl Notifications {
    /// Listens at `path` until the task is aborted.
    pub(crate) fn listen(
        &self,
        path: &Path,
        on_status: impl Fn(&str) + Send + 'static,
    ) -> anyhow::Result<JoinHandle<()>> {
        std::fs::remove_file(path).ok();
        let socket = UnixDatagram::bind(path)
            .with_context(|| format!("cannot listen at {}", path.display()))?;
        let heard = self.clone();
        Ok(tokio::spawn(async move {
            let mut buffer = vec![0; 65536];
            while let Ok(length) = socket.recv(&mut buffer).await {
                let notification = Notification::parse(&String::from_utf8_lossy(&buffer[..length]));
                let status = notification.get("STATUS").map(str::to_owned);
                // Stored before `on_status` is called: the callee must find it.
                heard.lock().all.push(notification);
                if let Some(status) = status {
                    on_status(&status);
                }
            }
        }))
    }

    /// Marks the start of a new process: earlier notifications of readiness do not count.
    pub(crate) fn process_started(&self) {
        let mut heard = self.lock();
        heard.before_start = heard.all.len();
    }

    pub(crate) fn all(&self) -> Vec<Notification> {
        self.lock().all.clone()
    }

    pub(crate) fn statuses(&self) -> Vec<String> {
        let heard = self.lock();
        heard.all.iter().filter_map(|heard| heard.get("STATUS")).map(str::to_owned).collect()
    }

    pub(crate) fn is_ready(&self) -> bool {
        let heard = self.lock();
        heard.all[heard.before_start..].iter().any(|heard| heard.get("READY") == Some("1"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_what_a_service_says() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("notify.sock");
        let notifications = Notifications::default();
        let (tell, told) = std::sync::mpsc::channel();
        let task = notifications.listen(&path, move |status| {
            tell.send(status.to_owned()).ok();
        })?;

        let service = UnixDatagram::unbound()?;
        service.send_to(b"READY=1\nSTATUS=joined as worker", &path).await?;
        let told = tokio::task::spawn_blocking(move || told.recv()).await??;

        assert_eq!(told, "joined as worker");
        assert_eq!(notifications.statuses(), ["joined as worker"]);
        assert!(notifications.is_ready());
        notifications.process_started();
        assert!(!notifications.is_ready());
        task.abort();
        Ok(())
    }
}
