//! Registers each metric with its name and description.

use std::borrow::Cow;

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::{Known, Metrics};

/// The label of every series.
const CLUSTER: &str = "cluster";

impl Metrics {
    /// Returns all metrics under their names, with the cluster if it is known. It is unknown when counting begins, and
    /// a registry accepts no labels later: each page gets a new one.
    pub(super) fn registry(&self, cluster: Option<&str>) -> Registry {
        let labels = cluster.map(|name| (Cow::from(CLUSTER), Cow::from(name.to_owned())));
        let mut all = Registry::with_prefix_and_labels("skep", labels.into_iter());
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        all.register("build", "Version of skep", build);
        self.register_node(&mut all);
        self.register_departures(&mut all);
        self.register_aws(&mut all);
        self.register_managers(&mut all);
        self.register_capacity(&mut all);
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
            "1 while there is something that this node cannot do for the swarm; `skep status` shows it",
            self.in_trouble.clone(),
        );
        all.register_with_unit(
            "step_duration",
            "Duration of each step of boot and departure on this node",
            Unit::Seconds,
            self.step.clone(),
        );
        all.register(
            "hook_script_runs",
            "Runs of hook scripts, by event and result",
            self.hooks.clone(),
        );
        all.register(
            "webhook_deliveries",
            "Deliveries of events to the webhook, without retries, by event and result",
            self.webhooks.clone(),
        );
    }

    fn register_departures(&self, all: &mut Registry) {
        seconds(
            all,
            "departure_noticed_timestamp",
            "Time of the notice that this node must leave; only while it is leaving",
            &self.noticed,
        );
        seconds(
            all,
            "departure_deadline_timestamp",
            "Time when the machine ends, whatever this node has finished by then; only while it is leaving",
            &self.deadline,
        );
        all.register(
            "departures",
            "Departures of this node that have ended, by cause and outcome",
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
        all.register("flushes", "Runs of flushers, by flusher and result", self.flushes.clone());
        all.register(
            "flush_lines",
            "Lines that a flusher reports as sent, or as not sent in its time",
            self.lines.clone(),
        );
    }

    fn register_aws(&self, all: &mut Registry) {
        all.register(
            "aws_calls",
            "Requests to AWS, including each retry of the SDK, by operation and result",
            self.calls.clone(),
        );
        all.register(
            "docker_calls",
            "Requests to Docker on this host, by operation and result",
            self.docker_calls.clone(),
        );
        all.register("aws_throttles", "Requests that AWS throttled", self.throttles.clone());
        all.register(
            "heartbeats",
            "Heartbeats sent for termination hooks, of this node and, by managers, of others",
            self.heartbeats.clone(),
        );
        seconds(
            all,
            "ledger_age",
            "Time since the last answer of the ledger to this node",
            &self.ledger_age,
        );
    }

    fn register_managers(&self, all: &mut Registry) {
        all.register(
            "removals",
            "Nodes that this manager has removed from the node list, by cause and outcome",
            self.removals.clone(),
        );
        all.register(
            "departures_waiting",
            "Nodes that must leave and are not drained yet, by what they wait for (traffic or turn); on managers only",
            self.waiting.clone(),
        );
        all.register(
            "quorum_margin",
            "Number of managers that the swarm can lose without losing its quorum, -1 without a leader; on managers only",
            self.quorum_margin.clone(),
        );
        all.register(
            "quorum_managers",
            "Number of managers of the swarm, reachable or not; on managers only, and not without a leader",
            self.quorum_managers.clone(),
        );
        all.register_with_unit(
            "duty_last_success_timestamp",
            "Time of the last poll of each duty without a failure; on managers only",
            Unit::Seconds,
            self.duty_succeeded.clone(),
        );
        all.register_with_unit(
            "duty_last_failure_timestamp",
            "Time of the last poll of each duty that failed, for all nodes or for one; on managers only",
            Unit::Seconds,
            self.duty_failed.clone(),
        );
        all.register_with_unit(
            "duty_longest_poll",
            "Longest poll of each duty since skep started; on managers only",
            Unit::Seconds,
            self.duty_longest.clone(),
        );
        seconds(
            all,
            "quorum_lost_timestamp",
            "Time since when this manager has had no leader, if longer than an election; only while the quorum is lost",
            &self.quorum_lost,
        );
    }
}

fn seconds(all: &mut Registry, name: &str, help: &str, metric: &Known) {
    all.register_with_unit(name, help, Unit::Seconds, metric.clone());
}
