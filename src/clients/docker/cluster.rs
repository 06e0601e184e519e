//! Reads and changes the swarm object: its labels, its join tokens and the unlock key of its managers.

use std::collections::HashMap;

use bollard::Docker;
use bollard::models::{
    Swarm as Inspected, SwarmSpec, SwarmSpecEncryptionConfig, UnlockKeyResponse,
};
use bollard::query_parameters::UpdateSwarmOptionsBuilder;
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::raw::Request;
use super::{GENERATION_LABEL, Swarm, SwarmError, SwarmErrorKind};
use crate::common::instance::HIGHEST_GENERATION;

/// Number of attempts of a write that conflicts with another write: swarmkit, too, writes to the swarm object while its
/// root CA changes.
const WRITE_ATTEMPTS: usize = 5;

/// The swarm that this manager is in.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Docker's id of the swarm.
    pub id: String,
    /// By the clock of the host that founded it.
    pub created_at: Option<OffsetDateTime>,
    /// Labels of the swarm object, such as `skep.cluster` and `skep.generation`.
    pub labels: HashMap<String, String>,
    /// The join tokens that are valid now; a rotation replaces them.
    pub tokens: Tokens,
    /// Whether autolock is on: managers that restart need the unlock key.
    pub is_autolocked: bool,
}

impl Cluster {
    /// Returns the generation under which it was founded, or under which its quorum was re-created, by its own label. A
    /// number above `HIGHEST_GENERATION` is ignored, because no cluster can have counted to it.
    #[must_use]
    pub fn generation(&self) -> Option<u64> {
        let generation: u64 = self.labels.get(GENERATION_LABEL)?.parse().ok()?;
        (generation <= HIGHEST_GENERATION).then_some(generation)
    }
}

/// Both join tokens of the swarm that this manager is in.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// Token with which a node joins as a worker.
    pub worker: SecretString,
    /// Token with which a node joins as a manager.
    pub manager: SecretString,
}

/// The secrets of the swarm to rotate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// Whether to rotate the worker join token.
    pub worker_token: bool,
    /// Whether to rotate the manager join token.
    pub manager_token: bool,
    /// Whether to rotate the manager unlock key.
    pub unlock_key: bool,
}

/// The outcome of an attempt to unlock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnlockAnswer {
    /// Docker accepted it, or needed none.
    Unlocked,
    /// It is of another swarm, or was rotated after this manager was last connected.
    WrongKey,
    /// No answer in time: where all managers are locked, the first one waits for the second.
    Unknown,
}

impl Swarm {
    /// Fetches the swarm object. Managers only.
    ///
    /// # Errors
    /// [`SwarmErrorKind::NotManager`], or no leader.
    pub async fn fetch_cluster(&self) -> Result<Cluster, SwarmError> {
        const OPERATION: &str = "inspect the swarm";
        let swarm = self.inspect_swarm(OPERATION).await?;
        let spec = swarm.spec.unwrap_or_default();
        let tokens = swarm.join_tokens.unwrap_or_default();
        match (swarm.id, tokens.worker, tokens.manager) {
            (Some(id), Some(worker), Some(manager)) => Ok(Cluster {
                id,
                created_at: swarm
                    .created_at
                    .and_then(|at| OffsetDateTime::parse(&at, &Rfc3339).ok()),
                labels: spec.labels.unwrap_or_default(),
                tokens: Tokens { worker: worker.into(), manager: manager.into() },
                is_autolocked: spec
                    .encryption_config
                    .and_then(|encryption| encryption.auto_lock_managers)
                    .unwrap_or_default(),
            }),
            _ => Err(SwarmError::unexpected(
                OPERATION,
                "Docker's answer lacks the id or a join token",
            )),
        }
    }

    /// Fetches the swarm's labels and its join tokens. Managers only.
    ///
    /// # Errors
    /// As for [`Swarm::fetch_cluster`].
    pub async fn fetch_swarm(&self) -> Result<(HashMap<String, String>, Tokens), SwarmError> {
        let cluster = self.fetch_cluster().await?;
        Ok((cluster.labels, cluster.tokens))
    }

    /// Adds labels to the swarm object; the others stay. `autolock` turns autolock on or off; `None` leaves it
    /// unchanged.
    ///
    /// # Errors
    /// As for [`Swarm::rotate`].
    pub async fn label_swarm(
        &self,
        labels: &HashMap<String, String>,
        autolock: Option<bool>,
    ) -> Result<(), SwarmError> {
        let change = |spec: &mut SwarmSpec| {
            spec.labels.get_or_insert_default().extend(labels.clone());
            if autolock.is_some() {
                spec.encryption_config =
                    Some(SwarmSpecEncryptionConfig { auto_lock_managers: autolock });
            }
        };
        self.update("label the swarm", Rotation::default(), change).await
    }

    /// Removes labels from the swarm object; the others stay.
    ///
    /// # Errors
    /// As for [`Swarm::rotate`].
    pub async fn unlabel_swarm(&self, keys: &[&str]) -> Result<(), SwarmError> {
        let change = |spec: &mut SwarmSpec| {
            spec.labels.get_or_insert_default().retain(|key, _| !keys.contains(&key.as_str()));
        };
        self.update("remove labels of the swarm", Rotation::default(), change).await
    }

    /// Rotates secrets. No node can join with the old tokens from then on; nodes that are in the swarm stay.
    ///
    /// # Errors
    /// As for [`Swarm::fetch_cluster`]; after a timeout or without a leader the outcome is unknown.
    pub async fn rotate(&self, what: Rotation) -> Result<(), SwarmError> {
        self.update("rotate the swarm's secrets", what, |_| {}).await
    }

    async fn update(
        &self,
        operation: &'static str,
        what: Rotation,
        change: impl Fn(&mut SwarmSpec),
    ) -> Result<(), SwarmError> {
        for attempt in 1.. {
            let swarm = self.inspect_swarm(operation).await?;
            let version = swarm.version.and_then(|version| version.index).unwrap_or_default();
            let options = &UpdateSwarmOptionsBuilder::default()
                .version(i64::try_from(version).unwrap_or(i64::MAX))
                .rotate_worker_token(what.worker_token)
                .rotate_manager_token(what.manager_token)
                .rotate_manager_unlock_key(what.unlock_key)
                .build();
            let mut spec = swarm.spec.unwrap_or_default();
            change(&mut spec);
            let spec = &spec;
            let update = |docker: Docker| async move {
                docker.update_swarm(spec.clone(), options.clone()).await
            };
            match self.call(operation, update).await {
                Err(error) if error.kind == SwarmErrorKind::Stale && attempt < WRITE_ATTEMPTS => {}
                done => return done,
            }
        }
        unreachable!("the loop ends by returning")
    }

    /// Fetches the key that unlocks this swarm's managers; `None` where autolock is off. Managers only.
    ///
    /// # Errors
    /// As for [`Swarm::fetch_cluster`].
    pub async fn fetch_unlock_key(&self) -> Result<Option<SecretString>, SwarmError> {
        const OPERATION: &str = "read the unlock key";
        let (status, body) = self.ask(OPERATION, Method::GET, "unlockkey", Vec::new()).await?;
        if status != StatusCode::OK {
            return Err(SwarmError::answered(OPERATION, status.as_u16(), &body));
        }
        let answer: UnlockKeyResponse = serde_json::from_slice(&body)
            // serde's error could quote the key.
            .map_err(|_| SwarmError::unexpected(OPERATION, "Docker's answer cannot be parsed"))?;
        Ok(answer.unlock_key.filter(|key| !key.is_empty()).map(SecretString::from))
    }

    /// Unlocks this host's manager after a restart.
    ///
    /// # Errors
    /// Docker's refusal for another reason than the key.
    pub async fn unlock(&self, key: &SecretString) -> Result<UnlockAnswer, SwarmError> {
        const OPERATION: &str = "unlock the swarm";
        let body = json!({ "UnlockKey": key.expose_secret() }).to_string().into_bytes();
        match self.ask(OPERATION, Method::POST, "unlock", body).await {
            // 409: it is not locked (any more).
            Ok((StatusCode::OK | StatusCode::CONFLICT, _)) => Ok(UnlockAnswer::Unlocked),
            // 400: this engine does not accept the format of the key.
            Ok((StatusCode::UNAUTHORIZED | StatusCode::BAD_REQUEST, _)) => {
                Ok(UnlockAnswer::WrongKey)
            }
            Ok((status, body)) => Err(SwarmError::answered(OPERATION, status.as_u16(), &body)),
            Err(error) if error.kind == SwarmErrorKind::TimedOut => Ok(UnlockAnswer::Unknown),
            Err(error) => Err(error),
        }
    }

    async fn inspect_swarm(&self, operation: &'static str) -> Result<Inspected, SwarmError> {
        self.call(operation, |docker| async move { docker.inspect_swarm().await }).await
    }

    /// Makes a call below `/swarm` for which bollard has no function.
    async fn ask(
        &self,
        operation: &'static str,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Vec<u8>), SwarmError> {
        let path = format!("swarm/{path}");
        self.exchange(operation, &Request { body, ..Request::new(method, path) }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_that_nobody_can_have_counted_is_no_generation() {
        let of = |label: Option<String>| {
            let token = || SecretString::from("");
            let tokens = Tokens { worker: token(), manager: token() };
            let label = label.map(|it| (GENERATION_LABEL.to_owned(), it));
            let labels = label.into_iter().collect();
            let (id, created_at, is_autolocked) = ("c1".to_owned(), None, false);
            Cluster { id, created_at, labels, tokens, is_autolocked }.generation()
        };
        assert_eq!((of(None), of(Some("2".into()))), (None, Some(2)));
        assert_eq!(of(Some(HIGHEST_GENERATION.to_string())), Some(HIGHEST_GENERATION));
        for label in [(HIGHEST_GENERATION + 1).to_string(), u64::MAX.to_string(), "two".into()] {
            assert_eq!(of(Some(label)), None);
        }
    }
}
