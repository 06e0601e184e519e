#!/usr/bin/env bash
# Runs all checks and tests: test.sh [stage]...
#
# Steps run one after the other; all tests run in one pool, so that the processor is never idle. A test that hangs
# ends at its limit (.config/nextest.toml), a step at the limit below.
#
#   TEST=word        only tests whose name contains it
#   TEST_THREADS=n   size of the pool (.config/nextest.toml has the share of each test)
#   FAIL_FAST=1      ends at the first test that fails
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

PARTS=(lint cloudformation aws-check units model cloud scenarios engine packages booted)
# The tests of each part, as the runner selects them.
declare -A tests=(
    [units]='kind(lib) + kind(bin)' [model]='package(skep-model) & kind(test)'
    [cloud]='package(skep-sim) & kind(test)' [scenarios]='binary(scenarios)' [engine]='binary(engine)'
    [packages]='binary(packages)' [booted]='binary(booted)'
)

# Seconds that each step takes on two cores in an empty clone, until target/test/times.json has a record; and the
# limit of each step in minutes.
declare -A expected=([setup]=200 [build]=700 [lint]=30 [cloudformation]=100 [aws-check]=130 [package]=380 [tests]=2200)
declare -A limit=([setup]=30 [build]=20 [lint]=15 [cloudformation]=10 [aws-check]=10 [package]=20 [tests]=75)

step_setup() { scripts/setup.sh lint test; }

# Clippy's findings are warnings of this one compilation, and fail it.
step_build() {
    clippy_build
    # With these files nextest finds the tests without cargo, which root does not have.
    cargo metadata --format-version=1 --locked >"$logs/cargo.json"
    clippy_cargo nextest list --workspace --locked --list-type=binaries-only --message-format=json \
        >"$logs/binaries.json"
    ! wants units || [ -n "${TEST:-}" ] || clippy_cargo test --quiet --workspace --locked --doc
}

step_lint() { scripts/lint.sh; }

# Creates the stack in moto, with the main variants of its parameters. It also writes the policies of the roles, which
# the scenarios enforce.
step_cloudformation() { .venv/bin/python cloudformation/tests/check.py "$logs/policies.json"; }

# Runs aws-check against an `aws` command line with a small account behind it. The tests mostly wait: the classes run at
# the same time.
step_aws-check() {
    local python=$root/.venv/bin/python
    cd aws-check/tests
    { echo test_parts; sed -n 's/^class \(.*\)(Account):$/test_run.\1/p' test_run.py; } |
        xargs -P 5 -I '{}' "$python" -m unittest --quiet '{}'
}

# Like `make package`, but without optimization, which takes minutes. The tests of the release need cargo and its
# registry, which root does not have, so they are not in the pool.
step_package() {
    PROFILE=trial scripts/package.sh
    ! wants packages || PROFILE=trial packaging/test-release.sh
}

step_tests() {
    local filter='' part options=()
    for part in "${!tests[@]}"; do
        ! wants "$part" || filter+="${filter:+ + }(${tests[$part]})"
    done
    ! wants engine || scripts/second-engine.sh >/dev/null
    [ -z "${TEST_THREADS:-}" ] || options+=(--test-threads "$TEST_THREADS")
    [ -z "${FAIL_FAST:-}" ] || options+=(--fail-fast)
    [ -z "${TEST:-}" ] || options+=(-- "$TEST")
    # Scenarios need root. Unit tests run as the user again (scripts/test-runner).
    local code=0
    scripts/as-root cargo-nextest nextest run \
        --cargo-metadata "$logs/cargo.json" --binaries-metadata "$logs/binaries.json" \
        --filterset "$filter" --no-tests fail "${options[@]}" || code=$?
    # Exit codes of nextest: https://docs.rs/nextest-metadata/latest/nextest_metadata/enum.NextestExitCode.html
    [ "$code" -ne 4 ] || say "error: no test of these stages has \"${TEST:-}\" in its name: ${wanted# }"
    return "$code"
}

clean_up() {
    [ ! -x target/debug/skep-sim ] || scripts/as-root target/debug/skep-sim clean >/dev/null || true
    [ "$(id -u)" -eq 0 ] || scripts/as-root chown -R "$(id -u):$(id -g)" "$logs" target/nextest 2>/dev/null || true
}

# --- Running them ----------------------------------------------------------------------------------

logs=target/test
mkdir -p "$logs"
forget_account
host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
export "CARGO_TARGET_${host}_RUNNER=$root/scripts/test-runner"

step=''
[ "${1:-}" != --step ] || { step=$2; shift 2; }
[ $# -gt 0 ] || set -- "${PARTS[@]}"
for part in "$@"; do
    [[ " ${PARTS[*]} " == *" $part "* ]] || die "no such stage: $part (there are: ${PARTS[*]})"
done
wanted=" $* "
# wants <part>...: whether any of them was requested
wants() {
    local part
    for part in "$@"; do
        [[ $wanted != *" $part "* ]] || return 0
    done
    return 1
}
if [ -n "$step" ]; then
    "step_$step"
    exit
fi

steps=(setup build)
! wants lint || steps+=(lint)
# Scenarios need the policies. Policies that are newer than their sources are used again.
if wants cloudformation || wants scenarios engine booted &&
    { [ ! -s "$logs/policies.json" ] || [ -n "$(find cloudformation -newer "$logs/policies.json" -type f)" ]; }; then
    steps+=(cloudformation)
fi
! wants aws-check || steps+=(aws-check)
! wants packages booted || steps+=(package)
! wants "${!tests[@]}" || steps+=(tests)

# sudo asks for the password at the start, and only once.
sudo_keeper=''
if wants "${!tests[@]}" && [ "$(id -u)" -ne 0 ]; then
    scripts/as-root true
    while sleep 60; do sudo -n true 2>/dev/null || exit; done &
    sudo_keeper=$!
fi
# Ctrl-C reaches the step by itself; this waits for the step's own clean-up.
running=''
stop() {
    trap '' INT TERM
    [ -z "$running" ] || { kill -TERM "$running" 2>/dev/null; wait "$running"; } || true
    clean_up
    exit 130
}
trap stop INT TERM
trap '[ -z "$sudo_keeper" ] || kill "$sudo_keeper" 2>/dev/null || true' EXIT

clock() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }
rm -f "$logs/steps" "target/nextest/default/junit.xml"
remaining=0 verdict=0 n=0
for step in "${steps[@]}"; do
    known=$(python3 scripts/times.py expect "$logs/times.json" "$step" 2>/dev/null) || known=''
    expected[$step]=${known:-${expected[$step]}}
    remaining=$((remaining + expected[$step]))
done
for step in "${steps[@]}"; do
    n=$((n + 1)) started=$SECONDS code=0
    printf '\n== %d of %d: %s (%s so far; this takes about %s, everything %s more)\n' "$n" "${#steps[@]}" "$step" \
        "$(clock "$SECONDS")" "$(clock "${expected[$step]}")" "$(clock "$remaining")"
    timeout --kill-after=60 "${limit[$step]}m" "$0" --step "$step" "$@" </dev/null \
        > >(exec tee -i "$logs/$step.log") 2>&1 &
    running=$!
    wait "$running" || code=$?
    running=''
    remaining=$((remaining - expected[$step]))
    case $code in 0) ;; 124 | 137) say "$step: ended after its limit of ${limit[$step]} minutes" ;; esac
    # The time of a part of the pool must not count as the time of the whole.
    [ "$step" != tests ] || [ "$#${TEST:-}" = "${#PARTS[@]}" ] || step="tests:${TEST:-$(IFS=+; echo "$*")}"
    echo "$step $code $((SECONDS - started))" >>"$logs/steps"
    [ "$code" -eq 0 ] || verdict=1
    # After a failed build, nothing can be tested.
    [ "$code" -eq 0 ] || [[ " lint cloudformation aws-check tests " == *" ${step%%:*} "* ]] || break
done
clean_up
# Prints the ten slowest tests with their waits, and the summary.
"$(command -v .venv/bin/python || echo python3)" scripts/times.py report "$logs" target/nextest/default/junit.xml || verdict=1
[ "$verdict" -eq 0 ]
