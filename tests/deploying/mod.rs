//! What an operator deploys, held against what skep does.

mod iam_fits_the_calls;
