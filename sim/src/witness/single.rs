//! Watches a service of one replica: for how long no task of it ran, and where it ran.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use bollard::models::Task;
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use crate::fleet::{Fleet, is_running};

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Timeout of a poll: during an election no manager answers, and that is no gap.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was seen since a task first ran.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Single {
    pub looks: usize,
    /// The longest time in seconds between two looks that showed a running task, with others in between that showed none.
    pub longest_gap: f64,
    /// Docker's ids of the nodes on which it ran.
    pub nodes: BTreeSet<String>,
    #[serde(skip)]
    ran_at: Option<Instant>,
    #[serde(skip)]
    is_in_gap: bool,
}

impl Single {
    /// Records the tasks of the service, as a manager lists them.
    pub fn saw(&mut self, tasks: &[Task], now: Instant) {
        let running: Vec<&Task> = tasks.iter().filter(|task| is_running(task)).collect();
        let Some(ran_at) = self.ran_at.or_else(|| (!running.is_empty()).then_some(now)) else {
            return;
        };
        self.looks += 1;
        if self.is_in_gap || running.is_empty() {
            self.longest_gap = self.longest_gap.max((now - ran_at).as_secs_f64());
        }
        self.is_in_gap = running.is_empty();
        self.ran_at = Some(if self.is_in_gap { ran_at } else { now });
        self.nodes.extend(running.into_iter().filter_map(|task| task.node_id.clone()));
    }
}

/// Polls the service, and hands in its tasks, for as long as it is polled itself.
pub async fn watch(fleet: &Fleet, service: &str, saw: impl Fn(&[Task])) -> Infallible {
    loop {
        if let Ok(Ok(tasks)) = timeout(PATIENCE, fleet.tasks_of_service(service)).await {
            saw(&tasks);
        }
        sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_the_time_between_two_running_tasks_with_none_in_between() {
        let task = |desired: &str, node: &str| {
            let task = serde_json::json!({
                "NodeID": node, "DesiredState": desired, "Status": { "State": "running" },
            });
            serde_json::from_value::<Task>(task).unwrap()
        };
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut single = Single::default();
        single.saw(&[], start);
        single.saw(&[task("running", "a")], start + 5 * second);
        // No manager has answered for long.
        single.saw(&[task("running", "a"), task("running", "b")], start + 60 * second);
        single.saw(&[task("shutdown", "a"), task("running", "b")], start + 61 * second);
        assert_eq!((single.longest_gap, single.looks, single.nodes.len()), (0.0, 3, 2));
        single.saw(&[task("shutdown", "b")], start + 62 * second);
        single.saw(&[], start + 63 * second);
        assert_eq!(single.longest_gap, 2.0);
        single.saw(&[task("running", "a")], start + 64 * second);
        single.saw(&[task("running", "a")], start + 80 * second);
        assert_eq!(single.longest_gap, 3.0);
    }
}
