//! Mistakes that exist from the start: one clear line with the remedy, the right exit code, a report to AWS, and
//! nothing left behind.

mod address_is_not_on_the_host;
mod clock_is_an_hour_off;
mod configuration_has_mistakes;
mod docker_cannot_be_used;
mod instance_has_no_profile;
mod ledger_cannot_be_used;
mod no_metadata;
mod role_is_missing_or_unknown;
mod token_cannot_be_used;
