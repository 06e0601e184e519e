//! The quorum is lost and this manager has survived: `skep recover`, the operator's decision with
//! the checks done for them.
//!
//! Guarantees: without the operator nothing is changed. It needs Docker's word that there is no leader, and is
//! refused while so many other managers may be alive that they could have one, while a member's row cannot be
//! read, while another recovery runs, and where this node leaves too soon to see it through.
//! What begins it is one conditional write, the claim over the charter; from there on it is
//! [`boot`](crate::lifecycle::boot)'s, which finds the claim at every look and goes on with it after any crash.
//! Until the charter is open again nobody else does anything; then it fences the managers that were.
//!
//! Assumes that a manager whose skep lives writes its row every minute.

mod act;
mod decide;
mod error;
mod observe;
#[cfg(test)]
mod tests;

pub use act::{begin, plan};
pub use decide::{Leaving, Observed, Refusal, decide};
