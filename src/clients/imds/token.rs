//! The IMDSv2 session token: fetched once, shared by all callers, renewed before it expires.

use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::ImdsError;

/// The longest lifetime that the service grants (AWS: 1 to 21600 s). With one token for six hours, polling needs few
/// PUTs, whose answers a hop limit can drop.
pub(super) const TOKEN_TTL: Duration = Duration::from_secs(21_600);

/// How long before its expiry a token is replaced: longer than any request takes, so that no token expires during a
/// request.
const RENEW_BEFORE_EXPIRY: Duration = Duration::from_secs(60);

/// A token, and a number that distinguishes it from its successors.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) value: SecretString,
    serial: u64,
    renew_at: Instant,
}

/// The answer to a PUT for a token: the token and its lifetime.
pub(super) type Granted = (SecretString, Duration);

/// The one cached token. Concurrent callers wait for one fetch and share its result, even a failure: a dead service
/// must not get one request per caller.
#[derive(Default)]
pub(super) struct TokenCache(Mutex<Slot>);

#[derive(Default)]
struct Slot {
    token: Option<Token>,
    fetched: u64,
    failure: Option<(Instant, ImdsError)>,
}

impl TokenCache {
    /// Returns the cached token, or a new one from `fetch` if there is none, if it is about to expire, or if it is the
    /// one that was `refused`.
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
