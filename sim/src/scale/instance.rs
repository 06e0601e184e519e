//! One instance: a real skep process with an address, metadata and directories of its own.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::fleet::process::{Exit, Process};

/// An instance, terminated or not.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) id: String,
    pub(super) address: Ipv4Addr,
    pub(super) is_manager: bool,
    /// Sockets and state; removed with the instance.
    pub(super) dir: PathBuf,
    pub(super) log: PathBuf,
    life: Mutex<Life>,
}

/// What has become of it.
#[derive(Debug, Default)]
pub(super) struct Life {
    pub(super) process: Option<Process>,
    /// Time of the first start of skep.
    pub(super) started: Option<Instant>,
    /// Time of the first `READY=1`.
    pub(super) ready: Option<Instant>,
    /// The last `STATUS=`.
    pub(super) status: String,
    pub(super) exits: Vec<Exit>,
    pub(super) is_terminated: bool,
    pub(super) listener: Option<AbortHandle>,
}

impl Instance {
    pub(super) fn new(
        id: String,
        address: Ipv4Addr,
        is_manager: bool,
        [dir, log]: [PathBuf; 2],
    ) -> Self {
        Self { id, address, is_manager, dir, log, life: Mutex::default() }
    }

    pub(super) fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_terminated(&self) -> bool {
        self.life().is_terminated
    }

    pub(super) fn is_ready(&self) -> bool {
        self.life().ready.is_some()
    }

    /// The pid of its skep, while it runs.
    pub(super) fn pid(&self) -> Option<i32> {
        let life = self.life();
        life.process.as_ref().filter(|process| process.is_running()).map(Process::pid)
    }

    /// Takes a datagram of sd_notify(3).
    pub(super) fn hear(&self, text: &str) {
        let mut life = self.life();
        for line in text.lines() {
            if line == "READY=1" {
                life.ready.get_or_insert_with(Instant::now);
            } else if let Some(status) = line.strip_prefix("STATUS=") {
                status.clone_into(&mut life.status);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_readiness_counts_and_the_last_status() {
        let paths = [PathBuf::new(), PathBuf::new()];
        let instance = Instance::new("i-1".into(), Ipv4Addr::LOCALHOST, false, paths);
        instance.hear("STATUS=Booting");
        assert!(!instance.is_ready());
        instance.hear("READY=1\nSTATUS=Ready");
        let ready = instance.life().ready;
        instance.hear("READY=1\nSTATUS=Leaving");
        assert!(ready.is_some() && instance.life().ready == ready);
        assert_eq!(instance.life().status, "Leaving");
    }
}
