//! The ledger: one DynamoDB table in which a fleet agrees on what it cannot ask Docker.
//!
//! | partition | item | row |
//! |---|---|---|
//! | `<cluster>` | `charter` | [`Charter`]: the cluster's swarm |
//! | `<cluster>` | `turn#demotion` | [`Lease`]: the manager whose demotion is under way |
//! | `<cluster>` | `token-rotation` | time of the last rotation of the join tokens |
//! | `<cluster>` | `registry-auth#<service-id>` | [`RegistryAuth`]: expiry of a service's pull credentials |
//! | `<cluster>` | `rejoin#<instance-id>` | [`DemotionRequest`]: a manager that asks to be demoted |
//! | `<cluster>` | `member#manager#<instance-id>` | [`Member`]: a manager that a node can join |
//! | `<cluster>#nodes` | `member#worker#<instance-id>` | [`Member`]: a worker |
//! | `<cluster>#nodes` | `departure#<instance-id>` | [`DepartureRow`]: a node that leaves, and its progress |
//! | `<cluster>#nodes` | `attempt#<instance-id>` | [`Attempt`]: an instance that has started to join |
//! | `<cluster>#nodes` | `turn#replacement#<group>` | [`Lease`]: the node of a group that has asked to be replaced |
//!
//! Guarantees: every write that decides something is conditional, and returns `false` or `None` if another node
//! was first. Reads that decide something are consistent. Assumes the keys `cluster` (S) and `item` (S), and a TTL
//! on `expires_at`; DynamoDB may delete expired rows days late, and nothing relies on the deletion. Every row has a
//! schema number; a row is unreadable if its number is higher than this skep supports, or if skep cannot have
//! written its ids, times or generation. An unreadable row, such as one that was edited by hand, is left out of
//! lists and logged once; an unreadable charter is an error.
//!
//! Only managers write to `<cluster>`, so IAM can deny it to a worker's role. A joining node that searches for
//! managers reads a few rows instead of those of the whole fleet.

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
