//! How managers keep the swarm whole: labels, dead nodes, quorum, lost swarms, tokens.

mod labels;
mod without_a_word;
