//! Instances whose skep does not start until a scenario lets it.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use skep_sim::fleet::{Fleet, FleetOptions, Instance};

use crate::{options, skep_binary, swarm};

/// Keeps skep from starting on instances that are launched while the gate is closed, so that a test can prepare a
/// machine before its first boot.
#[derive(Clone, Debug)]
pub struct Gate(Arc<AtomicBool>);

impl Gate {
    /// A gate, and options for a fleet whose instances pass it.
    ///
    /// # Errors
    /// When the script that waits cannot be written.
    pub fn new(closed: bool) -> anyhow::Result<(Gate, FleetOptions)> {
        let gate = Gate(Arc::new(AtomicBool::new(closed)));
        let is_closed = Arc::clone(&gate.0);
        let options = FleetOptions {
            skep: Some(waiting_skep()?),
            prepare: Some(Arc::new(move |instance: &Instance| {
                if is_closed.load(Ordering::SeqCst) {
                    std::fs::write(Gate::bar(instance), "")?;
                }
                Ok(())
            })),
            ..options()
        };
        Ok((gate, options))
    }

    /// Makes instances that are launched from now on wait.
    pub fn close(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Lets the skep of instances that are launched from now on start at once.
    pub fn open(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    /// Lets one instance's skep start.
    ///
    /// # Errors
    /// When its skep was not waiting.
    pub fn open_for(&self, instance: &Instance) -> anyhow::Result<()> {
        std::fs::remove_file(Gate::bar(instance)).context("it was not waiting")
    }

    /// Starts one more manager that the others cannot reach: its port 2377 is closed from the start.
    ///
    /// # Errors
    /// When it is not launched.
    pub async fn open_for_unreachable_manager(
        &self,
        fleet: &Fleet,
    ) -> anyhow::Result<Arc<Instance>> {
        self.close();
        swarm::resize(fleet, "manager", 2)?;
        let manager = swarm::newest(fleet, "manager", 2).await?;
        swarm::sh(&manager, "iptables -I INPUT -i ens5 -p tcp --dport 2377 -j DROP").await?;
        self.open_for(&manager)?;
        Ok(manager)
    }

    fn bar(instance: &Instance) -> PathBuf {
        instance.dir().join("etc").join("wait")
    }
}

/// A script that becomes skep once its instance's bar is gone.
fn waiting_skep() -> anyhow::Result<PathBuf> {
    // Tests of one process write the same file; tests of another process may be running it.
    static WRITING: Mutex<()> = Mutex::new(());
    let skep = skep_binary();
    let path = skep.with_file_name("waiting-skep");
    let script = format!(
        "#!/bin/sh\nwhile [ \"$1\" = run ] && [ -e \"$SKEP_CONFIG_DIR/wait\" ]; do sleep 0.2; \
         done\nexec {} \"$@\"\n",
        skep.display()
    );
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let new = path.with_extension(std::process::id().to_string());
    std::fs::write(&new, script)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(&new, &path)?;
    Ok(path)
}
