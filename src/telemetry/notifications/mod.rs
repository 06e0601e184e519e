//! Sends the events of this node's life to hook scripts and a webhook.
//!
//! Guarantees: notifications never fail the node and never delay it, except for the short and bounded wait of
//! [`Events::settle`] before the machine ends. Hook scripts run one after the other, in the order of the events, each
//! within its timeout. Every event is sent at least once: after a restart, skep goes through the node's life again and
//! sends its events again.
//!
//! Assumes that a receiver which must not handle an event twice compares its `id`.

mod address;
mod hook_scripts;
mod message;
mod private_file;
mod signature;
#[cfg(test)]
mod tests;
mod webhook;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::common::event::Event;
use crate::common::state::StateHandle;
use crate::config::Settings;

pub use address::Address;
pub use private_file::{PrivateFileError, SERVICE_USER, service_can_read};
pub use webhook::{DeliveryError, Webhook};

use message::Message;

/// Sends events; cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    state: StateHandle,
    last: Arc<Mutex<Option<Event>>>,
    told: mpsc::UnboundedSender<Message>,
    /// Number of messages that are not finished yet.
    open: watch::Sender<usize>,
}

impl Events {
    /// Returns a sender by the settings. Tasks in `tasks` deliver the events, and end with it.
    #[must_use]
    pub fn start(settings: &Settings, state: &StateHandle, tasks: &mut JoinSet<()>) -> Self {
        let (told, messages) = mpsc::unbounded_channel();
        let open = watch::Sender::new(0);
        tasks.spawn(tell(settings.clone(), messages, open.clone()));
        Self { state: state.clone(), last: Arc::default(), told, open }
    }

    /// Returns a sender without receivers, for a process that only reads the state.
    #[must_use]
    pub fn silent(state: &StateHandle) -> Self {
        let open = watch::Sender::new(0);
        let (told, _) = mpsc::unbounded_channel();
        Self { state: state.clone(), last: Arc::default(), told, open }
    }

    /// Sends `event` with the present state of the node. A failure is sent once, even if several callers report it.
    pub fn tell(&self, event: Event, outcome: Option<&str>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if event == Event::Failed && *last == Some(Event::Failed) {
            return;
        }
        *last = Some(event);
        self.open.send_modify(|open| *open += 1);
        let message = Message::new(event, &self.state.now(), outcome);
        if self.told.send(message).is_err() {
            self.open.send_modify(|open| *open -= 1);
        }
    }

    /// Waits until all hook scripts and deliveries have ended, at most for `patience`.
    pub async fn settle(&self, patience: Duration) {
        let mut open = self.open.subscribe();
        let settled = open.wait_for(|open| *open == 0);
        if tokio::time::timeout(patience, settled).await.is_err() {
            tracing::warn!("not all hooks and webhooks have ended within {patience:?}");
        }
    }
}

/// Runs hook scripts in order, and deliveries in parallel with them: a receiver that does not answer delays only its
/// own delivery.
async fn tell(
    settings: Settings,
    mut messages: mpsc::UnboundedReceiver<Message>,
    open: watch::Sender<usize>,
) {
    let (to_hooks, mut for_hooks) = mpsc::unbounded_channel::<(Message, Open)>();
    let webhook = Webhook::new(&settings.webhook).map(Arc::new);
    let mut deliveries = JoinSet::new();
    let take = async {
        while let Some(message) = messages.recv().await {
            let open = Open(Arc::new(OpenUntilDropped(open.clone())));
            if let Some(webhook) = webhook.clone() {
                let (message, open) = (message.clone(), open.clone());
                deliveries.spawn(async move {
                    webhook.deliver(&message).await;
                    drop(open);
                });
            }
            while deliveries.try_join_next().is_some() {}
            // Cannot fail: the receiving end is in this function.
            let _ = to_hooks.send((message, open));
        }
        std::future::pending::<()>().await;
    };
    let run = async {
        while let Some((message, open)) = for_hooks.recv().await {
            hook_scripts::run(&settings.hook_scripts, &message).await;
            drop(open);
        }
    };
    tokio::join!(take, run);
}

/// Held by each task that has not finished with a message.
#[derive(Clone)]
struct Open(#[expect(dead_code, reason = "its drop counts")] Arc<OpenUntilDropped>);

struct OpenUntilDropped(watch::Sender<usize>);

impl Drop for OpenUntilDropped {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}
