//! The reports that CloudFormation and Auto Scaling receive, and when.

mod deadline_passes;
mod failure_after_success;
mod nobody_waits;
mod success_follows_ready;
