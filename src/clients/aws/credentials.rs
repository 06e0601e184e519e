//! Keeps the credentials between the calls that are signed by hand; the SDK's own clients keep them by themselves.

use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use tokio::sync::Mutex;

/// EC2 has new credentials at least five minutes before the old ones expire.
const RENEW_BEFORE: Duration = Duration::from_secs(240);

#[derive(Debug)]
struct Kept {
    provider: SharedCredentialsProvider,
    last: Mutex<Option<Credentials>>,
}

impl Kept {
    async fn provide(&self) -> Result<Credentials, CredentialsError> {
        let mut last = self.last.lock().await;
        let lasts = |credentials: &Credentials, for_another: Duration| {
            credentials.expiry().is_none_or(|expiry| expiry > SystemTime::now() + for_another)
        };
        if let Some(known) = last.as_ref().filter(|known| lasts(known, RENEW_BEFORE)) {
            return Ok(known.clone());
        }
        match self.provider.provide_credentials().await {
            Ok(new) => Ok(last.insert(new).clone()),
            // The metadata may fail for a moment, while these are still valid.
            Err(error) => last.clone().filter(|it| lasts(it, Duration::ZERO)).ok_or(error),
        }
    }
}

impl ProvideCredentials for Kept {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.provide())
    }
}

/// Returns the provider of a configuration, with a memory.
pub fn kept(config: &SdkConfig) -> Option<SharedCredentialsProvider> {
    let provider = config.credentials_provider()?;
    Some(SharedCredentialsProvider::new(Kept { provider, last: Mutex::default() }))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Has credentials with these times until they expire; then it fails.
    #[derive(Debug)]
    struct Source(Mutex<VecDeque<u64>>);

    impl ProvideCredentials for Source {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::new(async {
                let left = self.0.lock().await.pop_front();
                let left = left.ok_or_else(|| CredentialsError::not_loaded("no more"))?;
                let expiry = SystemTime::now() + Duration::from_secs(left);
                Ok(Credentials::new(left.to_string(), "secret", None, Some(expiry), "test"))
            })
        }
    }

    #[tokio::test]
    async fn credentials_are_fetched_again_shortly_before_they_expire_and_used_until_then() {
        let source = Source(Mutex::new([60, 100, 3600].into()));
        let provider = SharedCredentialsProvider::new(source);
        let kept = Kept { provider, last: Mutex::default() };
        let mut seen = vec![];
        for _ in 0..5 {
            seen.push(kept.provide().await.unwrap().access_key_id().to_owned());
        }
        assert_eq!(seen, ["60", "100", "3600", "3600", "3600"]);

        let source = Source(Mutex::new([100].into()));
        let kept = Kept { provider: SharedCredentialsProvider::new(source), ..kept };
        *kept.last.lock().await = None;
        for _ in 0..2 {
            assert_eq!(kept.provide().await.unwrap().access_key_id(), "100", "still valid");
        }
        let expired = Credentials::new("old", "secret", None, Some(SystemTime::UNIX_EPOCH), "test");
        *kept.last.lock().await = Some(expired);
        assert!(kept.provide().await.is_err());
    }
}
