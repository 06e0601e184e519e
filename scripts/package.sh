#!/usr/bin/env bash
# Makes the Debian and the RPM package in target/package: package.sh [cargo's target triple].
# For another architecture, cargo needs a linker for it. PROFILE=trial makes the packages of `make test`.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

[ $# -le 1 ] || die "usage: package.sh [target triple]"
for_target=()
[ $# -eq 0 ] || for_target=(--target "$1")
profile=${PROFILE:-release}
# The tool is built without optimization, so compressing takes a minute: only a release is compressed.
compression=zstd
[ "$profile" = release ] || compression=none
generated=target/packaging
packages=target/package
rm -rf "$generated" "$packages"
mkdir -p "$packages"

cargo build --profile "$profile" --locked --package skep "${for_target[@]}"
clippy_build
target/debug/skep-packaging "$generated"
# packaging/test.sh makes a package from the same build.
echo "$profile" >"$generated/profile"
# Without a time stamp, so that the same sources make the same package.
gzip -9n "$generated"/man/*

target/tools/bin/cargo-deb deb --no-build --no-strip --locked --package skep --profile "$profile" "${for_target[@]}" \
    --output "$packages/"
target/tools/bin/cargo-generate-rpm generate-rpm --auto-req builtin --profile "$profile" "${for_target[@]}" \
    --payload-compress "$compression" --output "$packages/"
ls -l "$packages"/*
