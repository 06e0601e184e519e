//! The IMDSv2 session token: fetched once, shared by everybody, renewed before it expires.

use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::ImdsError;

/// The longest life that the service grants (AWS: 1 to 21600 seconds). One token for six hours
/// keeps the PUTs, whose answers a hop limit can swallow, out of the polling.
pub(super) const TOKEN_TTL: Duration = Duration::from_secs(21_600);

/// How long before its end a token is replaced: longer than any request lasts, so that no request
/// leaves with a token that expires under way.
const RENEW_BEFORE_EXPIRY: Duration = Duration::from_secs(60);

/// A token and the number that tells it from its successors.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) value: SecretString,
    serial: u64,
    renew_at: Instant,
}

/// What a PUT for a token answers: the token and its life.
pub(super) type Granted = (SecretString, Duration);

/// The one cached token. Concurrent callers wait for one fetch and share its outcome, a failure
/// included: a dead service must not be asked once per caller.
#[derive(Default)]
pub(super) struct TokenCache(Mutex<Slot>);

#[derive(Default)]
struct Slot {
    token: Option<Token>,
    fetched: u64,
    failure: Option<(Instant, ImdsError)>,
}

impl TokenCache {
    /// The cached token, or a new one from `fetch` where there is none, it is about to expire, or
    /// it is the one that was `refused`.
    pub(super) async fn get<Fut>(
        &self,
        refused: Option<&Token>,
        fetch: impl FnOnce() -> Fut,
    ) -> Result<Token, ImdsError>
    where
        Fut: Future<Output = Result<Granted, ImdsError>>,
    {
        let asked_at = Instant::now();
        let mut slot = self.0.lock().await;
        if let Some(token) = &slot.token
            && refused.is_none_or(|refused| refused.serial != token.serial)
            && Instant::now() < token.renew_at
        {
            return Ok(token.clone());
        }
        if let Some((failed_at, error)) = &slot.failure
            && *failed_at > asked_at
        {
            return Err(error.clone());
        }
        slot.token = None;
        let granted_from = Instant::now();
        match fetch().await {
            Ok((value, ttl)) => {
                slot.fetched += 1;
                let renew_in = ttl - RENEW_BEFORE_EXPIRY.min(ttl / 2);
                let token =
                    Token { value, serial: slot.fetched, renew_at: granted_from + renew_in };
                slot.token = Some(token.clone());
                slot.failure = None;
                Ok(token)
            }
            Err(error) => {
                slot.failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}
