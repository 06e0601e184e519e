//! AWS throttles, fails, drops connections and loses answers.

mod boots_through_failures;
mod says_it_later;
mod ssm_is_slow;
mod token_comes_late;
