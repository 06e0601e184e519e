# shellcheck shell=bash
# What every script here starts with: source it, do not run it.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

# dockerd, iptables and ip live where a plain user's PATH does not look on Debian; the tools that setup.sh has
# installed come before those of the machine.
export PATH="$root/target/tools/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin"
# Where the Makefile, the tests and this folder expect everything, whatever the user's own cargo settings say.
export CARGO_TARGET_DIR="$root/target"
unset CARGO_BUILD_TARGET

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# A developer's own account and own Docker must be out of reach of the tests, the demo and the bench.
forget_account() {
    local name
    for name in $(compgen -e AWS_ || true) $(compgen -e DOCKER_ || true); do
        unset "$name"
    done
    export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null
    export AWS_CLI="$root/.venv/bin/aws"
}

# Builds everything but what is shipped, and all of it at once, so that every dependency is built once, with the
# features that anybody here asks for; and with Clippy in the compiler's place for the project's own packages, so
# that they are not compiled once for its findings and once more to run. That skep is complete with its own
# features alone shows where it is built as it is shipped: for the packages, whose skep the booted tests run.
clippy_build() { clippy_cargo build --workspace --all-targets --locked; }

# clippy_cargo <command> [option]...: finds what clippy_build has built. Without the wrapper, cargo would build it again.
# `cargo clippy -- -D warnings` hands the denial to its driver in this variable.
clippy_cargo() {
    RUSTC_WORKSPACE_WRAPPER=clippy-driver CLIPPY_ARGS=-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__ cargo "$@"
}
