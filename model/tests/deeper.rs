//! Runs every model of `make model` for seconds instead of minutes.

use std::process::Command;

#[test]
fn the_models_hold_as_far_as_seconds_go() {
    let status = Command::new(env!("CARGO_BIN_EXE_skep-model")).args(["--for", "20s"]).status();
    assert!(status.expect("it is built").success());
}
