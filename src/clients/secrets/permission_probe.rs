//! Tests the permission to write a secret with requests that change nothing.

use aws_sdk_ssm::types::ParameterType;

use super::{Item, SecretsError, TokenStore};
use crate::clients::aws::AwsError;
use crate::clients::ledger::{Access, Partition};
use crate::common::instance::Role;

/// SSM's error codes for a caller that has the permission but sends a request that must fail.
const PERMITTED: [&str; 2] = ["ParameterAlreadyExists", "ParameterPatternMismatchException"];

impl TokenStore {
    /// Tries to write over an existing secret. The request cannot succeed: it forbids overwriting, and its value does
    /// not match the pattern that it demands.
    ///
    /// # Errors
    /// When the store fails or refuses.
    pub async fn try_write(&self, item: Item, generation: u64) -> Result<(), SecretsError> {
        let place = self.place(item, generation);
        match self {
            Self::Ssm { client, kms_key, .. } => {
                let call = client.put_parameter().name(&place).value("doctor");
                let call = call.r#type(ParameterType::SecureString).set_key_id(kms_key.clone());
                let answer = call.overwrite(false).allowed_pattern("^never$").send().await;
                let Err(error) = answer else { return Ok(()) };
                let error = AwsError::new("ssm", "PutParameter", &place, error);
                let is_permitted =
                    error.code.as_deref().is_some_and(|code| PERMITTED.contains(&code));
                if is_permitted { Ok(()) } else { Err(SecretsError::Aws(error)) }
            }
            Self::DynamoDb { ledger, .. } => {
                let partition = match item {
                    Item::Token(Role::Worker) => Partition::Cluster,
                    Item::Token(Role::Manager) | Item::UnlockKeys => Partition::Managers,
                };
                Ok(ledger.try_access(partition, Access::Put).await?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::aws::stub::Stub;

    #[tokio::test]
    async fn a_parameter_is_never_written_over_and_the_refusal_tells_the_permission() {
        let stub = Stub::start().await;
        let store =
            TokenStore::Ssm { client: stub.aws().await.ssm, path: "/skep/a".into(), kms_key: None };
        let item = Item::Token(Role::Manager);
        for code in PERMITTED {
            stub.answer(400, &format!(r#"{{"__type": "{code}"}}"#));
            store.try_write(item, 1).await.unwrap();
            let request = stub.last_request();
            for part in [r#""Overwrite":false"#, r#""AllowedPattern":"^never$""#] {
                assert!(request.contains(part), "{part}: {request}");
            }
        }
        stub.answer(400, r#"{"__type": "AccessDeniedException"}"#);
        let error = store.try_write(item, 1).await.unwrap_err();
        assert!(error.to_string().contains("grant ssm:PutParameter"), "{error}");
    }
}
