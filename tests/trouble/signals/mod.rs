//! What CloudFormation and Auto Scaling are told, and when.

mod deadline_passes;
mod failure_after_success;
mod nobody_waits;
mod success_follows_ready;
