//! How managers keep the swarm whole: labels, dead nodes, quorum, lost swarms, tokens.

mod lost_swarm;
mod own_care;
mod without_a_word;
