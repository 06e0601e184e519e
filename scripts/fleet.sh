#!/usr/bin/env bash
# Builds what users get and runs the local cloud with it: fleet.sh demo|bench|chaos|up [argument]...
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

[ $# -gt 0 ] || die "usage: fleet.sh demo|bench|chaos|up [argument]..."

# One after the other: together, skep would be built with features that only the local cloud asks for.
cargo build --release --locked --package skep
cargo build --release --locked --package skep-sim

forget_account
mkdir -p "target/$1"
code=0
scripts/as-root target/release/skep-sim "$@" || code=$?
# What root wrote there is the user's.
[ "$(id -u)" -eq 0 ] || scripts/as-root chown -R "$(id -u):$(id -g)" "target/$1"
exit "$code"
