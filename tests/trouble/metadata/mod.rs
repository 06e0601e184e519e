//! The metadata service fails for a while: nothing is lost.

mod fails_at_boot;
mod forgets_its_tokens;
mod goes_away_when_ready;
