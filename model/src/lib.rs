//! skep's protocols as Stateright models. Each takes its decisions with the function that skep itself
//! decides with (`boot::decide`, …) on what a node could have seen, and plays the world around it:
//! every order of looks and acts, crashes between them, writes that arrive long after their sender has
//! died, leases that run out, clocks that disagree.
//!
//! Every fact that is observed may be one that cannot be told: a few looks of each run are dim ones.
//!
//! A node's decision rests on what it saw **earlier**: looking and acting are two actions, and
//! anything may happen in between.

mod charter;
mod clock;
pub mod departing;
pub mod founding;
pub mod recovering;
mod sight;
