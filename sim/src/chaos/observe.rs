//! Records the moments that the judge needs, such as the completion of a hook, with the state at that moment. The state
//! may be different when the round is judged.

use std::cell::RefCell;
use std::convert::Infallible;

use anyhow::Context;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::cloud::{ActionResult, CloudEvent, EventKind};
use crate::fleet::{Fleet, TERMINATION_HOOK};
use crate::witness::record::Record;

/// The completion of a termination hook.
#[derive(Clone, Debug)]
pub struct Completion {
    pub instance: String,
    pub at: f64,
    pub result: ActionResult,
    /// Number of containers that ran on the instance at that moment, by their cgroups and not by Docker.
    pub containers: usize,
    /// Whether its skep was running.
    pub has_skep: bool,
}

/// The moments of a round.
#[derive(Debug, Default)]
pub struct Moments {
    pub completions: Vec<Completion>,
    /// Instance and hook of each timeout.
    pub timed_out: Vec<(String, String)>,
}

/// Records events for ever. The receiver must be older than the round.
pub async fn observe(
    fleet: &Fleet,
    record: &RefCell<Record>,
    moments: &RefCell<Moments>,
    mut cloud: Receiver<CloudEvent>,
) -> anyhow::Result<Infallible> {
    loop {
        let event = match cloud.recv().await {
            Ok(event) => event,
            // Without some events, the verdict could be wrong: better none.
            Err(error @ (RecvError::Lagged(_) | RecvError::Closed)) => return Err(error.into()),
        };
        let mut moments = moments.borrow_mut();
        match event.kind {
            EventKind::HookCompleted { instance_id, hook, result } if hook == TERMINATION_HOOK => {
                let instance = fleet.instance(&instance_id);
                let instance = instance.with_context(|| format!("no instance {instance_id}"))?;
                moments.completions.push(Completion {
                    at: record.borrow().now(),
                    result,
                    containers: instance.running_containers(),
                    has_skep: instance.skep_running(),
                    instance: instance_id,
                });
            }
            EventKind::HookTimedOut { instance_id, hook, .. } => {
                moments.timed_out.push((instance_id, hook));
            }
            _ => {}
        }
    }
}
