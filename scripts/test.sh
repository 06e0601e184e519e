#!/usr/bin/env bash
# All checks and tests, one stage after the other, with a summary at the end: test.sh [stage]...
#
#   TEST=word             only tests whose name contains it
#   SCENARIO_THREADS=n    scenarios at a time; each has a fleet of Docker daemons of its own
#   BOOTED_THREADS=n      the same of those on booted instances
#   FAIL_FAST=1           stop at the first stage that fails
#
# The runner is plain `cargo test`. cargo-nextest would give every test a process and a time-out, but a
# new machine would have to build it for minutes, and its two gifts matter little here: a scenario keeps
# its state in namespaces and daemons, not in the test process, and has a deadline of its own. What
# remains, a run that hangs, is bounded per stage below.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

STAGES=(lint build units model cloud cloudformation scenarios engine packages booted)

# Minutes, so that a test that hangs ends with its log and the summary rather than with CI's 90 minutes.
limit_of() {
    case $1 in
        lint | build) echo 20 ;;
        units) echo 5 ;;
        model) echo 15 ;;
        cloud | cloudformation) echo 10 ;;
        scenarios) echo 45 ;;
        engine) echo 15 ;;
        # Beside the scenarios, with what they leave of the machine.
        packages) echo 60 ;;
        booted) echo 30 ;;
    esac
}

# --- The stages ------------------------------------------------------------------------------------

stage_lint() { scripts/lint.sh; }

stage_build() { build_workspace; }

# Unit and property tests, and the examples in the documentation. As the user, with nothing but loopback.
stage_units() {
    cargo_test --lib --bins
    [ -n "${TEST:-}" ] || cargo_test --doc
}

# The protocols under a model checker, for seconds; `make model` goes deeper.
stage_model() {
    cargo_test --test fences --test departing --test recovering
    [ -n "${TEST:-}" ] || target/debug/skep-model --for 20s
}

# The local cloud by itself, driven by the real `aws`.
stage_cloud() {
    test_as_root
    cargo_test --test aws_cli --test fleet
}

# The real packages, in a throw-away Debian.
stage_packages() {
    scripts/package.sh
    packaging/test.sh
}

# The stack in moto, with the main variants of its parameters. It writes what the roles may: the scenarios
# let them do no more.
stage_cloudformation() {
    .venv/bin/python cloudformation/tests/check.py "$policies"
}
policies=target/test/policies.json

# skep on real Docker daemons, with the permissions that the template grants.
stage_scenarios() {
    test_as_root
    [ "$policies" -nt cloudformation/skep.yaml ] || stage_cloudformation
    RUST_TEST_THREADS=${SCENARIO_THREADS:-5} cargo_scenarios --test scenarios
}

# The same on another Docker Engine than the machine's own: one or two for each thing that managers do, and where
# engines differ (raft's members, its elections, what a failed join leaves) more.
stage_engine() {
    local scenarios=(founding_race own_port_closed stale_token::that rolling::three_managers_one own_care
        lost_swarm::replacements recover::a_survivor stale_entries tokens::what autolock::the_only
        labels::no_task without_a_word::the_leader dead_skep::a_worker quorum::it_goes two_managers scale_in_leader)
    test_as_root
    [ "$policies" -nt cloudformation/skep.yaml ] || stage_cloudformation
    SKEP_ENGINE=$(scripts/second-engine.sh)
    export SKEP_ENGINE RUST_TEST_THREADS=${SCENARIO_THREADS:-5}
    [ -z "${TEST:-}" ] || scenarios=()
    cargo_scenarios --test scenarios "${scenarios[@]:+--}" "${scenarios[@]}"
}

# Booted instances, from the image that Packer makes of the real package.
stage_booted() {
    test_as_root
    [ "$policies" -nt cloudformation/skep.yaml ] || stage_cloudformation
    compgen -G 'target/package/*.deb' >/dev/null || scripts/package.sh
    RUST_TEST_THREADS=${BOOTED_THREADS:-2} cargo_scenarios --test booted
}

# cargo_test <option of cargo test>...
cargo_test() {
    # Whatever the tests run is to be of these sources, even where only one stage is asked for.
    build_workspace --quiet
    cargo test --workspace --locked --no-fail-fast "$@" ${TEST:+-- "$TEST"}
}

# The same for scenarios: dozens of processes each, on cores that others use, too. One that fails is run again,
# alone: what fails then has failed; what passes then is named in the summary, and wants to be looked at.
# Many at once are no accident.
cargo_scenarios() {
    local log code=0 failed=()
    log=$(mktemp)
    cargo_test "$@" | tee "$log" || code=$?
    if [ $code -ne 0 ]; then
        mapfile -t failed < <(awk '/^failures:$/ { n = 0 } /^    [a-z_0-9:]+$/ { f[n++] = $1 }
            END { for (i = 0; i < n; i++) print f[i] }' "$log")
    fi
    rm -f "$log"
    [ ${#failed[@]} -ge 1 ] && [ ${#failed[@]} -le "$UNSTEADY_AT_MOST" ] || return "$code"
    say "-- again, alone: ${failed[*]}"
    RUST_TEST_THREADS=1 cargo test --workspace --locked --no-fail-fast "$1" "$2" -- --exact "${failed[@]}" || return
    printf 'unsteady: %s\n' "${failed[@]}"
}
UNSTEADY_AT_MOST=3

# Test binaries are built as the user and run as root.
test_as_root() {
    local host
    host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    # A relative path, so that a blank in the checkout's own path does not split it.
    export "CARGO_TARGET_${host}_RUNNER=scripts/as-root"
}

# --- Running them ----------------------------------------------------------------------------------

if [ "${1:-}" = --stage ]; then
    "stage_$2"
    exit
fi

[ $# -gt 0 ] || set -- "${STAGES[@]}"
for stage in "$@"; do
    declare -F "stage_$stage" >/dev/null || die "no such stage: $stage (there are: ${STAGES[*]})"
done
stages=" $* "
forget_account
logs=target/test
mkdir -p "$logs"

declare -A running=()
sudo_keeper=""
# Ctrl-C reaches the stages as a termination, and their own clean-up is waited for.
stop() {
    trap '' INT TERM
    local stage
    for stage in "${running[@]}"; do
        if kill -TERM "$stage" 2>/dev/null; then wait "$stage" || true; fi
    done
    exit 130
}
trap stop INT TERM
trap '[ -z "$sudo_keeper" ] || kill "$sudo_keeper" 2>/dev/null || true' EXIT

# A password is asked for while someone is there to answer, and once only.
case " $* " in *" cloud "* | *" scenarios "* | *" engine "* | *" booted "*)
    scripts/as-root true
    if [ "$(id -u)" -ne 0 ]; then
        while sleep 60; do sudo -n true 2>/dev/null || exit; done &
        sudo_keeper=$!
    fi
    ;;
esac

# start_stage <stage> <where its output goes>: in a process group of its own, so that its time limit ends all of it.
start_stage() {
    set -m
    timeout --kill-after=60 "$(limit_of "$1")m" "$0" --stage "$1" >&"$2" 2>&1 {out}>&- </dev/null &
    set +m
    running[$1]=$!
}

# wait_for_stage <stage>
wait_for_stage() {
    local code=0
    wait "${running[$1]}" || code=$?
    unset "running[$1]"
    case $code in 124 | 137) say "$1: ended after its limit of $(limit_of "$1") minutes" ;; esac
    return "$code"
}

# Scenarios mostly wait. The release build, which takes minutes, runs beside them, behind everything else, and is
# shown when its turn comes.
start_beside_scenarios() {
    local out
    case "${stages#*scenarios}" in *" packages "*) ;; *) return 0 ;; esac
    exec {out}>"$logs/packages.log"
    start_stage packages "$out"
    exec {out}>&-
    renice -n 19 -g "${running[packages]}" >/dev/null
}

run_stage() {
    local code=0 out tee tries
    if [ -n "${running[$1]:-}" ]; then
        # Its turn: only root may say so.
        renice -n 0 -g "${running[$1]}" >/dev/null 2>&1 || true
        wait_for_stage "$1" || code=$?
        cat "$logs/$1.log"
        return "$code"
    fi
    [ "$1" != scenarios ] || start_beside_scenarios
    exec {out}> >(exec tee -i "$logs/$1.log")
    tee=$!
    start_stage "$1" "$out"
    wait_for_stage "$1" || code=$?
    exec {out}>&-
    # Its last lines; but not for ever, if a process that was left behind still holds the other end.
    for ((tries = 0; tries < 50; tries++)); do
        kill -0 "$tee" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$tee" 2>/dev/null || true
    return "$code"
}

# counts <log>: passed, failed and ignored tests of all `test result:` lines, and those that passed in the end.
counts() {
    awk '/^test result:/ { p += $4; f += $6; i += $8 } /^unsteady:/ { u++ }
        END { print p + 0, f - u, i + 0, u + 0 }' "$1"
}

summary=()
passed_all=0 failed_all=0 failures=0
for stage in "$@"; do
    printf '\n== %s\n' "$stage"
    started=$SECONDS verdict=ok note=
    run_stage "$stage" || verdict=FAILED
    read -r passed failed ignored unsteady < <(counts "$logs/$stage.log")
    if [ $((passed + failed)) -gt 0 ]; then
        note="$passed passed, $failed failed"
        [ "$ignored" -eq 0 ] || note+=", $ignored ignored"
        [ "$unsteady" -eq 0 ] || note+=", only when alone: $(sed -n 's/^unsteady: //p' "$logs/$stage.log" | paste -sd' ')"
    fi
    [ $verdict = ok ] || failures=$((failures + 1))
    passed_all=$((passed_all + passed)) failed_all=$((failed_all + failed))
    took=$((SECONDS - started))
    summary+=("$(printf '%-10s %-6s %3d:%02d  %s' "$stage" "$verdict" $((took / 60)) $((took % 60)) "$note")")
    # Nothing can be tested that was not built.
    if [ $verdict = FAILED ] && { [ "$stage" = build ] || [ -n "${FAIL_FAST:-}" ]; }; then break; fi
done

printf '\n== summary (%d:%02d; logs in %s)\n' $((SECONDS / 60)) $((SECONDS % 60)) "$logs"
printf '%s\n' "${summary[@]}"
printf '%d passed, %d failed\n' "$passed_all" "$failed_all"
[ "$failures" -eq 0 ]
