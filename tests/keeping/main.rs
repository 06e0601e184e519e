//! How managers keep the swarm whole: labels, dead nodes, quorum, lost swarms, tokens.

mod quorum;
mod rolling;
mod without_a_word;
