//! What CloudFormation and Auto Scaling are told, and when.

mod deadline_passes;
mod nobody_waits;
mod success_follows_ready;
