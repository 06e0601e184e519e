//! Re-creates a lost quorum on a manager that has survived (`skep recover`): the operator decides, and skep checks.
//!
//! Guarantees: without the operator nothing is changed. A recovery needs Docker's answer that there is no leader. It is
//! refused while so many other managers may be alive that they could have one, while a member row cannot be read, while
//! another recovery runs, and if this node leaves too soon to complete it. One conditional write starts it, the claim
//! of the charter; from there on [`boot`](crate::lifecycle::boot) carries it out, finds the claim at every observation
//! and continues after any crash. Until the charter is open again no other node founds or recovers; then it fences the
//! former managers.
//!
//! Assumes that a manager whose skep is alive writes its row every minute.

mod act;
mod decide;
mod error;
mod observe;
#[cfg(test)]
mod tests;

pub use act::{begin, plan};
pub use decide::{Leaving, Observed, Refusal, decide};
