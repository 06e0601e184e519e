//! The secret store: join tokens, one per role and generation of the charter.
//!
//! | store | worker's token | manager's token |
//! |---|---|---|
//! | SSM (SecureString) | `/skep/<cluster>/worker-token/<generation>` | `/skep/<cluster>/manager-token/<generation>` |
//! | DynamoDB | partition `<cluster>`, item `token#worker#<generation>` | partition `<cluster>#managers`, item `token#manager#<generation>` |
//!
//! Guarantees: a token never appears in a Debug, a Display or an error. Only the holder of a
//! generation's claim writes under that generation, so nothing is overwritten that was not ours.
//! The manager's token is out of a worker's reach by IAM: a path of its own, or a partition of its
//! own for `dynamodb:LeadingKeys`.

mod token;

use aws_sdk_ssm::Client as Ssm;
use aws_sdk_ssm::types::ParameterType;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use token::{JoinToken, MalformedToken};

use crate::aws::{AwsError, AwsErrorKind};
use crate::instance::Role;
use crate::ledger::{Condition, Ledger, LedgerError};

/// Where the join tokens are.
#[derive(Clone, Debug)]
pub enum TokenStore {
    Ssm {
        client: Ssm,
        /// Such as `/skep/prod`, without a slash at the end.
        path: String,
        /// KMS key for the SecureString; the account's default where `None`.
        kms_key: Option<String>,
    },
    DynamoDb {
        ledger: Ledger,
        cluster: String,
    },
}

#[derive(Debug, Error)]
pub enum SecretsError {
    #[error(transparent)]
    Aws(AwsError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("{place} holds no join token")]
    Malformed { place: String, source: MalformedToken },
}

impl SecretsError {
    /// May the same call succeed a moment later?
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Aws(error) => error.is_retryable(),
            Self::Ledger(error) => error.is_retryable(),
            Self::Malformed { .. } => false,
        }
    }
}

/// The row of a token in DynamoDB.
#[derive(Serialize, Deserialize)]
struct TokenRow {
    token: String,
}

impl TokenStore {
    fn place(&self, role: Role, generation: u64) -> String {
        match self {
            Self::Ssm { path, .. } => format!("{path}/{role}-token/{generation}"),
            Self::DynamoDb { .. } => format!("token#{role}#{generation}"),
        }
    }

    /// A worker's role may read the partition of the cluster, but not this one of the managers.
    fn partition(ledger: &Ledger, cluster: &str, role: Role) -> Ledger {
        match role {
            Role::Worker => ledger.clone(),
            Role::Manager => ledger.partition(format!("{cluster}#managers")),
        }
    }

    /// Stores a token under a generation that the caller has claimed; again is the same as once.
    ///
    /// # Errors
    /// When the store fails or refuses.
    pub async fn put(
        &self,
        role: Role,
        generation: u64,
        token: &SecretString,
    ) -> Result<(), SecretsError> {
        let place = self.place(role, generation);
        match self {
            Self::Ssm { client, kms_key, .. } => {
                client
                    .put_parameter()
                    .name(&place)
                    .value(token.expose_secret())
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
                let row = TokenRow { token: token.expose_secret().to_owned() };
                Self::partition(ledger, cluster, role)
                    .put(&place, &row, Condition::default())
                    .await?;
            }
        }
        Ok(())
    }

    /// The token of a role and generation; `None` where there is none (yet).
    ///
    /// # Errors
    /// When the store fails or refuses, or holds something that is not a join token.
    pub async fn fetch(
        &self,
        role: Role,
        generation: u64,
    ) -> Result<Option<JoinToken>, SecretsError> {
        let place = self.place(role, generation);
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
            Self::DynamoDb { ledger, cluster } => Self::partition(ledger, cluster, role)
                .get::<TokenRow>(&place)
                .await?
                .map(|row| row.token),
        };
        text.map(|text| JoinToken::parse(text.into()))
            .transpose()
            .map_err(|source| SecretsError::Malformed { place, source })
    }
}
