//! Background tasks: the timers, and the orders to the machines.

use std::sync::{Arc, Weak};

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Cloud, Inner, lock};
use crate::machines::{Launch, Machines};

/// One order to the machines.
#[derive(Debug)]
pub(super) enum Order {
    Launch(Launch),
    Stop(String),
    Start(String),
    CreateImage { instance: String, image: String },
    ReplaceRootVolume { instance: String, image: String },
    Terminate(String),
}

/// Passes orders to the machines one after the other, once there are machines.
pub(super) async fn carry_out(
    mut orders: mpsc::UnboundedReceiver<Order>,
    mut machines: watch::Receiver<Option<Arc<dyn Machines>>>,
) {
    while let Some(order) = orders.recv().await {
        let ready = match machines.wait_for(Option::is_some).await {
            Ok(machines) => machines.clone(),
            // The cloud is gone.
            Err(_) => return,
        };
        let Some(machines) = ready else { return };
        match order {
            Order::Launch(launch) => machines.launch(launch),
            Order::Stop(id) => machines.stop(&id),
            Order::Start(id) => machines.start(&id),
            Order::CreateImage { instance, image } => machines.create_image(&instance, &image),
            Order::ReplaceRootVolume { instance, image } => {
                machines.replace_root_volume(&instance, &image);
            }
            Order::Terminate(id) => machines.terminate(&id),
        }
    }
}

/// Makes the due changes until the cloud is dropped.
pub(super) async fn keep_time(inner: Weak<Inner>, wake: Arc<Notify>, stop: CancellationToken) {
    loop {
        let next = {
            let Some(inner) = inner.upgrade() else { return };
            Cloud { inner }.pass_time()
        };
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = wake.notified() => {}
            () = stop.cancelled() => return,
        }
    }
}

impl Cloud {
    /// Makes the changes that are due now; returns the time of the next check.
    fn pass_time(&self) -> tokio::time::Instant {
        let mut state = lock(&self.inner.state);
        let now = self.inner.clock.elapsed();
        if now >= state.next_due {
            state.pass_time(now, &self.inner.clock);
            self.publish(&mut state);
        }
        self.inner.clock.instant(state.next_due)
    }
}
