#!/usr/bin/env bash
# Runs every fuzz target of skep, one after the other (docs/develop.md).
#
#   SKEP_FUZZ_SECONDS=n   time for each target, 900 by default
#   SKEP_FUZZ_SEED=n      the seed of an earlier run
#   TEST=word             only targets whose name contains it
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

export SKEP_FUZZ_SECONDS="${SKEP_FUZZ_SECONDS:-900}"
options=()
[ -z "${TEST:-}" ] || options=(-- "$TEST")
forget_account
clippy_build
rm -f target/fuzz/*.done
code=0
# The output is not kept back until the end of a target: it has the progress.
clippy_cargo nextest run --profile fuzz --workspace --locked --no-capture "${options[@]}" || code=$?
say ''
cat target/fuzz/*.done 2>/dev/null || true
[ "$code" -eq 0 ] || say "error: a target has failed; its input is in target/fuzz"
exit "$code"
