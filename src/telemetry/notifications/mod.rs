//! What others are told of this node's life: executables in `hooks.d`, and a webhook.
//!
//! Guarantees: telling never fails the node and never keeps it waiting, except for the short and
//! bounded wait of [`Events::settle`] before the machine may go; hooks run one after the other, in the
//! order of the events, each bounded; every event is told at least once: a skep that starts again goes
//! through its life again, and tells it again.
//!
//! Assumption: whoever listens looks at the event's `id` where twice is too often.

mod hook_scripts;
mod message;
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

pub use message::Message;

/// Tells; cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    state: StateHandle,
    last: Arc<Mutex<Option<Event>>>,
    told: mpsc::UnboundedSender<Message>,
    /// How many messages are on their way.
    open: watch::Sender<usize>,
}

impl Events {
    /// What is told goes out as the settings say, by tasks in `tasks`: they end with it.
    #[must_use]
    pub fn start(settings: &Settings, state: &StateHandle, tasks: &mut JoinSet<()>) -> Self {
        let (told, messages) = mpsc::unbounded_channel();
        let open = watch::Sender::new(0);
        tasks.spawn(tell(settings.clone(), messages, open.clone()));
        Self { state: state.clone(), last: Arc::default(), told, open }
    }

    /// Nobody is told: for a process that only looks.
    #[must_use]
    pub fn silent(state: &StateHandle) -> Self {
        let open = watch::Sender::new(0);
        let (told, _) = mpsc::unbounded_channel();
        Self { state: state.clone(), last: Arc::default(), told, open }
    }

    /// Tells of `event`, with what the node knows of itself now. A failure is told once, however many
    /// see it on its way up.
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

    /// Waits until everything has been told, at most for `patience`.
    pub async fn settle(&self, patience: Duration) {
        let mut open = self.open.subscribe();
        let settled = open.wait_for(|open| *open == 0);
        if tokio::time::timeout(patience, settled).await.is_err() {
            tracing::warn!("not all hooks and webhooks have ended within {patience:?}");
        }
    }
}

/// Hooks in their order, deliveries side by side with them: a receiver that does not answer holds up
/// nothing but its own delivery.
async fn tell(
    settings: Settings,
    mut messages: mpsc::UnboundedReceiver<Message>,
    open: watch::Sender<usize>,
) {
    let (to_hooks, mut for_hooks) = mpsc::unbounded_channel::<(Message, Open)>();
    let webhook = webhook::Webhook::new(&settings.webhook).map(Arc::new);
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
            // The other end is below.
            let _ = to_hooks.send((message, open));
        }
        std::future::pending::<()>().await;
    };
    let run = async {
        while let Some((message, open)) = for_hooks.recv().await {
            hook_scripts::run(&settings.hooks, &message).await;
            drop(open);
        }
    };
    tokio::join!(take, run);
}

/// Held by everybody who still has to tell a message.
#[derive(Clone)]
struct Open(#[expect(dead_code, reason = "its drop counts")] Arc<OpenUntilDropped>);

struct OpenUntilDropped(watch::Sender<usize>);

impl Drop for OpenUntilDropped {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}
