#!/usr/bin/env bash
# Installs the agent of Session Manager, or enables the one that the source image has.
#   SSM_AGENT_VERSION  such as 3.3.3270.0; empty: the one of the source image, if it has one
#   SSM_AGENT_SHA256   of the package of that version, for this distribution and architecture
set -euo pipefail

PACKAGES=https://s3.amazonaws.com/ec2-downloads-windows/SSMAgent

# As snap names it, and as its packages do.
units=(snap.amazon-ssm-agent.amazon-ssm-agent.service amazon-ssm-agent.service)

if [ -n "$SSM_AGENT_VERSION" ]; then
    [ -n "$SSM_AGENT_SHA256" ] || {
        echo "error: ssm_agent_version needs ssm_agent_sha256, the checksum of that package: see packer/README.md" >&2
        exit 1
    }
    case $(uname -m) in
        x86_64) cpu=amd64 ;;
        aarch64) cpu=arm64 ;;
        *) echo "error: there is no agent of Session Manager for $(uname -m)" >&2; exit 1 ;;
    esac
    if command -v apt-get >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive
        apt-get install -q ca-certificates curl
        file=debian_$cpu/amazon-ssm-agent.deb install=(apt-get install -q --reinstall)
    else
        file=linux_$cpu/amazon-ssm-agent.rpm install=(dnf install -y -q)
    fi
    work=$(mktemp -d)
    # apt reads the package as a user of its own.
    chmod 755 "$work"
    package=$work/$(basename "$file")
    curl -fsSL --retry 5 -o "$package" "$PACKAGES/$SSM_AGENT_VERSION/$file" || {
        echo "error: the agent of Session Manager cannot be fetched from $PACKAGES/$SSM_AGENT_VERSION/$file" >&2
        exit 1
    }
    found=$(sha256sum "$package" | cut -d ' ' -f 1)
    [ "$found" = "$SSM_AGENT_SHA256" ] || {
        echo "error: $PACKAGES/$SSM_AGENT_VERSION/$file has the checksum $found, and not $SSM_AGENT_SHA256" >&2
        exit 1
    }
    # Ubuntu's images have it as a snap. Two agents of one instance would disturb each other.
    if command -v snap >/dev/null && snap list amazon-ssm-agent >/dev/null 2>&1; then
        snap remove amazon-ssm-agent
    fi
    "${install[@]}" "$package"
    rm -rf "$work"
fi

for unit in "${units[@]}"; do
    if systemctl cat "$unit" >/dev/null 2>&1; then
        systemctl enable "$unit"
        exit
    fi
done
[ -z "$SSM_AGENT_VERSION" ] || { echo "error: the package has no ${units[1]}" >&2; exit 1; }
cat >&2 <<'END'
warning: this image has no agent of Session Manager, so Session Manager and Run Command do not reach its nodes.
warning: build it with $(packer/ssm-agent.sh), or give the stack KeyName and SshSecurityGroup for ssh.
END
