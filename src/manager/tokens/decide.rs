//! Decides the next write that makes the secret store match Docker. Pure.

use secrecy::SecretString;

use crate::clients::docker::{Rotation, SwarmError, SwarmErrorKind};
use crate::clients::ledger::{Charter, CharterPhase};
use crate::clients::secrets::{JoinToken, UnlockKeys, is_same};
use crate::common::fact::Fact;
use crate::common::instance::Role;

/// Docker's secrets: the truth.
#[derive(Clone, Debug)]
pub struct Truth {
    pub swarm_id: String,
    pub worker: JoinToken,
    pub manager: JoinToken,
    /// `None` where autolock is off.
    pub unlock_key: Option<SecretString>,
}

/// Secrets in the store under the charter's generation; a malformed one counts as none.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    pub worker: Option<JoinToken>,
    pub manager: Option<JoinToken>,
    pub unlock_keys: Option<UnlockKeys>,
}

/// One write; another comparison of everything follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The charter is not open for this swarm: this manager must not change the stored secrets.
    NotOurs,
    /// Store the newest key before those that are there.
    StoreUnlockKey,
    StoreToken(Role),
    /// Write the CA digest after the tokens: a joining node waits until its token is one of the charter's CA.
    FollowCa,
    /// Nothing: the store matches Docker.
    AllTrue,
}

impl Truth {
    #[must_use]
    pub fn token(&self, role: Role) -> &JoinToken {
        match role {
            Role::Manager => &self.manager,
            Role::Worker => &self.worker,
        }
    }

    /// Whether these are the same secrets.
    #[must_use]
    pub fn is_same(&self, other: &Truth) -> bool {
        let is_same_key = match (&self.unlock_key, &other.unlock_key) {
            (Some(one), Some(other)) => is_same(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        let is_same_token = |role| is_same(self.token(role).secret(), other.token(role).secret());
        self.swarm_id == other.swarm_id && is_same_key && Role::ALL.into_iter().all(is_same_token)
    }
}

impl Truth {
    /// Whether each of these secrets differs from the one in `before`.
    #[must_use]
    pub fn is_another(&self, before: &Truth, what: Rotation) -> bool {
        let is_new = |role| !is_same(self.token(role).secret(), before.token(role).secret());
        let is_new_key = match (&self.unlock_key, &before.unlock_key) {
            (Some(now), Some(before)) => !is_same(now, before),
            _ => false,
        };
        (!what.worker_token || is_new(Role::Worker))
            && (!what.manager_token || is_new(Role::Manager))
            && (!what.unlock_key || is_new_key)
    }
}

/// Returns whether Docker has rotated although it refused, by its error and by its secrets afterwards; `after` is
/// `None` where Docker does not report them.
#[must_use]
pub fn is_rotated(
    what: Rotation,
    error: &SwarmError,
    before: &Truth,
    after: Option<&Truth>,
) -> Fact {
    use SwarmErrorKind::{
        NotFound, NotInSwarm, NotManager, PermissionDenied, Stale, TooNew, TooOld,
    };
    match error.kind {
        // A refusal before anything was done.
        NotFound | NotInSwarm | NotManager | PermissionDenied | Stale | TooNew | TooOld => Fact::No,
        _ if after.is_some_and(|after| after.is_another(before, what)) => Fact::Yes,
        // Docker applies a write that it answered with an error once there is a leader again.
        _ => Fact::CannotTell,
    }
}

impl Stored {
    fn holds(&self, truth: &JoinToken, role: Role) -> bool {
        let stored = match role {
            Role::Manager => &self.manager,
            Role::Worker => &self.worker,
        };
        stored.as_ref().is_some_and(|stored| is_same(stored.secret(), truth.secret()))
    }
}

/// Returns the next write.
#[must_use]
pub fn decide(truth: &Truth, charter: Option<&Charter>, stored: &Stored) -> Step {
    let Some(charter) = charter.filter(|charter| {
        charter.phase == CharterPhase::Open && charter.swarm_id.as_ref() == Some(&truth.swarm_id)
    }) else {
        return Step::NotOurs;
    };
    if let Some(key) = &truth.unlock_key {
        // Without the key a manager that restarts is lost; without a token a joining node only waits.
        if !stored.unlock_keys.as_ref().is_some_and(|keys| keys.begin_with(key)) {
            return Step::StoreUnlockKey;
        }
    }
    let stale = Role::ALL.into_iter().find(|role| !stored.holds(truth.token(*role), *role));
    if let Some(role) = stale {
        return Step::StoreToken(role);
    }
    if charter.ca_digest.as_deref() != Some(truth.worker.ca_digest()) {
        return Step::FollowCa;
    }
    Step::AllTrue
}
