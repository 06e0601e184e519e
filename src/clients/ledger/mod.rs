//! The ledger: one DynamoDB table in which a fleet agrees on what it cannot ask Docker.
//!
//! | partition | item | row |
//! |---|---|---|
//! | `<cluster>` | `charter` | [`Charter`]: which swarm is ours |
//! | `<cluster>` | `turn#demotion` | [`Lease`]: which manager is being taken out of raft |
//! | `<cluster>` | `token-rotation` | when skep last made the join tokens new |
//! | `<cluster>` | `registry-auth#<service-id>` | [`RegistryAuth`]: until when the credentials last that a service pulls with |
//! | `<cluster>` | `member#manager#<instance-id>` | [`Member`]: where one can join |
//! | `<cluster>#nodes` | `member#worker#<instance-id>` | [`Member`]: who else is there |
//! | `<cluster>#nodes` | `departure#<instance-id>` | [`DepartureRow`]: who wants to leave, and how far it is |
//! | `<cluster>#nodes` | `attempt#<instance-id>` | [`Attempt`]: who has begun to join |
//! | `<cluster>#nodes` | `turn#replacement#<group>` | [`Lease`]: which node has asked to be replaced |
//!
//! Guarantees: every write that decides something is conditional, and answers `false` or `None`
//! when somebody else was first. Reads that decide something are consistent. Assumes the keys
//! `cluster` (S) and `item` (S), and a TTL on `expires_at`, which may delete days late: nothing
//! relies on it. Every row has a schema number; one of a higher number than this skep knows cannot be read.
//! What cannot be read, such as a row that was edited by hand, is left out of lists and complained of once; a
//! charter that cannot be read is an error. A row whose ids, times or generation nobody can have written cannot be
//! read either.
//!
//! Only managers write to `<cluster>`, so a worker's role can be kept from it; and a joiner, who looks
//! for managers, reads a handful of rows instead of those of the whole fleet.

mod answering;
mod attempt;
mod charter;
mod checked;
mod demotion_request;
mod departure;
mod error;
#[cfg(test)]
pub(crate) mod fuzz;
mod lease;
mod member;
mod permission_probe;
mod pull_credentials;
mod rotation;
mod rows;
mod table;
#[cfg(test)]
mod tests;

pub use attempt::Attempt;
pub use charter::{Charter, CharterPhase, Living, Traces};
pub(crate) use checked::Checked;
pub use demotion_request::DemotionRequest;
pub use departure::{DepartureRow, DepartureState};
pub use error::LedgerError;
pub use lease::{Lease, LeaseOf};
pub use member::{Member, MemberRows, MemberState};
pub use permission_probe::{Access, Partition};
pub use pull_credentials::RegistryAuth;
pub use rows::Rows;
pub(crate) use table::Condition;
pub use table::Ledger;
#[cfg(test)]
pub(crate) use table::{Row, decode, encode};
