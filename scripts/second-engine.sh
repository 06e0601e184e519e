#!/usr/bin/env bash
# Unpacks a Docker Engine beside the machine's own into target/engine, for SKEP_ENGINE: what Debian builds
# now, where the machine has what its release was made with. Prints the folder. Nothing is installed, and
# nothing of it is started here.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

MIRROR=http://deb.debian.org/debian
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
# The first whose programs run on this machine's C library.
SUITES=(sid trixie)
# runc needs a newer C library than the rest; the machine's own serves all of them.
PROGRAMS=(usr/sbin/dockerd usr/sbin/docker-proxy usr/bin/containerd usr/bin/containerd-shim-runc-v2)

# unpack <suite> <folder>
unpack() {
    local state=$2/apt options
    mkdir -p "$state/lists/partial" "$state/archives/partial" "$2/root"
    echo "deb [signed-by=$KEYRING] $MIRROR $1 main" >"$state/sources.list"
    options=(-q -o "Dir::Etc::sourcelist=$state/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$state/lists"
        -o "Dir::Cache=$state" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update >&2
    (cd "$state" && apt-get "${options[@]}" download docker.io containerd >&2)
    find "$state" -maxdepth 1 -name '*.deb' -exec dpkg-deb --extract {} "$2/root" \;
    mkdir "$2/bin"
    mv "${PROGRAMS[@]/#/$2/root/}" "$2/bin/"
    rm -r "$state" "$2/root"
    "$2/bin/dockerd" --version >&2 && "$2/bin/containerd" --version >&2
}

engine=$PWD/target/engine
if [ ! -x "$engine/bin/dockerd" ]; then
    [ -s "$KEYRING" ] || die "$KEYRING is missing: install debian-archive-keyring"
    unfinished=$(mktemp -d "$root/target/engine.XXXXXX")
    trap 'rm -rf "$unfinished"' EXIT
    for suite in "${SUITES[@]}"; do
        ! unpack "$suite" "$unfinished/$suite" || break
    done
    mv "$unfinished/$suite" "$engine"
fi
"$engine/bin/dockerd" --version >/dev/null || die "no Docker Engine of Debian's runs on this machine's C library"
echo "$engine/bin"
