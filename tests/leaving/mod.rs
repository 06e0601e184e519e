//! How instances leave the swarm, for every cause and with every failure on the way.

mod being_seen;
mod cancelled_notice;
mod flush;
mod hook_heartbeats;
mod hook_late;
mod hook_missing;
mod killed_in_mid_leave;
mod last_manager;
mod later_notice;
mod no_manager_reachable;
mod notice_in_mid_join;
mod operator;
mod read_only_ledger;
mod scale_in_follower;
mod scale_in_leader;
mod scale_in_worker;
mod scheduled_maintenance;
mod ship;
mod shippers;
mod shutdown_and_reboot;
mod spot_notice;
mod standalone_containers;
mod standby;
mod terminated_later;
mod two_managers_at_once;
mod under_failure;
