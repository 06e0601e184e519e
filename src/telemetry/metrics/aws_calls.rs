//! The AWS services and results in the metrics of AWS calls.

/// Services, by their names in IAM actions.
pub const SERVICES: [&str; 7] =
    ["autoscaling", "cloudformation", "cloudwatch", "dynamodb", "ec2", "ecr", "ssm"];
pub const LEDGER: &str = "dynamodb";
pub const THROTTLED: &str = "throttled";
/// Whether this result is an answer of the service, a refusal included.
pub fn is_answer(result: &str) -> bool {
    matches!(result, "ok" | "condition_failed" | "not_found" | "invalid")
}
