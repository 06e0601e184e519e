//! skep's protocols as Stateright models. Each model decides with skep's own functions (`boot::decide`, …) on
//! observations that a node can make, and simulates the world around the nodes: every order of observations and
//! requests, crashes between them, requests that arrive long after their sender has died, leases that expire, clocks
//! that disagree.
//!
//! Every observed fact can be "cannot tell": each run has a budget of dim observations, which lack an answer.
//!
//! A node decides on an **earlier** observation: observing and acting are two actions, and anything can happen
//! between them.

mod charter;
mod clock;
pub mod departing;
pub mod founding;
pub mod recovering;
mod sight;
