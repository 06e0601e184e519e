#!/usr/bin/env bash
# What is worth its time before every commit: formatting, clippy, unit, property and model tests. No root.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

forget_account
cargo fmt --all --check
clippy_build
cargo-nextest nextest run --workspace --locked --status-level fail \
    --filterset "($QUICK) - test(the_models_hold_as_far_as_seconds_go)" ${TEST:+-- "$TEST"}
