//! How managers keep the swarm whole: labels, dead nodes, quorum, lost swarms, tokens.

mod dead_skep;
mod stale_entries;
mod without_a_word;
