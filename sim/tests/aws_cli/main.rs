//! The real `aws` command line uses the cloud: it is an independent client, so these tests check more of the wire
//! protocol than the parts that our own SDK accepts.

mod autoscaling;
mod bench;
mod cloudformation;
mod cloudwatch;
mod dynamodb;
mod errors;
mod load_balancing;
mod refresh;
mod s3;
mod ssm;
