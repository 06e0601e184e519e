//! What each metric is called and what it says.

use std::borrow::Cow;

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::{Known, Metrics};

/// The label of every series.
const CLUSTER: &str = "cluster";

impl Metrics {
    /// Everything under its name, with the cluster where that is known. It is not when counting begins, and
    /// a registry cannot be given labels later: one is made for each page.
    pub(super) fn registry(&self, cluster: Option<&str>) -> Registry {
        let labels = cluster.map(|name| (Cow::from(CLUSTER), Cow::from(name.to_owned())));
        let mut all = Registry::with_prefix_and_labels("skep", labels.into_iter());
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        all.register("build", "The skep that runs here", build);
        self.register_node(&mut all);
        self.register_departures(&mut all);
        self.register_aws(&mut all);
        self.register_managers(&mut all);
        all
    }

    fn register_node(&self, all: &mut Registry) {
        all.register(
            "phase",
            "1 for the phase that this node is in, 0 for the others",
            self.phase.clone(),
        );
        all.register(
            "in_trouble",
            "1 while there is something that this node cannot do for the swarm; `skep status` says what",
            self.in_trouble.clone(),
        );
        all.register_with_unit(
            "step_duration",
            "What each step of boot and departure took on this node",
            Unit::Seconds,
            self.step.clone(),
        );
        all.register(
            "hook_runs",
            "Executables in hooks.d that have been run, by what came of it",
            self.hooks.clone(),
        );
        all.register(
            "webhook_deliveries",
            "Events told to the webhook, retries not counted, by what came of it",
            self.webhooks.clone(),
        );
    }

    fn register_departures(&self, all: &mut Registry) {
        seconds(
            all,
            "departure_noticed_timestamp",
            "When this node was told to leave; only while it is leaving",
            &self.noticed,
        );
        seconds(
            all,
            "departure_deadline_timestamp",
            "When the machine goes, whatever this node has managed by then; only while it is leaving",
            &self.deadline,
        );
        all.register(
            "departures",
            "Departures of this node itself that have ended, by their reason",
            self.departures.clone(),
        );
        all.register(
            "tasks_drained",
            "Tasks that have ended on this node while it was leaving",
            self.tasks_drained.clone(),
        );
        all.register(
            "tasks_killed",
            "Tasks that were killed without their grace while this node was leaving",
            self.tasks_killed.clone(),
        );
        all.register("flushes", "Runs of a flusher, by what came of it", self.flushes.clone());
        all.register(
            "flush_lines",
            "Lines that a flusher says it has sent, or could not send in its time",
            self.lines.clone(),
        );
    }

    fn register_aws(&self, all: &mut Registry) {
        all.register(
            "aws_calls",
            "Requests to AWS, each attempt of the SDK counted, by what came of it",
            self.calls.clone(),
        );
        all.register("aws_throttles", "Requests that AWS has throttled", self.throttles.clone());
        all.register(
            "heartbeats",
            "Heartbeats sent for termination hooks, of this node and, by managers, of others",
            self.heartbeats.clone(),
        );
        seconds(
            all,
            "ledger_age",
            "Time since the ledger has answered this node for the last time",
            &self.ledger_age,
        );
    }

    fn register_managers(&self, all: &mut Registry) {
        all.register(
            "removals",
            "Nodes that this manager has taken off the list, by the reason of their departure",
            self.removals.clone(),
        );
        all.register(
            "quorum_margin",
            "How many managers may be lost before the swarm loses its quorum, -1 without a leader; on managers only",
            self.quorum_margin.clone(),
        );
        all.register(
            "quorum_managers",
            "How many managers the swarm has, reachable or not; on managers only, and not without a leader",
            self.quorum_managers.clone(),
        );
        seconds(
            all,
            "quorum_lost_timestamp",
            "Since when this manager has had no leader, once that is more than an election; only while the quorum is lost",
            &self.quorum_lost,
        );
    }
}

fn seconds(all: &mut Registry, name: &str, help: &str, metric: &Known) {
    all.register_with_unit(name, help, Unit::Seconds, metric.clone());
}
