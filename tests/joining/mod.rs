//! How instances come into the swarm: founding, joining, and every answer that a join can get.

mod adoption;
mod bad_addresses;
mod balance;
mod foreign_swarm;
mod founder_killed;
mod founding_race;
mod live_restore;
mod many_at_once;
mod no_leader;
mod over_tls;
mod own_port_closed;
mod restart_when_ready;
mod roles_and_stores;
mod stale_token;
mod warm_pool;
