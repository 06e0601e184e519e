//! Scenarios on another Docker Engine than the machine's own ([`harness::second_engine`]): one or two for each duty of
//! the managers, and more where engines differ (raft's members, its elections, the entries that a failed join leaves).
//! `.config/nextest.toml` chooses among those of the files below.

#[path = "keeping/autolock.rs"]
mod autolock;
#[path = "joining/balance.rs"]
mod balance;
#[path = "keeping/dead_skep.rs"]
mod dead_skep;
#[path = "joining/founding_race.rs"]
mod founding_race;
#[path = "keeping/labels.rs"]
mod labels;
#[path = "keeping/lost_swarm.rs"]
mod lost_swarm;
#[path = "leaving/make_before_break.rs"]
mod make_before_break;
#[path = "keeping/own_care.rs"]
mod own_care;
#[path = "joining/own_port_closed.rs"]
mod own_port_closed;
#[path = "keeping/quorum.rs"]
mod quorum;
#[path = "keeping/recover.rs"]
mod recover;
#[path = "keeping/rolling.rs"]
mod rolling;
#[path = "leaving/scale_in_leader.rs"]
mod scale_in_leader;
#[path = "keeping/stale_entries.rs"]
mod stale_entries;
#[path = "joining/stale_token.rs"]
mod stale_token;
#[path = "keeping/tokens.rs"]
mod tokens;
#[path = "leaving/two_managers_at_once.rs"]
mod two_managers_at_once;
#[path = "keeping/without_a_word.rs"]
mod without_a_word;
