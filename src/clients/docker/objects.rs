//! Reads and creates the objects that a swarm consists of beside its nodes: networks, configs, secrets, services. They
//! stay JSON as Docker sends it, so that no field is lost that this skep does not know.
//!
//! Specs are read and sent in the newest API version that the engine offers, as in [`super::services`]. No error contains
//! a spec: it may hold environment variables, and a config its data.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;

use super::raw::Request;
use super::{Swarm, SwarmError, SwarmErrorKind};

/// `{"scope":["swarm"]}`, escaped.
const OF_THE_SWARM: &str = "networks?filters=%7B%22scope%22%3A%5B%22swarm%22%5D%7D";

/// A config or a secret.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Named {
    /// Docker's id.
    #[serde(rename = "ID")]
    pub id: String,
    /// Name, labels, and the data of a config; Docker never tells those of a secret.
    pub spec: Value,
}

impl Named {
    /// Returns its name; its id where the spec has no name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.spec["Name"].as_str().unwrap_or(&self.id)
    }
}

/// The kinds of objects that can be created by a spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creatable {
    /// A network.
    Network,
    /// A config.
    Config,
    /// A service.
    Service,
}

impl Creatable {
    fn path(self) -> &'static str {
        match self {
            Self::Network => "networks/create",
            Self::Config => "configs/create",
            Self::Service => "services/create",
        }
    }

    fn operation(self) -> &'static str {
        match self {
            Self::Network => "create a network",
            Self::Config => "create a config",
            Self::Service => "create a service",
        }
    }
}

impl Swarm {
    /// Fetches the swarm's networks, as Docker describes them; not the predefined ones, which every swarm has.
    ///
    /// # Errors
    /// As for [`Swarm::fetch_services`].
    pub async fn fetch_swarm_networks(&self) -> Result<Vec<Value>, SwarmError> {
        let networks: Vec<Value> =
            self.read_newest("list the networks of the swarm", OF_THE_SWARM).await?;
        // An engine that does not know the filter lists those of this host, too.
        Ok(networks.into_iter().filter(|network| network["Scope"] == "swarm").collect())
    }

    /// Fetches the name of a swarm's network by its id, predefined ones included; `None` if there is none.
    ///
    /// # Errors
    /// As for [`Swarm::fetch_services`].
    pub async fn fetch_network_name(&self, id: &str) -> Result<Option<String>, SwarmError> {
        // An id is one segment of a path.
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Ok(None);
        }
        let path = format!("networks/{id}?scope=swarm");
        match self.read_newest::<Value>("inspect a network", &path).await {
            Ok(network) => Ok(network["Name"].as_str().map(str::to_owned)),
            Err(error) if error.kind == SwarmErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Fetches the configs with their data.
    ///
    /// # Errors
    /// As for [`Swarm::fetch_services`].
    pub async fn fetch_configs(&self) -> Result<Vec<Named>, SwarmError> {
        self.read_newest("list the configs", "configs").await
    }

    /// Fetches the secrets; Docker never tells their data.
    ///
    /// # Errors
    /// As for [`Swarm::fetch_services`].
    pub async fn fetch_secrets(&self) -> Result<Vec<Named>, SwarmError> {
        self.read_newest("list the secrets", "secrets").await
    }

    /// Fetches all labels of the swarm object.
    ///
    /// # Errors
    /// As for [`Swarm::fetch_cluster`].
    pub async fn fetch_swarm_labels(&self) -> Result<BTreeMap<String, String>, SwarmError> {
        Ok(self.fetch_cluster().await?.labels.into_iter().collect())
    }

    /// Creates an object. Docker refuses it if one of the same name exists.
    ///
    /// # Errors
    /// [`SwarmErrorKind::NameTaken`], and as for [`Swarm::fetch_services`]. After a timeout the outcome is unknown.
    pub async fn create(&self, kind: Creatable, spec: &Value) -> Result<(), SwarmError> {
        let api = self.fetch_offer().await?.newest();
        let body = spec.to_string().into_bytes();
        let request = Request { body, ..Request::new(Method::POST, kind.path()) };
        self.exchange_unabridged(kind.operation(), api, &request).await.map(drop)
    }

    async fn read_newest<T: serde::de::DeserializeOwned>(
        &self,
        operation: &'static str,
        path: &str,
    ) -> Result<T, SwarmError> {
        let api = self.fetch_offer().await?.newest();
        let request = Request::new(Method::GET, path);
        let body = self.exchange_unabridged(operation, api, &request).await?;
        // serde's error could quote a value.
        serde_json::from_slice(&body)
            .map_err(|_| SwarmError::unexpected(operation, "Docker's answer cannot be parsed"))
    }
}
