//! The ledger: one DynamoDB table in which a fleet agrees on what it cannot ask Docker.
//!
//! | partition | item | row |
//! |---|---|---|
//! | `<cluster>` | `charter` | [`Charter`]: the cluster's swarm |
//! | `<cluster>` | `history` | [`History`]: generations and swarms that were published |
//! | `<cluster>` | `lease#demotion` | [`Lease`]: the manager whose demotion is under way |
//! | `<cluster>` | `lease#replacement#<group>` | [`Lease`]: the instance of a group whose replacement was asked for |
//! | `<cluster>` | `token-rotation` | time of the last rotation of the join tokens |
//! | `<cluster>` | `restore` | [`Restoration`]: the last restoration from a backup |
//! | `<cluster>` | `services` | [`ServicesWorse`]: services are worse off than before the departures under way |
//! | `<cluster>` | `registry-auth#<service-id>` | [`RegistryAuth`]: expiry of a service's pull credentials |
//! | `<cluster>` | `demotion-request#<instance-id>` | [`DemotionRequest`]: a manager that asks to be demoted |
//! | `<cluster>` | `member#manager#<instance-id>` | [`Member`]: a manager that a node can join |
//! | `<cluster>` | `member#worker#<instance-id>` | [`Member`]: a promoted worker, as managers see it |
//! | `<cluster>` | `departure#stand-in#<instance-id>` | [`DepartureRow`]: managers act for a node |
//! | manager: `<cluster>`, worker: its own | `departure#<instance-id>` | [`DepartureRow`]: a node that leaves, and its progress |
//! | manager: `<cluster>`, worker: its own | `attempt#<instance-id>` | [`Attempt`]: an instance that has started to join |
//! | worker: its own | `member#worker#<instance-id>` | [`Member`]: a worker |
//!
//! A worker's own partition is `<cluster>#<ARN of the instance>`. IAM lets no other worker write it, so the partition is
//! the evidence of who wrote a row; managers read these rows by their keys. Only managers write to `<cluster>`.
//!
//! Guarantees: every write that decides something is conditional, and returns `false` or `None` if another node
//! was first. Reads that decide something are consistent. Assumes the keys `cluster` (S) and `item` (S), and a TTL
//! on `expires_at`; DynamoDB may delete expired rows days late, and nothing relies on the deletion. Every row has a
//! schema number; a row is unreadable if its number is not the one that this skep supports, if skep cannot have written
//! its content, or if its content belongs elsewhere. An unreadable row, such as one that was edited by hand, is left out
//! of lists and logged once; an unreadable charter is an error.

mod answering;
mod attempt;
mod charter;
mod demotion_request;
mod departure;
mod error;
#[cfg(test)]
pub(crate) mod fuzz;
mod history;
mod hold;
mod lease;
mod member;
mod permission_probe;
mod pull_credentials;
mod record;
mod restoration;
mod rotation;
mod rows;
mod services;
mod shared;
mod table;
#[cfg(test)]
mod tests;

pub use attempt::Attempt;
pub use charter::{Charter, CharterPhase, Living, Traces};
pub use demotion_request::DemotionRequest;
pub use departure::{DepartureRow, DepartureState};
pub use error::LedgerError;
pub use history::History;
pub use hold::{Traffic, TurnFor};
pub use lease::{Lease, LeaseOf};
pub use member::{Member, MemberRows, MemberState};
pub use permission_probe::{Access, Partition};
pub use pull_credentials::RegistryAuth;
pub(crate) use record::Record;
pub use restoration::{Restoration, RestorationState};
pub use rows::Rows;
pub use services::ServicesWorse;
pub use shared::SharedRows;
pub(crate) use table::Condition;
pub use table::Ledger;
#[cfg(test)]
pub(crate) use table::{Row, decode, encode};
