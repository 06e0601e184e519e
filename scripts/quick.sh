#!/usr/bin/env bash
# The checks before every commit: formatting, clippy, unit, property and model tests. No root.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

options=()
[ -z "${TEST:-}" ] || options=(-- "$TEST")
forget_account
cargo fmt --all --check
clippy_build
clippy_cargo nextest run --profile quick --workspace --locked "${options[@]}"
