#!/usr/bin/env bash
# Everything that can be said about the sources without running them. No check needs the network.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

failed=()

check() {
    say "-- $*"
    "$@" || failed+=("$*")
}

shell_scripts() {
    find . \( -path ./target -o -path ./.venv -o -path ./.git \) -prune -o -type f -print0 |
        xargs -0 grep -lIE -m1 '^#!.*[/ ](ba|da)?sh( |$)|^# shellcheck shell=' | sort
}

mapfile -t scripts < <(shell_scripts)

check cargo fmt --all --check
# One package at a time: together, skep would be checked with features that only the local cloud asks for.
check cargo clippy --package skep --all-targets --locked -- -D warnings
check cargo clippy --package skep-sim --all-targets --locked -- -D warnings
check cargo clippy --package skep-scenarios --all-targets --locked -- -D warnings
check target/tools/bin/cargo-deny --locked --workspace check --hide-inclusion-graph bans licenses sources
check shellcheck --external-sources "${scripts[@]}"

[ ${#failed[@]} -eq 0 ] || {
    printf '\nfailed: %s' "${failed[@]}" >&2
    say
    exit 1
}
