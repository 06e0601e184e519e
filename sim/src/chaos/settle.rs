//! Ends a round: heals everything, and waits until the fleet is whole again.

use std::time::Duration;

use anyhow::{Context, ensure};
use bollard::models::{
    Node, NodeSpecAvailabilityEnum, NodeSpecRoleEnum, NodeState, Reachability, Service, Task,
};
use bollard::query_parameters::ListTasksOptions;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::perform::{Performer, SERVICES, scale};
use super::plan::{MANAGERS, Role, WORKERS};
use super::rows::text;
use crate::cloud::{InstanceView, LifecycleState};
use crate::fleet::{Instance, is_running};

/// Replicas of the first two services; the third runs on every node.
pub const REPLICAS: [u64; 2] = [6, 2];
/// Timeout of one call: Docker's managers answer within this, or not at all.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Beginnings of the keys of temporary rows, which are deleted when their subject is done.
const PASSING: [&str; 3] = ["attempt#", "demotion-request#", "lease#demotion"];

impl Performer<'_> {
    /// Ends all faults that are still active, as time or an attentive operator would.
    pub async fn heal(&self) -> anyhow::Result<()> {
        let cloud = self.fleet.cloud();
        cloud.faults().clear();
        cloud.set_clock_offset(time::Duration::ZERO);
        self.rows().delete_nonsense()?;
        for instance in self.fleet.instances() {
            instance.mend()?;
            if cloud
                .instance(instance.id())
                .is_some_and(|it| it.lifecycle == LifecycleState::Standby)
            {
                cloud.exit_standby(instance.id())?;
            }
        }
        cloud.set_desired(&self.group(Role::Manager), MANAGERS)?;
        cloud.set_desired(&self.group(Role::Worker), WORKERS)?;
        // An error is ignored here: `settle` reports a service that is not whole.
        self.update_service(|spec| scale(spec, REPLICAS[0])).await.ok();
        Ok(())
    }

    /// Waits until the fleet is whole. Returns how long that took.
    ///
    /// # Errors
    /// At the timeout: the first thing that is not as it must be.
    pub async fn settle(&self, limit: Duration) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        loop {
            self.terminate_who_has_left();
            let looked = timeout(Duration::from_secs(20), self.is_whole()).await;
            let problem = match looked {
                Ok(Ok(())) => return Ok(begin.elapsed()),
                Ok(Err(problem)) => problem,
                Err(_) => anyhow::anyhow!("the managers do not answer"),
            };
            if begin.elapsed() > limit {
                return Err(problem.context(format!("not whole after {} s", limit.as_secs())));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Terminates instances that have left the swarm for good and stay on, as an operator does: after a notice that was
    /// withdrawn too late, or after `skep leave`.
    fn terminate_who_has_left(&self) {
        let cloud = self.fleet.cloud();
        let left = self.hurt.borrow().left.clone();
        for instance in left.iter().filter_map(|id| self.fleet.instance(id)) {
            let serves = cloud
                .instance(instance.id())
                .is_some_and(|view| view.lifecycle == LifecycleState::InService);
            if serves && instance.is_on() && !instance.skep_running() && ended_well(&instance) {
                self.say(Some(instance.id()), "has left and stays on: terminated");
                // Refused if Auto Scaling already terminates the instance.
                cloud.terminate(instance.id(), false).ok();
            }
        }
    }

    /// Checks that the fleet is whole.
    ///
    /// # Errors
    /// Names the first thing that is not as it must be.
    async fn is_whole(&self) -> anyhow::Result<()> {
        let serving = self.all_serve()?;
        let docker = self.fleet.manager_docker().await?;
        let nodes = timeout(ANSWER_LIMIT, docker.list_nodes(None)).await??;
        nodes_are_whole(&nodes, &serving)?;
        let tasks = timeout(ANSWER_LIMIT, docker.list_tasks(None::<ListTasksOptions>)).await??;
        let services = timeout(ANSWER_LIMIT, docker.list_services(None)).await??;
        for (name, wanted) in SERVICES.iter().zip([REPLICAS[0], REPLICAS[1], nodes.len() as u64]) {
            let is_named = |it: &&Service| {
                it.spec.as_ref().and_then(|spec| spec.name.as_deref()) == Some(*name)
            };
            let service = services.iter().find(is_named).and_then(|it| it.id.as_ref());
            ensure!(service.is_some(), "there is no service {name}");
            let is_its = |task: &Task| task.service_id.as_ref() == service;
            let running =
                tasks.iter().filter(|task| is_its(task) && is_running(task)).count() as u64;
            ensure!(running == wanted, "{running} of {wanted} tasks of {name} run");
        }
        let swarm = timeout(ANSWER_LIMIT, docker.inspect_swarm()).await??;
        let tokens = swarm.join_tokens.context("no join tokens")?;
        self.ledger_is_whole(&serving, swarm.id.as_deref().context("no swarm id")?)?;
        self.tokens_are_stored(&[
            (Role::Worker, tokens.worker.context("no worker token")?),
            (Role::Manager, tokens.manager.context("no manager token")?),
        ])
    }

    fn all_serve(&self) -> anyhow::Result<Vec<InstanceView>> {
        let serving = self.fleet.cloud().instances();
        for (role, wanted) in [(Role::Manager, MANAGERS), (Role::Worker, WORKERS)] {
            let group = self.group(role);
            let count = serving.iter().filter(|it| it.group == group).count();
            ensure!(count == wanted as usize, "{count} of {wanted} {role}s are there");
        }
        for view in &serving {
            let id = &view.id;
            ensure!(
                view.lifecycle == LifecycleState::InService,
                "{id} is {}",
                view.lifecycle.as_str()
            );
            let instance = self.fleet.instance(id).with_context(|| format!("no machine {id}"))?;
            ensure!(instance.skep_running(), "skep of {id} does not run: {:?}", instance.exits());
            ensure!(instance.is_ready(), "skep of {id} is not ready");
        }
        Ok(serving)
    }

    /// Checks that every row belongs to a present instance, and that no departure is unfinished.
    fn ledger_is_whole(&self, serving: &[InstanceView], swarm_id: &str) -> anyhow::Result<()> {
        let rows = self.rows().all()?;
        let begins = |row: &Value, with: &str| text(row, "item").starts_with(with);
        let charter =
            rows.iter().find(|row| text(row, "item") == "charter").context("no charter")?;
        ensure!(text(charter, "phase") == "open", "the charter is {}", text(charter, "phase"));
        let named = text(charter, "swarm_id");
        ensure!(named == swarm_id, "the charter names {named}, Docker {swarm_id}");
        let members: Vec<&Value> = rows.iter().filter(|row| begins(row, "member#")).collect();
        for view in serving {
            let own = members.iter().filter(|row| text(row, "item").ends_with(&view.id)).count();
            ensure!(own == 1, "{} has {own} member rows", view.id);
        }
        for row in &members {
            let item = text(row, "item");
            ensure!(serving.iter().any(|it| item.ends_with(&it.id)), "a stale row: {item}");
            ensure!(text(row, "state") == "ready", "{item} is {}", text(row, "state"));
        }
        for row in rows.iter().filter(|row| begins(row, "departure#")) {
            let (item, state) = (text(row, "item"), text(row, "state"));
            let is_over = ["removed", "failed"].contains(&state);
            ensure!(is_over, "{item} is {state}");
        }
        // The attempt of an instance that never became Ready is left to DynamoDB, which deletes it after a week.
        let is_present = |row: &Value| {
            let item = text(row, "item");
            !begins(row, "attempt#") || serving.iter().any(|it| item.ends_with(&it.id))
        };
        let mut rows = rows.iter().filter(|row| is_present(row));
        let passing = rows.find(|row| PASSING.iter().any(|with| begins(row, with)));
        ensure!(
            passing.is_none(),
            "a row is left: {}",
            passing.map_or("", |row| text(row, "item"))
        );
        Ok(())
    }

    fn tokens_are_stored(&self, tokens: &[(Role, String)]) -> anyhow::Result<()> {
        for (role, token) in tokens {
            let is_stored = self.rows().tokens(*role)?.iter().any(|(_, stored)| stored == token);
            ensure!(is_stored, "the {role}'s token is not the one in the store");
        }
        Ok(())
    }
}

fn ended_well(instance: &Instance) -> bool {
    instance.exit_codes().last() == Some(&0)
}

/// Checks that the node list has exactly the instances in service, all ready and without holds.
fn nodes_are_whole(nodes: &[Node], serving: &[InstanceView]) -> anyhow::Result<()> {
    ensure!(nodes.len() == serving.len(), "{} of {} nodes are listed", nodes.len(), serving.len());
    let mut leaders = 0;
    for node in nodes {
        let name = node.description.as_ref().and_then(|it| it.hostname.as_deref()).unwrap_or("?");
        let state = node.status.as_ref().and_then(|status| status.state);
        ensure!(state == Some(NodeState::READY), "{name} is {state:?}");
        let spec = node.spec.as_ref().with_context(|| format!("{name} has no spec"))?;
        let availability = spec.availability;
        ensure!(
            availability == Some(NodeSpecAvailabilityEnum::ACTIVE),
            "the availability of {name} is {availability:?}"
        );
        let labels = spec.labels.clone().unwrap_or_default();
        ensure!(!labels.contains_key("skep.availability"), "a hold is left on {name}: {labels:?}");
        if let Some(raft) = &node.manager_status {
            ensure!(raft.reachability == Some(Reachability::REACHABLE), "{name} is not reachable");
            leaders += usize::from(raft.leader == Some(true));
        } else {
            ensure!(spec.role == Some(NodeSpecRoleEnum::WORKER), "{name} is no manager yet");
        }
    }
    let managers = nodes.iter().filter(|node| node.manager_status.is_some()).count();
    ensure!(managers == MANAGERS as usize, "{managers} managers are listed");
    ensure!(leaders == 1, "{leaders} leaders are listed");
    Ok(())
}
