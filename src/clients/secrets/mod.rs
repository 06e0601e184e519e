//! The secret store: for each generation of the charter, a join token per role and the unlock keys of a swarm with
//! autolock.
//!
//! | | SSM (SecureString) | DynamoDB: partition, item |
//! |---|---|---|
//! | worker's token | `/skep/<cluster>/worker-token/<generation>` | `<cluster>`, `token#worker#<generation>` |
//! | manager's token | `/skep/<cluster>/manager-token/<generation>` | `<cluster>#managers`, `token#manager#<generation>` |
//! | unlock keys | `/skep/<cluster>/manager-unlock-key/<generation>` | `<cluster>#managers`, `unlock-key#<generation>` |
//!
//! Guarantees: a secret never appears in a Debug, a Display or an error. Only the holder of a generation's claim, and
//! later the managers of its swarm, write under that generation, so that no write replaces a secret of another swarm.
//! IAM denies the managers' secrets to workers: they have their own paths, or their own partition for
//! `dynamodb:LeadingKeys`.

mod permission_probe;
mod token;
mod unlock;

use aws_sdk_ssm::Client as Ssm;
use aws_sdk_ssm::types::ParameterType;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use token::{JoinToken, MalformedToken};
pub use unlock::{UnlockKeys, is_same};

use crate::clients::aws::{AwsError, AwsErrorKind};
use crate::clients::ledger::{Condition, Ledger, LedgerError, Record};
use crate::common::errors::Explained;
use crate::common::instance::Role;

/// The place of the secrets.
#[derive(Clone, Debug)]
pub enum TokenStore {
    /// SSM: each secret is a parameter.
    Ssm {
        /// SSM in the region of the ledger.
        client: Ssm,
        /// Prefix of the parameters, such as `/skep/prod`, without a slash at the end.
        path: String,
        /// KMS key for the SecureString; the account's default key if `None`.
        kms_key: Option<String>,
    },
    /// DynamoDB: each secret is a row in the ledger's table.
    DynamoDb {
        /// The cluster's ledger, whose table stores the secrets, too.
        ledger: Ledger,
        /// The cluster's name, with which the key of the managers' partition starts.
        cluster: String,
    },
}

/// A failed access to the secret store. Contains no secret.
#[derive(Debug, Error)]
pub enum SecretsError {
    /// SSM refused the call or did not answer.
    #[error(transparent)]
    Aws(AwsError),
    /// The row of the secret cannot be read or written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The stored text is not a join token.
    #[error("{}", self.sentence("; "))]
    Malformed {
        /// Name of the parameter or of the item.
        place: String,
        /// Why the text is not a token.
        reason: MalformedToken,
    },
    /// The stored text has no unlock key, or has a line that is not one.
    #[error("{}", self.sentence(": "))]
    MalformedKey {
        /// Name of the parameter or of the item.
        place: String,
    },
}

impl Explained for SecretsError {
    fn evidence(&self) -> String {
        match self {
            Self::Aws(error) => error.evidence(),
            Self::Ledger(error) => error.evidence(),
            Self::Malformed { place, reason } => {
                format!("{place} holds no join token: {}", reason.evidence())
            }
            Self::MalformedKey { place } => format!("{place} holds no unlock key"),
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Aws(error) => error.remedy(),
            Self::Ledger(error) => error.remedy(),
            Self::Malformed { reason, .. } => reason.remedy(),
            Self::MalformedKey { .. } => Some(
                "store the output of `docker swarm unlock-key -q` from a manager that is not locked"
                    .to_owned(),
            ),
        }
    }
}

impl SecretsError {
    /// Whether the same call may succeed a moment later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Aws(error) => error.is_retryable(),
            Self::Ledger(error) => error.is_retryable(),
            Self::Malformed { .. } | Self::MalformedKey { .. } => false,
        }
    }
}

/// A secret that is stored per generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// The join token of a role.
    Token(Role),
    /// The last unlock keys of the managers.
    UnlockKeys,
}

/// The row of a token in DynamoDB.
#[derive(Serialize, Deserialize)]
struct TokenRow {
    token: String,
}

/// The row of the unlock keys.
#[derive(Serialize, Deserialize)]
struct KeysRow {
    unlock_keys: String,
}

/// The content is checked when it is parsed as a token.
impl Record for TokenRow {
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// The content is checked when it is parsed as keys.
impl Record for KeysRow {
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

impl TokenStore {
    /// Returns the name of a parameter or of an item. The name is not secret, and operators search for it.
    #[must_use]
    pub fn place(&self, item: Item, generation: u64) -> String {
        match (self, item) {
            (Self::Ssm { path, .. }, Item::Token(role)) => {
                format!("{path}/{role}-token/{generation}")
            }
            (Self::Ssm { path, .. }, Item::UnlockKeys) => {
                format!("{path}/manager-unlock-key/{generation}")
            }
            (Self::DynamoDb { .. }, Item::Token(role)) => format!("token#{role}#{generation}"),
            (Self::DynamoDb { .. }, Item::UnlockKeys) => format!("unlock-key#{generation}"),
        }
    }

    /// Returns the partition of a secret. A worker's role can read the cluster's partition, but not the managers'.
    fn partition(ledger: &Ledger, cluster: &str, item: Item) -> Ledger {
        match item {
            Item::Token(Role::Worker) => ledger.clone(),
            Item::Token(Role::Manager) | Item::UnlockKeys => {
                ledger.partition(format!("{cluster}#managers"))
            }
        }
    }

    /// Stores a token under a generation that the caller has claimed, or whose swarm it manages. Idempotent.
    ///
    /// # Errors
    /// When the store fails or refuses.
    pub async fn put(
        &self,
        role: Role,
        generation: u64,
        token: &SecretString,
    ) -> Result<(), SecretsError> {
        self.write(Item::Token(role), generation, token).await
    }

    /// Reads the token of a role and generation; `None` if there is none (yet).
    ///
    /// # Errors
    /// When the store fails or refuses, or the stored text is not a join token.
    pub async fn fetch(
        &self,
        role: Role,
        generation: u64,
    ) -> Result<Option<JoinToken>, SecretsError> {
        let item = Item::Token(role);
        let text = self.read(item, generation).await?;
        text.map(JoinToken::parse).transpose().map_err(|reason| SecretsError::Malformed {
            place: self.place(item, generation),
            reason,
        })
    }

    /// Stores the unlock keys, as [`TokenStore::put`] does a token.
    ///
    /// # Errors
    /// When the store fails or refuses.
    pub async fn put_unlock_keys(
        &self,
        generation: u64,
        keys: &UnlockKeys,
    ) -> Result<(), SecretsError> {
        self.write(Item::UnlockKeys, generation, &keys.text()).await
    }

    /// Reads the unlock keys of a generation; `None` if there are none (yet).
    ///
    /// # Errors
    /// When the store fails or refuses, or the stored text is not a list of unlock keys.
    pub async fn fetch_unlock_keys(
        &self,
        generation: u64,
    ) -> Result<Option<UnlockKeys>, SecretsError> {
        let Some(text) = self.read(Item::UnlockKeys, generation).await? else { return Ok(None) };
        let place = || self.place(Item::UnlockKeys, generation);
        UnlockKeys::parse(&text)
            .map(Some)
            .ok_or_else(|| SecretsError::MalformedKey { place: place() })
    }

    async fn write(
        &self,
        item: Item,
        generation: u64,
        secret: &SecretString,
    ) -> Result<(), SecretsError> {
        let place = self.place(item, generation);
        match self {
            Self::Ssm { client, kms_key, .. } => {
                client
                    .put_parameter()
                    .name(&place)
                    .value(secret.expose_secret())
                    .r#type(ParameterType::SecureString)
                    .set_key_id(kms_key.clone())
                    .overwrite(true)
                    .send()
                    .await
                    .map_err(|error| {
                        SecretsError::Aws(AwsError::new("ssm", "PutParameter", &place, error))
                    })?;
            }
            Self::DynamoDb { ledger, cluster } => {
                let (ledger, text) =
                    (Self::partition(ledger, cluster, item), secret.expose_secret());
                let (always, text) = (Condition::default(), text.to_owned());
                match item {
                    Item::Token(_) => ledger.put(&place, &TokenRow { token: text }, always).await?,
                    Item::UnlockKeys => {
                        ledger.put(&place, &KeysRow { unlock_keys: text }, always).await?
                    }
                };
            }
        }
        Ok(())
    }

    async fn read(
        &self,
        item: Item,
        generation: u64,
    ) -> Result<Option<SecretString>, SecretsError> {
        let place = self.place(item, generation);
        let text = match self {
            Self::Ssm { client, .. } => {
                let answer = client.get_parameter().name(&place).with_decryption(true).send().await;
                match answer {
                    Ok(output) => output.parameter.and_then(|parameter| parameter.value),
                    Err(error) => match AwsError::new("ssm", "GetParameter", &place, error) {
                        error if error.kind == AwsErrorKind::NotFound => None,
                        error => return Err(SecretsError::Aws(error)),
                    },
                }
            }
            Self::DynamoDb { ledger, cluster } => {
                let ledger = Self::partition(ledger, cluster, item);
                match item {
                    Item::Token(_) => ledger.get::<TokenRow>(&place).await?.map(|row| row.token),
                    Item::UnlockKeys => {
                        ledger.get::<KeysRow>(&place).await?.map(|row| row.unlock_keys)
                    }
                }
            }
        };
        Ok(text.map(SecretString::from))
    }
}
