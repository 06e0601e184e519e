//! Compares the templates that an operator deploys with the calls that skep makes, and runs `aws-check`.

mod aws_check;
mod iam_fits_the_calls;
