# shellcheck shell=bash
# The common start of all scripts here: source it, do not run it.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

# On Debian, a plain user's PATH lacks the directories of dockerd, iptables and ip. The tools that setup.sh has
# installed come before those of the machine.
export PATH="$root/target/tools/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin"
# The Makefile, the tests and the scripts expect everything there, so the user's own cargo settings must not count.
export CARGO_TARGET_DIR="$root/target"
unset CARGO_BUILD_TARGET

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# The version is in Cargo.toml, and nowhere else.
version_of_sources() { sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"$/\1/p' Cargo.toml; }

# The time of the last commit, or of the changelog in sources without git: SOURCE_DATE_EPOCH of all that is made of them.
sources_date() { git log -1 --format=%ct 2>/dev/null || date --reference=CHANGELOG.md +%s; }

# build_for_release <cargo> <command> [option]...: the binary holds no path of this machine.
build_for_release() {
    local cargo_home=${CARGO_HOME:-$HOME/.cargo} separator=$'\x1f'
    CARGO_ENCODED_RUSTFLAGS="--remap-path-prefix=$root=/skep$separator--remap-path-prefix=$cargo_home=/cargo" \
        CFLAGS="-ffile-prefix-map=$root=/skep -ffile-prefix-map=$cargo_home=/cargo" "$@"
}

# packages_of <profile>: the directory of the packages. Those of the tests must not be taken for the ones to be shipped.
packages_of() { echo "target/package$([ "$1" = release ] || echo "-$1")"; }

# The tests, the demo and the bench must not reach a developer's own account and Docker.
forget_account() {
    local name
    for name in $(compgen -e AWS_ || true) $(compgen -e DOCKER_ || true); do
        unset "$name"
    done
    export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null
    export AWS_CLI="$root/.venv/bin/aws"
}

# Builds everything for development at once, so that every dependency is built once, with all features that any
# package here needs. Clippy replaces the compiler for the project's own packages, so that they are not compiled twice,
# once for its findings and once to run. Only the build of the packages, whose skep the booted tests run, shows that
# skep is complete with its own features alone.
clippy_build() { clippy_cargo build --workspace --all-targets --locked; }

# clippy_cargo <command> [option]...: uses the build of clippy_build. Without the wrapper, cargo would build it again.
# `cargo clippy -- -D warnings` passes the denial to its driver in this variable.
clippy_cargo() {
    RUSTC_WORKSPACE_WRAPPER=clippy-driver CLIPPY_ARGS=-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__ cargo "$@"
}
