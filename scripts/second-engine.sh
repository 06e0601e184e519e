#!/usr/bin/env bash
# Unpacks a Docker Engine beside the machine's own into target/engine, for SKEP_ENGINE, and prints the folder. It is
# Ubuntu's current engine for 22.04, which runs on the C library of every system that skep is built on; if Ubuntu's
# archive cannot be reached, it is Debian's. Nothing is installed, and nothing of it is started here.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

SOURCES=(ubuntu sid trixie)
# runc is the machine's own.
PROGRAMS=(dockerd docker-proxy containerd containerd-shim-runc-v2)

DEBIAN=http://deb.debian.org/debian
DEBIAN_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
case $(dpkg --print-architecture) in
    amd64) UBUNTU=http://archive.ubuntu.com/ubuntu ;;
    *) UBUNTU=http://ports.ubuntu.com/ubuntu-ports ;;
esac
# The key with which Ubuntu signs its archive. A machine that is not Ubuntu fetches the key from there, too.
UBUNTU_KEYRING=usr/share/keyrings/ubuntu-archive-keyring.gpg
KEYRING_PACKAGE=$UBUNTU/pool/main/u/ubuntu-keyring/ubuntu-keyring_2021.03.26_all.deb
KEYRING_SHA256=0d0e7ed6b112f5d03eabf3c7eb01ebdacf9c57714b279e90495cfc58c8c4520f

# fetch_keyring <folder>: prints the file
fetch_keyring() {
    if [ -s "/$UBUNTU_KEYRING" ]; then
        echo "/$UBUNTU_KEYRING"
        return
    fi
    curl --silent --show-error --fail --location --connect-timeout 20 --max-time 120 --output "$1/keyring.deb" \
        "$KEYRING_PACKAGE" || return
    echo "$KEYRING_SHA256  $1/keyring.deb" | sha256sum --check --quiet >&2 ||
        die "$KEYRING_PACKAGE is not the file that was reviewed"
    dpkg-deb --extract "$1/keyring.deb" "$1/keyring" && echo "$1/keyring/$UBUNTU_KEYRING"
}

# list_sources <source> <folder>: prints the lines for apt's sources.list
list_sources() {
    local keyring suite
    if [ "$1" = ubuntu ]; then
        keyring=$(fetch_keyring "$2") || return
        for suite in jammy jammy-updates; do
            echo "deb [signed-by=$keyring] $UBUNTU $suite main universe"
        done
    else
        [ -s "$DEBIAN_KEYRING" ] || die "$DEBIAN_KEYRING is missing: install debian-archive-keyring"
        echo "deb [signed-by=$DEBIAN_KEYRING] $DEBIAN $1 main"
    fi
}

# unpack <source> <folder>: fails if the source cannot be reached, or its engine does not run here
unpack() {
    local state=$2/apt options program
    mkdir -p "$state/lists/partial" "$state/archives/partial" "$2/root" "$2/bin"
    list_sources "$1" "$2" >"$state/sources.list" || return
    options=(-q -o "Dir::Etc::sourcelist=$state/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$state/lists"
        -o "Dir::Cache=$state" -o APT::Sandbox::User=root -o Acquire::http::Timeout=20 -o Acquire::Retries=1)
    apt-get "${options[@]}" update >&2 || return
    (cd "$state" && apt-get "${options[@]}" download docker.io containerd >&2) || return
    find "$state" -maxdepth 1 -name '*.deb' -exec dpkg-deb --extract {} "$2/root" \;
    for program in "${PROGRAMS[@]}"; do
        find "$2/root" -type f -path "*bin/$program" -exec mv {} "$2/bin/" \;
    done
    "$2/bin/dockerd" --version >&2 && "$2/bin/containerd" --version >&2 || return
    rm -rf "$state" "$2/root" "$2"/keyring*
    echo "$1" >"$2/source"
}

engine=$PWD/target/engine
if [ ! -s "$engine/source" ]; then
    mkdir -p target
    unfinished=$(mktemp -d "$root/target/engine.XXXXXX")
    trap 'rm -rf "$unfinished"' EXIT
    found=''
    for source in "${SOURCES[@]}"; do
        if unpack "$source" "$unfinished/$source"; then
            found=$unfinished/$source
            break
        fi
    done
    [ -n "$found" ] || die "no Docker Engine of Ubuntu's or Debian's can be fetched that runs on this machine's C library"
    rm -rf "$engine"
    mv "$found" "$engine"
fi
"$engine/bin/dockerd" --version >/dev/null || die "the Docker Engine in $engine does not run on this machine's C library"
echo "$engine/bin"
