#!/usr/bin/env bash
# Makes the root file system that booted instances start from: booted-base.sh <directory>.
#
# It replaces Debian's own EC2 image: systemd, cloud-init with the Ec2 datasource, sshd, and no Docker, which packer/
# installs. The changes for a machine without a hypervisor are made at the end, and nowhere else.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

SUITE=bookworm
MIRROR=http://deb.debian.org
PACKAGES=systemd,systemd-sysv,dbus,udev,cloud-init,openssh-server,sudo,ifupdown,isc-dhcp-client
PACKAGES+=,iproute2,iptables,netbase,procps,ca-certificates,curl,jq,python3-minimal

[ $# -eq 1 ] || die "usage: booted-base.sh <directory>"
target=$1
[ ! -e "$target" ] || die "$target exists"
unfinished=$(mktemp -d "$(dirname "$target")/base.XXXXXX")
trap 'rm -rf --one-file-system "$unfinished"' EXIT
trap 'exit 130' INT TERM

# The package lists and the downloads of Docker and nftables stay: otherwise every build of the image would fetch them
# again.
# shellcheck disable=SC2016
mmdebstrap --quiet --mode=root --variant=apt --format=directory \
    --aptopt='APT::Install-Recommends "false"' --include="$PACKAGES" \
    --skip=cleanup/apt,cleanup/reproducible \
    --customize-hook='chroot "$1" apt-get install -y -q --download-only docker.io nftables >/dev/null' \
    "$SUITE" "$unfinished/root" \
    "deb $MIRROR/debian $SUITE main" \
    "deb $MIRROR/debian $SUITE-updates main" \
    "deb $MIRROR/debian-security $SUITE-security main"

base=$unfinished/root
rm -f "$base"/etc/hostname "$base"/etc/resolv.conf "$base"/etc/ssh/ssh_host_* "$base"/var/lib/dbus/machine-id
rm -f "$base"/etc/apt/apt.conf.d/99mmdebstrap
: >"$base/etc/machine-id"

# As in Debian's image for EC2: the user is admin, and the package sources stay unchanged. One host key is enough
# here, and no keys are printed on the console, where skep writes.
cat >"$base/etc/cloud/cloud.cfg.d/90_local.cfg" <<'CONFIG'
datasource_list: [ Ec2 ]
locale: C.UTF-8
ssh_genkeytypes: [ ed25519 ]
ssh: { emit_keys_to_console: false }
no_ssh_fingerprints: true
apt: { preserve_sources_list: true }
system_info:
  default_user:
    name: admin
CONFIG

# PID 1 of an instance. cloud-init recognizes EC2 by a UUID of the hypervisor.
cat >"$base/ec2-init" <<'INIT'
#!/bin/sh
mount -o remount,rw /sys
mkdir -p /sys/hypervisor
echo "ec2$(cut -c 4- /proc/sys/kernel/random/uuid)" >/sys/hypervisor/uuid
mount -o remount,ro /sys
exec env SYSTEMD_COLORS=0 /lib/systemd/systemd
INIT
chmod 755 "$base/ec2-init"

# cloud-init 22.4 recognizes only the older iproute2's message for an address that exists already.
ephemeral=$base/usr/lib/python3/dist-packages/cloudinit/net/ephemeral.py
sed -i 's/if "File exists" not in str(e.stderr):/if not re.search("File exists|already assigned", str(e.stderr)):/; 0,/^import /s//import re\nimport /' \
    "$ephemeral"
grep -q 'already assigned' "$ephemeral" || die "cloud-init has changed: look at $ephemeral"

# The address of AWS for skep; on EC2, skep finds it by itself.
install -d "$base/etc/systemd/system/skep.service.d"
cat >"$base/etc/systemd/system/skep.service.d/local-cloud.conf" <<'DROPIN'
[Service]
Environment=AWS_ENDPOINT_URL=http://aws.skep.internal
DROPIN

mv "$base" "$target"
