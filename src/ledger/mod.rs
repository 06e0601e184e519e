//! The ledger: one DynamoDB table in which a fleet agrees on what it cannot ask Docker.
//!
//! | item | row |
//! |---|---|
//! | `charter` | [`Charter`]: which swarm is ours |
//! | `member#manager#<instance-id>`, `member#worker#<instance-id>` | [`Member`]: who is where |
//! | `departure#<instance-id>` | [`DepartureRow`]: who wants to leave, and how far it is |
//!
//! Guarantees: every write that decides something is conditional, and answers `false` or `None`
//! when somebody else was first. Reads that decide something are consistent. Assumes the keys
//! `cluster` (S) and `item` (S), and a TTL on `expires_at`, which may delete days late: nothing
//! relies on it.
//!
//! Managers have a key prefix of their own so that a joiner reads a handful of rows: with one
//! prefix, 1,000 nodes that boot at once would each read 1,000 rows.

mod charter;
mod departure;
mod error;
mod member;
mod table;

pub use charter::{Charter, CharterPhase, SCHEMA};
pub use departure::{DepartureRow, DepartureState};
pub use error::LedgerError;
pub use member::{Member, MemberState};
pub(crate) use table::Condition;
pub use table::Ledger;
