#!/usr/bin/env bash
# Removes all that must differ between two instances, all secrets, and files that only make the image larger.
#   PACKAGE  the uploaded package
set -euo pipefail

# --- Docker: images that were pulled on purpose stay; the identity of this engine is removed ---

# An image with a swarm in it would make every instance the same node.
if [ -s /var/lib/docker/swarm/docker-state.json ]; then
    echo "error: this machine's Docker is in a swarm, and so would be every instance of the image." >&2
    echo "Leave it first (docker swarm leave --force), or start from another source image." >&2
    exit 1
fi
if [ -d /run/systemd/system ]; then
    systemctl stop docker.socket docker.service containerd.service
    ip link delete docker0 2>/dev/null || true
fi
rm -rf /var/lib/docker/swarm /var/lib/docker/network /var/lib/docker/engine-id /etc/docker/key.json

# --- skep: settings of the image stay ---

[ ! -d /var/lib/skep ] || find /var/lib/skep -mindepth 1 -delete

# --- Session Manager's agent: what it knows of this machine ---

systemctl stop amazon-ssm-agent.service snap.amazon-ssm-agent.amazon-ssm-agent.service 2>/dev/null || true
[ ! -d /var/lib/amazon/ssm ] || find /var/lib/amazon/ssm -mindepth 1 -delete

# --- Identity of this machine ---

rm -f /etc/ssh/ssh_host_*
: >/etc/machine-id
rm -f /var/lib/systemd/random-seed /var/lib/systemd/credential.secret
rm -f /var/lib/dhcp/*.leases /var/lib/dhclient/*.lease
cloud-init clean --logs

# --- Keys, histories and credentials of users ---

rm -f /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys
rm -f /root/.*history /home/*/.*history /root/.lesshst /home/*/.lesshst
rm -rf /root/.aws /home/*/.aws /root/.docker /home/*/.docker

# --- Caches and logs ---

rm -f "$PACKAGE"
if command -v apt-get >/dev/null; then
    rm -f /etc/apt/apt.conf.d/90-image-build
    apt-get clean
    find /var/lib/apt/lists -type f -delete
else
    dnf clean all -q
fi
if [ -d /run/systemd/system ]; then
    # From here on the journal is in memory only, and syslog writes nothing.
    journalctl --relinquish-var
    systemctl stop syslog.socket rsyslog.service 2>/dev/null || true
fi
find /var/log/journal -mindepth 1 -delete 2>/dev/null || true
find /var/log -type f ! -path '/var/log/journal/*' -exec truncate -s 0 {} +
