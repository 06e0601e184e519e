//! Unlocks a locked manager (autolock): Docker has restarted, and its state is encrypted until it receives the key of
//! its swarm.

use super::{Node, NodeError};
use crate::clients::docker::UnlockAnswer;
use crate::clients::secrets::Item;

/// The result of an attempt to unlock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unlocking {
    /// The manager is unlocked; read Docker's state again.
    Done,
    /// The manager is still locked; the text describes what it waits for.
    Waiting(String),
}

/// Tries the stored keys of a generation, newest first: an older key unlocks a manager that was down
/// while the key was rotated. A wrong key changes nothing.
///
/// # Errors
/// When the store or Docker fails.
pub async fn unlock(node: &Node, generation: u64) -> Result<Unlocking, NodeError> {
    let place = node.tokens.place(Item::UnlockKeys, generation);
    let Some(keys) = node.tokens.fetch_unlock_keys(generation).await? else {
        let why = format!(
            "waiting for the unlock key of generation {generation} in the secret store ({place})"
        );
        return Ok(Unlocking::Waiting(why));
    };
    for key in keys.iter() {
        match node.swarm.unlock(key).await? {
            UnlockAnswer::Unlocked => {
                tracing::info!("unlocked this manager with the key in {place}");
                return Ok(Unlocking::Done);
            }
            UnlockAnswer::WrongKey => {}
            UnlockAnswer::Unknown => {
                let why = "waiting for Docker to report whether it is unlocked: if every manager is \
                           locked, the first one waits for another one";
                return Ok(Unlocking::Waiting(why.into()));
            }
        }
    }
    Ok(Unlocking::Waiting(format!(
        "waiting for another unlock key: Docker has refused what is in {place}; store there the key \
         that `docker swarm unlock-key -q` prints on an unlocked manager"
    )))
}
