//! Compares the templates that an operator deploys with the calls that skep makes.

mod iam_fits_the_calls;
