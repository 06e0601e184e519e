#!/usr/bin/env bash
# Unpacks a Docker Engine beside the machine's own into target/engine, for SKEP_ENGINE: what Ubuntu has for 22.04
# now, since that runs on the C library of every system that skep is built on. Prints the folder. Nothing is
# installed, and nothing of it is started here.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

SUITES='jammy jammy-updates'
# The key with which Ubuntu signs its archive. Where the machine is not Ubuntu itself, it comes from there, too.
KEYRING=usr/share/keyrings/ubuntu-archive-keyring.gpg
KEYRING_PACKAGE=pool/main/u/ubuntu-keyring/ubuntu-keyring_2021.03.26_all.deb
KEYRING_SHA256=0d0e7ed6b112f5d03eabf3c7eb01ebdacf9c57714b279e90495cfc58c8c4520f
# runc is the machine's own.
PROGRAMS=(dockerd docker-proxy containerd containerd-shim-runc-v2)

case $(dpkg --print-architecture) in
    amd64) mirror=http://archive.ubuntu.com/ubuntu ;;
    *) mirror=http://ports.ubuntu.com/ubuntu-ports ;;
esac

# fetch_keyring <folder>: prints the file
fetch_keyring() {
    if [ -s "/$KEYRING" ]; then
        echo "/$KEYRING"
        return
    fi
    curl --silent --show-error --fail --location --max-time 120 --output "$1/keyring.deb" "$mirror/$KEYRING_PACKAGE"
    echo "$KEYRING_SHA256  $1/keyring.deb" | sha256sum --check --quiet >&2 ||
        die "$mirror/$KEYRING_PACKAGE is not the file that was reviewed"
    dpkg-deb --extract "$1/keyring.deb" "$1/keyring"
    echo "$1/keyring/$KEYRING"
}

# unpack <folder>
unpack() {
    local state=$1/apt options keyring suite
    keyring=$(fetch_keyring "$1")
    mkdir -p "$state/lists/partial" "$state/archives/partial" "$1/root"
    for suite in $SUITES; do
        echo "deb [signed-by=$keyring] $mirror $suite main universe"
    done >"$state/sources.list"
    options=(-q -o "Dir::Etc::sourcelist=$state/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$state/lists"
        -o "Dir::Cache=$state" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update >&2
    (cd "$state" && apt-get "${options[@]}" download docker.io containerd >&2)
    find "$state" -maxdepth 1 -name '*.deb' -exec dpkg-deb --extract {} "$1/root" \;
    mkdir "$1/bin"
    mv "${PROGRAMS[@]/#/$1/root/usr/bin/}" "$1/bin/"
    "$1/bin/dockerd" --version >&2 && "$1/bin/containerd" --version >&2
    rm -rf "$state" "$1/root" "$1"/keyring*
    echo "$mirror $SUITES" >"$1/source"
}

engine=$PWD/target/engine
if [ "$(cat "$engine/source" 2>/dev/null)" != "$mirror $SUITES" ]; then
    mkdir -p target
    unfinished=$(mktemp -d "$root/target/engine.XXXXXX")
    trap 'rm -rf "$unfinished"' EXIT
    unpack "$unfinished"
    rm -rf "$engine"
    chmod 755 "$unfinished"
    mv "$unfinished" "$engine"
fi
"$engine/bin/dockerd" --version >/dev/null || die "the Docker Engine in $engine does not run on this machine's C library"
echo "$engine/bin"
