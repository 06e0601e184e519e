#!/usr/bin/env bash
# Installs Docker Engine: the distribution's, or docker-ce from Docker's own repository.
#   DOCKER_SOURCE   distribution, docker
#   DOCKER_VERSION  such as 28.5.2, or the start of a version; empty for the newest
set -euo pipefail

DOCKER_KEY=9DC858229FC7DD38854AE2D88D81803C0EBFCD88

debian_s_own() {
    local version=${DOCKER_VERSION:+=$DOCKER_VERSION*}
    local packages=("docker.io$version")
    # A separate package in Debian 13.
    if apt-cache show docker-cli >/dev/null 2>&1; then packages+=("docker-cli$version"); fi
    apt-get install -q "${packages[@]}" apparmor iptables
}

# The key's file is trusted only if it contains Docker's key and no other. Fingerprint: docs.docker.com/engine/install.
trust_docker_s_key() {
    local work key found
    work=$(mktemp -d)
    key=$work/docker.asc
    curl -fsSL --retry 5 -o "$key" "https://download.docker.com/linux/$ID/gpg"
    found=$(gpg --batch --homedir "$work" --show-keys --with-colons "$key" | awk -F: '$1 == "pub" { getline; print $10 }')
    [ "$found" = "$DOCKER_KEY" ] || {
        echo "error: download.docker.com has the key ${found:-(none)}, and not Docker's key $DOCKER_KEY" >&2
        exit 1
    }
    install -D -m 644 "$key" /etc/apt/keyrings/docker.asc
    rm -rf "$work"
}

docker_s_own() {
    # shellcheck source=/dev/null
    . /etc/os-release
    apt-get install -q ca-certificates curl gpg
    trust_docker_s_key
    cat >/etc/apt/sources.list.d/docker.sources <<END
Types: deb
URIs: https://download.docker.com/linux/$ID
Suites: $VERSION_CODENAME
Components: stable
Signed-By: /etc/apt/keyrings/docker.asc
END
    apt-get update -q
    # 5 is the epoch of Docker's packages.
    local version=${DOCKER_VERSION:+=5:$DOCKER_VERSION*}
    apt-get install -q "docker-ce$version" "docker-ce-cli$version" containerd.io apparmor iptables
}

if command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    case $DOCKER_SOURCE in
        distribution) debian_s_own ;;
        docker) docker_s_own ;;
    esac
else
    dnf install -y -q "docker${DOCKER_VERSION:+-$DOCKER_VERSION*}"
fi
systemctl enable containerd.service docker.service
