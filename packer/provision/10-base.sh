#!/usr/bin/env bash
# Waits for the end of the first boot, updates the packages, and sets the clock's source.
set -euo pipefail

# cloud-init configures the package manager that is used below. Its own failures do not matter here.
if [ -d /run/systemd/system ] && command -v cloud-init >/dev/null; then
    cloud-init status --wait >/dev/null || true
fi

if command -v apt-get >/dev/null; then
    # For the scripts that follow; 90-clean removes it again.
    cat >/etc/apt/apt.conf.d/90-image-build <<'END'
APT::Get::Assume-Yes "true";
APT::Install-Recommends "false";
DPkg::Lock::Timeout "300";
DPkg::Options { "--force-confdef"; "--force-confold"; };
END
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    [ "$UPGRADE" = false ] || apt-get dist-upgrade -q
    apt-get install -q ca-certificates chrony
    # Amazon's own clock, which needs no internet access. Its address is the same in every region.
    install -d /etc/chrony/sources.d
    echo 'server 169.254.169.123 prefer iburst minpoll 4 maxpoll 4' >/etc/chrony/sources.d/amazon-time-sync.sources
    systemctl enable chrony.service
else
    [ "$UPGRADE" = false ] || dnf upgrade -y -q --releasever=latest
    # Amazon Linux's chrony already uses Amazon's clock.
    dnf install -y -q chrony
    systemctl enable chronyd.service
fi
