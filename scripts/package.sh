#!/usr/bin/env bash
# Makes the Debian and the RPM package in target/package: package.sh [--no-build] [cargo's target triple].
# For another architecture, cargo needs a linker for it. PROFILE=trial makes the packages of `make test`, in
# target/package-trial.
# --no-build packs the binary and the generator that are there.
#
# The same sources, compilers and tools give the same bytes, in every directory and at every time.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

build=true
[ "${1:-}" != --no-build ] || { build=false; shift; }
[ $# -le 1 ] || die "usage: package.sh [--no-build] [target triple]"
for_target=()
[ $# -eq 0 ] || for_target=(--target "$1")
profile=${PROFILE:-release}
# The tool is built without optimization, so compressing takes a minute: only a release is compressed.
compression=zstd
[ "$profile" = release ] || compression=none
generated=target/packaging
packages=$(packages_of "$profile")
rm -rf "$generated" "$packages"
mkdir -p "$packages"

export LC_ALL=C.UTF-8 TZ=UTC
umask 022
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(sources_date)}
export SOURCE_DATE_EPOCH

if $build; then
    build_for_release cargo build --profile "$profile" --locked --package skep "${for_target[@]}"
    # In the environment of all other builds for development: another time would build the C parts again, and all that
    # needs them.
    (unset SOURCE_DATE_EPOCH && clippy_build)
fi
target/debug/skep-packaging "$generated"
# packaging/test.sh makes a package from the same build.
echo "$profile" >"$generated/profile"
mkdir "$generated/doc"
# The documents refer to these.
cp -r docs README.md SECURITY.md CONTRIBUTING.md cloudformation packer userdata "$generated/doc/"
rm -rf "$generated/doc/cloudformation/tests"
cp -r systemd packaging/skep.default packaging/rpm/docker-credential-skep LICENSE-* "$generated/"
gzip -9n <CHANGELOG.md >"$generated/changelog.gz"
gzip -9n "$generated"/man/*
# cargo-generate-rpm keeps a time that is older than SOURCE_DATE_EPOCH, and replaces a younger one.
find "$generated" -exec touch --date="@$SOURCE_DATE_EPOCH" {} +
touch "target/${1:+$1/}$profile/skep"

target/tools/bin/cargo-deb deb --no-build --no-strip --locked --package skep --profile "$profile" "${for_target[@]}" \
    --output "$packages/"
target/tools/bin/cargo-generate-rpm generate-rpm --auto-req builtin --profile "$profile" "${for_target[@]}" \
    --payload-compress "$compression" --output "$packages/"
ls -l "$packages"/*
