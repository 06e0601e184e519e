//! Creates what a plan says.
//!
//! Guarantees: a step that was done before, by this process or another, is no error, so that a restore that stopped half-way
//! can be run again, and two managers can do the same at once. Nothing is changed or deleted. A step that Docker refuses
//! does not stop the others, except where all would be refused.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::plan::{Plan, Step};
use crate::clients::docker::{Creatable, Named, Swarm, SwarmError, SwarmErrorKind};

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was created.
    Created,
    /// Somebody else has created it since the plan was made.
    Existed,
    /// Docker refused it, in its own words.
    Refused(String),
}

/// Carries out a plan. `report` is called after each step. Returns the number of steps that Docker has refused.
///
/// # Errors
/// When Docker does not answer, or this swarm has no leader: later steps were not tried, and the outcome of the step
/// before may be unknown. The same plan can be made and carried out again.
pub async fn apply(
    swarm: &Swarm,
    plan: &Plan,
    mut report: impl FnMut(&Step, &Done),
) -> Result<usize, SwarmError> {
    let mut ids: Option<Ids> = None;
    let mut refused = 0;
    for step in &plan.steps {
        let created = match step {
            Step::Labels(labels) => {
                let labels = labels.clone().into_iter().collect();
                swarm.label_swarm(&labels, None).await
            }
            Step::Network(spec) => swarm.create(Creatable::Network, spec).await,
            Step::Config(spec) => swarm.create(Creatable::Config, spec).await,
            Step::Service(spec) => {
                // Behind all configs.
                let ids = match &ids {
                    Some(ids) => ids,
                    None => ids.insert(Ids::fetch(swarm).await?),
                };
                swarm.create(Creatable::Service, &ids.fill_in(spec)).await
            }
        };
        let done = match created {
            Ok(()) => Done::Created,
            Err(error) if error.kind == SwarmErrorKind::NameTaken => Done::Existed,
            Err(error) if concerns_all(&error) => return Err(error),
            Err(error) => Done::Refused(without_values(&error.to_string())),
        };
        refused += usize::from(matches!(done, Done::Refused(_)));
        report(step, &done);
    }
    Ok(refused)
}

/// Cuts what Docker quotes of a spec: the error about a template in an environment variable has all of it.
fn without_values(said: &str) -> String {
    let quoted = "expanding env";
    said.split_once(quoted)
        .map_or_else(|| said.to_owned(), |(before, _)| format!("{before}{quoted} …"))
}

fn concerns_all(error: &SwarmError) -> bool {
    use SwarmErrorKind::{NoLeader, NotInSwarm, NotManager, PermissionDenied, Unreachable};
    error.is_silence()
        || [NoLeader, NotInSwarm, NotManager, PermissionDenied, Unreachable].contains(&error.kind)
}

/// The ids that configs and secrets have in this swarm, by name.
struct Ids {
    configs: BTreeMap<String, String>,
    secrets: BTreeMap<String, String>,
}

impl Ids {
    async fn fetch(swarm: &Swarm) -> Result<Self, SwarmError> {
        let by_name =
            |all: Vec<Named>| all.into_iter().map(|one| (one.name().to_owned(), one.id)).collect();
        Ok(Self {
            configs: by_name(swarm.fetch_configs().await?),
            secrets: by_name(swarm.fetch_secrets().await?),
        })
    }

    /// Returns the spec with the ids of this swarm. Docker refuses one that lacks an id.
    fn fill_in(&self, spec: &Value) -> Value {
        let mut spec = spec.clone();
        for (list, name, id, known) in [
            ("Configs", "ConfigName", "ConfigID", &self.configs),
            ("Secrets", "SecretName", "SecretID", &self.secrets),
        ] {
            let all = spec.pointer_mut(&format!("/TaskTemplate/ContainerSpec/{list}"));
            for one in all.and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(found) = one[name].as_str().and_then(|name| known.get(name)) {
                    one[id] = json!(found);
                }
            }
        }
        spec
    }
}
