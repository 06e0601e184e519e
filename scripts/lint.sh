#!/usr/bin/env bash
# Checks the sources without running them. No check needs the network.
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

# Checks skep's own units, and skips systemd's findings about others and about programs that only an installation has.
# The threshold is in tenths; the exposure depends on systemd's version: 0.9 to 1.5 with 252.
units() {
    local problems unit
    problems=$(systemd-analyze verify --man=no systemd/*.service systemd/*.socket 2>&1 | grep -F skep |
        grep -vE 'Command /usr/(bin/skep|sbin/nft) is not executable') || true
    [ -z "$problems" ] || { say "$problems"; return 1; }
    for unit in systemd/*.service; do
        systemd-analyze security --offline=true --threshold=15 "$unit" >/dev/null || {
            systemd-analyze security --offline=true --no-pager "$unit"
            return 1
        }
    done
}

# The local cloud is never part of the shipped binary.
ships_no_cloud() {
    local tree
    tree=$(cargo tree --locked --package skep --edges normal,build --prefix none) || return
    ! grep -E '^(dynoxide-rs|skep-sim) ' <<<"$tree"
}

# GitHub's syntax, and the known holes: untrusted input in scripts, too many permissions, actions that can change.
workflows() {
    .venv/bin/python .venv/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml &&
        .venv/bin/zizmor --offline --quiet --no-progress .github
}

mapfile -t scripts < <(shell_scripts)

check cargo fmt --all --check
check clippy_build
check cargo-deny --locked --workspace check --hide-inclusion-graph bans licenses sources
check ships_no_cloud
check shellcheck --external-sources "${scripts[@]}"
check units
check .venv/bin/python scripts/links.py
check workflows
check packer/check.sh
check userdata/check.sh
check .venv/bin/python .venv/bin/cfn-lint cloudformation/*.yaml

[ ${#failed[@]} -eq 0 ] || {
    printf '\nfailed: %s' "${failed[@]}" >&2
    say
    exit 1
}
