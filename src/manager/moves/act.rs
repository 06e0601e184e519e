//! Takes a step for a service: edits its spec, or takes the edit back.

use std::collections::BTreeSet;

use time::OffsetDateTime;

use super::decide::{Step, Wait, count_on};
use super::spec::{self, Balanced, Edit, Kind, Record};
use super::{Moves, balance, balanced};
use crate::clients::docker::{Service, ServiceTask};
use crate::manager::error::ManagerError;
use crate::manager::observe::Fleet;

/// Time for which an edit for balance stands at most.
const BALANCE_LIMIT: time::Duration = time::Duration::minutes(5);

impl Moves {
    /// Returns the nodes that must wait, and for what.
    pub(super) async fn act(
        &self,
        fleet: &Fleet<'_>,
        service: &Service,
        tasks: &[ServiceTask],
        step: Step,
        until: Option<OffsetDateTime>,
    ) -> Result<Option<(Wait, BTreeSet<String>)>, ManagerError> {
        let (swarm, name) = (&fleet.node.swarm, service.name());
        match step {
            Step::None => Ok(None),
            Step::Wait(wait, nodes) => Ok(Some((wait, nodes))),
            Step::Move(nodes) => {
                let until = until.unwrap_or_else(OffsetDateTime::now_utc).unix_timestamp();
                let kind = Kind::Leave { at_once: count_on(&nodes, tasks) };
                let edit = Edit { kind, nodes: &nodes, until, balanced: balanced(service) };
                self.edit(fleet, service, &edit).await?;
                tracing::info!(service = name, ?nodes, "moving its tasks, new ones first");
                Ok(Some((Wait::Moving, nodes)))
            }
            Step::Announce(balance::Plan { node, keep, balanced }) => {
                let until = (OffsetDateTime::now_utc() + BALANCE_LIMIT).unix_timestamp();
                let (kind, nodes) = (Kind::Announce { keep }, [node.clone()].into());
                let edit = Edit { kind, nodes: &nodes, until, balanced: Some(balanced) };
                self.edit(fleet, service, &edit).await?;
                tracing::info!(
                    service = name,
                    node,
                    keep,
                    "a node has joined: this one will give up some of its tasks"
                );
                Ok(None)
            }
            Step::Pause(node) => {
                swarm.pause(&node).await?;
                tracing::info!(service = name, node, "no new tasks while it gives up some");
                Ok(None)
            }
            Step::Give => {
                let Some((keep, Record { nodes, until, balanced, .. })) = balancing(service) else {
                    return Ok(None);
                };
                let surplus = count_on(&nodes, tasks).saturating_sub(keep);
                let kind = Kind::Balance { surplus, keep };
                let edit = Edit { kind, nodes: &nodes, until, balanced };
                self.edit(fleet, service, &edit).await?;
                tracing::info!(service = name, ?nodes, surplus, "moving tasks, new ones first");
                Ok(None)
            }
            Step::Given => {
                self.given(fleet, service, false).await?;
                Ok(None)
            }
            Step::Restore => {
                self.restore(fleet, service).await?;
                Ok(None)
            }
            Step::GiveUp => {
                let is_balance = balancing(service).is_some();
                let then = match is_balance {
                    true => "they stay where they are",
                    false => "those on nodes that leave are stopped first",
                };
                tracing::warn!(
                    service = name,
                    "its tasks do not start on other nodes (`docker service ps`): {then}"
                );
                match is_balance {
                    true => self.given(fleet, service, true).await?,
                    false => self.restore(fleet, service).await?,
                }
                Ok(None)
            }
            Step::Refuse(why) => {
                self.refuse(service, "before they are stopped", why);
                Ok(None)
            }
            Step::Uneven(why) => {
                self.refuse(service, "to nodes that join", why);
                Ok(None)
            }
        }
    }

    /// Logs once why the tasks of a service are not moved.
    fn refuse(&self, service: &Service, what: &'static str, why: String) {
        let key = (service.id.clone(), what);
        if self.0.borrow_mut().logged.is_news(key, why.clone()) {
            tracing::warn!(service = service.name(), "its tasks are not moved {what}: {why}");
        }
    }

    async fn edit(
        &self,
        fleet: &Fleet<'_>,
        service: &Service,
        edit: &Edit<'_>,
    ) -> Result<(), ManagerError> {
        {
            // Also where the answer is lost.
            let mut memory = self.0.borrow_mut();
            memory.is_open = true;
            memory.edited.insert(service.id.clone());
        }
        let spec = spec::edited(service.spec(), former_image(service), edit);
        Ok(fleet.node.swarm.update_service(service, &spec).await?)
    }

    /// Takes an edit for balance back, all but its record.
    async fn given(
        &self,
        fleet: &Fleet<'_>,
        service: &Service,
        has_failed: bool,
    ) -> Result<(), ManagerError> {
        let Some((keep, Record { nodes, until, balanced, .. })) = balancing(service) else {
            return Ok(());
        };
        let balanced = balanced.map(|it| Balanced { has_failed, ..it });
        let kind = Kind::Given { keep };
        self.edit(fleet, service, &Edit { kind, nodes: &nodes, until, balanced }).await
    }

    async fn restore(&self, fleet: &Fleet<'_>, service: &Service) -> Result<(), ManagerError> {
        fleet.node.swarm.update_service(service, &spec::restored(service.spec())).await?;
        tracing::info!(service = service.name(), "its spec is the operator's again");
        Ok(())
    }
}

/// Returns the edit for balance in which a service is, and the number of tasks that its node keeps.
fn balancing(service: &Service) -> Option<(usize, Record)> {
    let record = spec::record(service.spec())?;
    Some((record.keep?, record))
}

/// Returns the image to which `docker service rollback` leads, if it is another one, and an operator's.
fn former_image(service: &Service) -> Option<&str> {
    let previous = service.previous_spec()?;
    let image = previous["TaskTemplate"]["ContainerSpec"]["Image"].as_str()?;
    let is_own = !previous["Labels"][spec::RECORD].is_null();
    (!is_own && service.image() != Some(image)).then_some(image)
}
