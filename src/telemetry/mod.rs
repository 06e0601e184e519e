//! skep's reports about itself: log, metrics, event log, notifications.

pub mod event_log;
pub mod logging;
pub mod metrics;
pub mod notifications;
