//! The AWS services and results that the metrics of AWS calls know.

/// As in IAM actions.
pub const SERVICES: [&str; 5] = ["autoscaling", "cloudformation", "dynamodb", "ecr", "ssm"];
pub const LEDGER: &str = "dynamodb";
pub const THROTTLED: &str = "throttled";
/// Is this result an answer of the service, whatever it said?
pub fn is_answer(result: &str) -> bool {
    matches!(result, "ok" | "condition_failed" | "not_found" | "invalid")
}
