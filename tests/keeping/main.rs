//! How managers keep the swarm whole: labels, dead nodes, quorum, tokens.

mod autolock;
mod dead_skep;
mod labels;
mod quorum;
mod rolling;
mod stale_entries;
mod tokens;
mod without_a_word;
