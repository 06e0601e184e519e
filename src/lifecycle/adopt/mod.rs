//! Adopts a swarm that exists and that skep did not found (`skep adopt`): the operator decides, and skep checks.
//!
//! Guarantees: without the operator nothing is changed. No node, task, service or certificate is changed at all: adopting
//! writes two labels of the swarm object, the join tokens and the unlock key in the token store, this node's row and the
//! charter. The claim of the charter comes first, by one conditional write, and keeps every other manager from founding;
//! the charter opens last. An adoption that fails takes back its claim and its labels, and one that was cut off is
//! continued when the command runs again.
//!
//! Works without a running skep on this host, which would refuse to start in a swarm that is not its own.

mod act;
mod conflicts;
mod decide;
mod error;
mod join;
mod observe;
#[cfg(test)]
mod tests;
mod types;

pub use act::{carry_out, look};
pub use decide::{Refusal, decide};
pub use error::AdoptError;
pub use join::{Entrance, JoinRefusal, join};
pub use types::{Observed, SwarmSeen};
