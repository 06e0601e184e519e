#!/usr/bin/env bash
# Prints the variables with which Packer puts the newest agent of Session Manager into an image of Debian or Ubuntu:
# ssm-agent.sh [x86_64 | arm64]
#
# It relies on HTTPS and Amazon's bucket. README.md says how to verify the signature of the package instead.
set -euo pipefail

PACKAGES=https://s3.amazonaws.com/ec2-downloads-windows/SSMAgent

case $#:${1:-x86_64} in
    [01]:x86_64) cpu=amd64 ;;
    1:arm64) cpu=arm64 ;;
    *) echo "usage: ssm-agent.sh [x86_64 | arm64]" >&2; exit 2 ;;
esac
work=$(mktemp -d)
# A shell goes on if a command in $(…) fails: this value makes Packer refuse.
end() {
    [ "$1" -eq 0 ] || echo "-var ssm_agent_version=unknown"
    rm -rf "$work"
}
trap 'end $?' EXIT
# fetch <path>
fetch() {
    curl -fsSL --retry 5 -o "$work/file" "$PACKAGES/$1" || {
        echo "error: $PACKAGES/$1 cannot be fetched" >&2
        exit 1
    }
}
fetch latest/VERSION
version=$(tr -d '[:space:]' <"$work/file")
[[ $version =~ ^[0-9]+(\.[0-9]+){3}$ ]] || { echo "error: $PACKAGES/latest/VERSION is no version: $version" >&2; exit 1; }
fetch "$version/debian_$cpu/amazon-ssm-agent.deb"
sum=$(sha256sum "$work/file")
echo "-var ssm_agent_version=$version -var ssm_agent_sha256=${sum%% *}"
