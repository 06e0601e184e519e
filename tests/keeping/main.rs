//! How managers keep the swarm whole: labels, dead nodes, quorum, lost swarms, tokens.

mod autolock;
mod labels;
mod tokens;
mod without_a_word;
