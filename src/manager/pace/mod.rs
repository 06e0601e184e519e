//! The pace of departures: workers are drained one after the other, as far as their deadlines allow, so that other nodes
//! run the tasks of one before the next one's are stopped.
//!
//! Guarantees: a worker waits for a limited share of its own time ([`decide::latest`]), whatever does not answer. A node
//! that is Down holds nobody up and waits for nobody; nor does a service that was short of tasks before. The leader
//! decides, and writes into the row of each worker that waits until when and for whom; another manager follows that, and
//! decides by the same rules where a row has no such answer. Assumes nothing about earlier decisions: a manager that has
//! seen nothing finds out from the tasks what ran before ([`services::Baseline::of`]).
//!
//! Managers are not paced: they leave one at a time in any case. Their departures count for the workers.

mod decide;
mod memory;
mod services;
#[cfg(test)]
mod tests;
mod watch;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use time::OffsetDateTime;

use super::complaints::Complaints;
use super::observe::Fleet;
use crate::common::errors::chain;
use crate::common::log_once::LogOnce;
use crate::node::Node;

pub use decide::{Key, Turn};
pub use memory::Departure;
use memory::Memory;
use services::Look;
use watch::Watch;

/// Time for which a poll waits for the first look at the services; the departures that are being served do not wait.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pace, as one manager keeps it.
#[derive(Default)]
pub(super) struct Pace {
    watch: Watch,
    memory: RefCell<Memory>,
    /// The failure to look at the services that was logged last.
    logged: RefCell<LogOnce<(), Option<String>>>,
}

impl Pace {
    /// Looks at the services on demand. Runs until it is dropped.
    pub(super) async fn serve(&self, fleet: &Fleet<'_>) -> Infallible {
        self.watch.serve(fleet).await
    }

    /// Returns the turns of the workers that can be drained, by these departures of all nodes. A departure without one
    /// waits for nothing. `is_unanswered`: it could not be read whether the instance has a departure.
    pub(super) async fn turns(
        &self,
        fleet: &Fleet<'_>,
        departures: &[Departure<'_>],
        is_unanswered: impl Fn(&str) -> bool,
        is_leader: bool,
        complaints: &mut Complaints,
    ) -> BTreeMap<Key, Turn> {
        let settings = &fleet.node.settings;
        if !settings.pace.enabled {
            return BTreeMap::new();
        }
        let now = OffsetDateTime::now_utc();
        let (waiting, needs_look) = {
            let mut memory = self.memory.borrow_mut();
            let waiting = memory.observe(departures, is_unanswered, is_leader, settings, now);
            let needs_look = memory.needs_look(&waiting, settings, now);
            (waiting, needs_look)
        };
        let look = if needs_look { self.watch.want(PATIENCE).await } else { None };
        let failure = look.as_ref().and_then(|look| look.as_ref().err()).map(|why| {
            format!("cannot tell whether the services are whole, so departures wait: {why}")
        });
        if needs_look && self.logged.borrow_mut().is_news((), failure.clone()) {
            failure.iter().for_each(|why| tracing::warn!("{why}"));
        }
        failure.into_iter().for_each(|why| complaints.record(why));
        let look = look.and_then(Result::ok);
        let now = OffsetDateTime::now_utc();
        let turns = self.memory.borrow_mut().decide(waiting, look.as_deref(), settings, now);
        if !is_leader {
            // What another leader has stated meanwhile is unknown.
            self.memory.borrow_mut().stated = None;
        } else if settings.pace.delay_success {
            self.state_services(fleet, look.as_deref(), complaints).await;
        }
        turns
    }

    /// Tells new nodes whether services are worse off, unless they have been told so.
    async fn state_services(
        &self,
        fleet: &Fleet<'_>,
        look: Option<&Look>,
        complaints: &mut Complaints,
    ) {
        let Node { settings, ledger, .. } = fleet.node;
        let worse = self.memory.borrow().worse_off(look, settings);
        if self.memory.borrow().stated.as_ref() == Some(&worse) {
            return;
        }
        match ledger.state_services(worse.as_deref(), OffsetDateTime::now_utc()).await {
            Ok(()) => self.memory.borrow_mut().stated = Some(worse),
            Err(error) => {
                complaints.record(format!("telling new nodes to wait: {}", chain(&error)));
            }
        }
    }
}
