#!/usr/bin/env bash
# Builds skep as it is shipped, and runs the local cloud with it: fleet.sh demo|bench|scale|chaos|up [argument]...
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

[ $# -gt 0 ] || die "usage: fleet.sh demo|bench|scale|chaos|up [argument]..."

# Two builds: in a single one, cargo would build skep with features that only the local cloud needs.
cargo build --release --locked --package skep
cargo build --release --locked --package skep-sim

forget_account
mkdir -p "target/$1"
code=0
scripts/as-root target/release/skep-sim "$@" || code=$?
# Gives root's files there to the user.
[ "$(id -u)" -eq 0 ] || scripts/as-root chown -R "$(id -u):$(id -g)" "target/$1"
exit "$code"
