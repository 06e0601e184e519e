//! Renews the credentials with which services pull: those of ECR expire after twelve hours, and a task that starts
//! later, on a node without the image, would be rejected.
//!
//! Guarantees: a service is updated with its auth header alone, at the version that was read, and only where that
//! neither restarts nor stops anything ([`decide`]); each service's credentials have half of their life left, or the
//! reason why not is reported. Credentials are in no log, and the ledger has only the times of their validity. Assumes
//! nothing about earlier acts: an act that was not recorded is done again, though not by the same skep, which tries to
//! record it again.
//!
//! The swarm's leader polls every [`LEADER_INTERVAL`]; the others act on services that are still due after
//! [`BACKUP_INTERVAL`], in case the leader's skep is dead.

mod decide;
#[cfg(test)]
pub(super) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::duty::{Duty, Poll};
use super::error::ManagerError;
use super::observe::Fleet;
use crate::clients::aws::AwsError;
use crate::clients::aws::ecr::{PullCredentials, Registry};
use crate::clients::docker::{Service, ServiceTask, SwarmErrorKind};
use crate::clients::ledger::RegistryAuth;
use crate::common::errors::chain;
use crate::common::log_once::LogOnce;
use crate::node::Node;

use decide::{Because, Change, Seen, Verdict, decide, decide_by_tasks, is_new, refused_since};

/// Longest wait of a new service for its first credentials.
const LEADER_INTERVAL: Duration = Duration::from_secs(10);
/// Interval of the other managers: the leader's skep has acted by then.
const BACKUP_INTERVAL: Duration = Duration::from_secs(60);
/// Name of this duty and of its trouble.
pub(super) const NAME: &str = "pull credentials";

/// State that saves calls and log lines; no decision rests on it alone.
#[derive(Default)]
struct Memory {
    /// By region.
    credentials: BTreeMap<String, Fetched>,
    /// Services that were due in the last poll.
    due: BTreeSet<String>,
    /// Reasons why services were left alone that were logged, by service.
    logged: LogOnce<String, Because>,
    /// Credentials that were given and could not be recorded yet, by service.
    unwritten: BTreeMap<String, RegistryAuth>,
}

/// Credentials, and the time when they were fetched.
#[derive(Clone)]
struct Fetched {
    since: OffsetDateTime,
    credentials: PullCredentials,
}

/// Problems that one poll has found.
#[derive(Default)]
struct Troubles {
    /// By region: the reason why there are no credentials, and the services that need them.
    refused: BTreeMap<String, (String, Vec<String>)>,
    /// Problems of one service each.
    others: Vec<String>,
}

/// Keeps the credentials of services fresh for as long as this node is a manager.
pub(super) async fn run(fleet: &Fleet<'_>) {
    let trouble = Some("cannot renew pull credentials");
    let duty = Duty { name: NAME, first: Duration::ZERO, after_failure: LEADER_INTERVAL, trouble };
    duty.run(fleet, poll).await;
}

async fn poll(
    Poll { fleet, memory, complaints }: Poll<'_, Memory>,
) -> Result<Duration, ManagerError> {
    let node = fleet.node;
    let is_leader = fleet.is_leader(&fleet.nodes(Instant::now()).await?);
    let services = node.swarm.fetch_services().await?;
    let of_ecr: Vec<(Service, Registry)> = services
        .into_iter()
        .filter_map(|service| {
            let registry = Registry::of_image(service.image()?)?;
            Some((service, registry))
        })
        .collect();
    let rows = if of_ecr.is_empty() { vec![] } else { node.ledger.fetch_registry_auths().await? };
    let is_there = |id: &String| of_ecr.iter().any(|(service, _)| service.id == *id);
    memory.logged.retain(is_there);
    memory.unwritten.retain(|id, _| is_there(id));
    let were_due = std::mem::take(&mut memory.due);
    let mut troubles = Troubles::default();
    for (service, registry) in &of_ecr {
        let seen = Seen::of(service, registry, memory.given(&service.id, &rows));
        let may_act = is_leader || were_due.contains(&service.id);
        match attend(node, service, registry, &seen, may_act, memory, &mut troubles).await {
            Ok(()) => {}
            Err(error) if error.is_not_manager() => return Err(error),
            // Another writer was first: the next poll decides again.
            Err(ManagerError::Swarm(error))
                if matches!(error.kind, SwarmErrorKind::Stale | SwarmErrorKind::NotFound) =>
            {
                tracing::debug!(service = service.name(), "{error}");
            }
            // A refusal for one service must not delay the others.
            Err(error) => {
                let why = chain(&error);
                troubles.others.push(format!(
                    "cannot renew the pull credentials of {}: {why}",
                    service.name()
                ));
            }
        }
    }
    memory.write_down(node, &mut troubles).await;
    let trouble = troubles.in_words();
    if let Some(trouble) = &trouble {
        complaints.record(trouble.clone());
    }
    node.state.trouble(NAME, trouble);
    Ok(if is_leader { LEADER_INTERVAL } else { BACKUP_INTERVAL })
}

/// Renews the credentials of one service if they are due, and reports problems.
async fn attend(
    node: &Node,
    service: &Service,
    registry: &Registry,
    seen: &Seen,
    may_act: bool,
    memory: &mut Memory,
    troubles: &mut Troubles,
) -> Result<(), ManagerError> {
    let now = OffsetDateTime::now_utc();
    let mut verdict = decide(seen, now);
    if verdict == Verdict::Due {
        memory.due.insert(service.id.clone());
    }
    let is_short = verdict == Verdict::Fresh && service.is_short_of_tasks();
    if may_act && (verdict == Verdict::Due || is_short) {
        let tasks = node.swarm.fetch_tasks_of_service(&service.id).await?;
        if is_short {
            let refused = refused_since(&tasks, service.updated_at);
            troubles.others.extend(refused.map(|task| rejected(service, registry, task)));
        } else {
            verdict = decide_by_tasks(seen, &tasks, now);
        }
    }
    match verdict {
        Verdict::Due if may_act => {
            memory.logged.retain(|id| *id != service.id);
            match memory.credentials_for(node, &registry.region, troubles).await {
                Some(fetched) => {
                    let row = give(node, service, registry, &fetched).await?;
                    memory.unwritten.insert(service.id.clone(), row);
                }
                None => troubles.is_without(&registry.region, service.name()),
            }
        }
        Verdict::LeaveAlone(because) if because.needs_somebody() => {
            let why = because.in_words();
            troubles.others.push(format!("{} gets no pull credentials: {why}", service.name()));
        }
        Verdict::LeaveAlone(because) => {
            let why = because.in_words();
            if memory.logged.is_news(service.id.clone(), because) {
                tracing::info!(
                    service = service.name(),
                    "the service keeps the credentials it has: {why}"
                );
            }
        }
        _ => {}
    }
    Ok(())
}

/// Returns the reason why a service with good credentials cannot run: the registry's own answer is only in the log of
/// the node's Docker.
fn rejected(service: &Service, registry: &Registry, task: &ServiceTask) -> String {
    let why = task.error.as_deref().unwrap_or("Docker gives no reason");
    let node = task.node_id.as_deref().unwrap_or("its node");
    format!(
        "tasks of {} are rejected although its credentials are good: {why}; Docker's log on {node} has \
         the answer of {}: check that the image exists, and that the managers' role may pull it \
         (ecr:BatchGetImage, ecr:GetDownloadUrlForLayer)",
        service.name(),
        registry.host
    )
}

/// Updates the service first: a row without an update would keep the service from its credentials. Returns the row for
/// the ledger.
async fn give(
    node: &Node,
    service: &Service,
    registry: &Registry,
    fetched: &Fetched,
) -> Result<RegistryAuth, ManagerError> {
    let Fetched { since, credentials } = fetched;
    node.swarm.update_registry_auth(service, credentials.header_for(registry)).await?;
    let expires_at = credentials.expires_at;
    tracing::info!(
        service = service.name(),
        registry = registry.host,
        until = %expires_at,
        "gave the service new pull credentials"
    );
    let (service_id, registry) = (service.id.clone(), registry.host.clone());
    Ok(RegistryAuth { service_id, registry, since: *since, expires_at })
}

impl Memory {
    /// Returns the credentials that a service was given last. A ledger that can be read but not written does not have
    /// them.
    fn given(&self, service_id: &str, rows: &[RegistryAuth]) -> Option<RegistryAuth> {
        let row = rows.iter().find(|row| row.service_id == service_id);
        self.unwritten.get(service_id).or(row).cloned()
    }

    async fn write_down(&mut self, node: &Node, troubles: &mut Troubles) {
        for (service_id, row) in std::mem::take(&mut self.unwritten) {
            if let Err(error) = node.ledger.record_registry_auth(&row).await {
                let why = chain(&error);
                let what = format!(
                    "cannot record the pull credentials of {service_id} in the ledger: {why}"
                );
                troubles.others.push(what);
                self.unwritten.insert(service_id, row);
            }
        }
    }

    /// Returns credentials of a region that are new enough to be given away. Fetches them at most once per poll where
    /// ECR refuses.
    async fn credentials_for(
        &mut self,
        node: &Node,
        region: &str,
        troubles: &mut Troubles,
    ) -> Option<Fetched> {
        let now = OffsetDateTime::now_utc();
        let known = self.credentials.get(region);
        let known = known.filter(|it| is_new(it.since, it.credentials.expires_at, now));
        if known.is_some() || troubles.refused.contains_key(region) {
            return known.cloned();
        }
        match node.ecr.fetch_credentials(region).await {
            Ok(credentials) => {
                let fetched = Fetched { since: now, credentials };
                self.credentials.insert(region.to_owned(), fetched.clone());
                Some(fetched)
            }
            Err(error) => {
                troubles.has_none(region, &error);
                None
            }
        }
    }
}

impl Troubles {
    fn has_none(&mut self, region: &str, error: &AwsError) {
        let why = chain(error);
        self.refused.insert(region.to_owned(), (why, vec![]));
    }

    fn is_without(&mut self, region: &str, service: &str) {
        if let Some((_, services)) = self.refused.get_mut(region) {
            services.push(service.to_owned());
        }
    }

    fn in_words(&self) -> Option<String> {
        let refused = self.refused.values().map(|(why, services)| {
            format!("no new pull credentials for {}: {why}", services.join(", "))
        });
        let all: Vec<String> = refused.chain(self.others.iter().cloned()).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

impl Seen {
    fn of(service: &Service, registry: &Registry, given: Option<RegistryAuth>) -> Self {
        Self {
            registry: registry.host.clone(),
            is_job: service.is_job(),
            unfinished_update: service.unfinished_update().map(str::to_owned),
            change: if service.was_rolled_back() {
                Change::RolledBack
            } else if service.has_another_to_roll_back_to() {
                Change::Changed
            } else {
                Change::None
            },
            updated_at: service.updated_at,
            given,
        }
    }
}
