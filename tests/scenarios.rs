//! skep's behaviour on real Docker daemons. One program, so that its scenarios share the machine from the first to the
//! last.

mod deploying;
mod joining;
mod keeping;
mod leaving;
mod trouble;
