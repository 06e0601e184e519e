//! How managers keep the swarm whole: labels, dead nodes, quorum, lost swarms, tokens.

mod autolock;
mod backup;
mod capacity;
mod dead_skep;
mod janitor;
mod labels;
mod lost_swarm;
mod manager_rejoins;
mod missing_charter;
mod monitoring;
mod own_care;
mod page;
mod protection;
mod quorum;
mod recover;
mod refresh;
mod registry;
mod replacement;
mod rolling;
mod root_volume;
mod rows_by_hand;
mod stale_entries;
mod tokens;
mod without_a_word;
