#!/usr/bin/env bash
# Fails the build if the image is not as the earlier scripts should leave it. It changes nothing.
#   PACKAGE            the uploaded package
#   SSM_AGENT_VERSION  of Session Manager's agent, if it was requested
set -euo pipefail

wrong=0

# verify <condition> <command>...
verify() {
    local what=$1 output
    shift
    if ! output=$("$@" 2>&1); then
        printf 'error: %s: not so\n%s' "$what" "${output:+$output
}" >&2
        wrong=$((wrong + 1))
    fi
}

# nothing <kind of file> <find's arguments>...: a missing directory counts as empty.
nothing() {
    local what=$1 found
    shift
    found=$(find "$@" 2>/dev/null || true)
    if [ -n "$found" ]; then
        printf 'error: %s:\n%s\n' "$what" "$found" >&2
        wrong=$((wrong + 1))
    fi
}

# --- Required ---

skep --version
dockerd --version
verify 'the docker command is there' docker --version
for unit in docker.service skep-autostart.service skep-certificate.socket skep-journal-sync.socket skep-journal-upload.socket \
    skep-firewall.service; do
    verify "$unit is enabled" systemctl is-enabled --quiet "$unit"
done
[ -z "$SSM_AGENT_VERSION" ] ||
    verify "Session Manager's agent is enabled" systemctl is-enabled --quiet amazon-ssm-agent.service
verify 'skep.service is left to UserData and skep-autostart' sh -c '! systemctl is-enabled --quiet skep.service'
verify 'the units of skep are valid' systemd-analyze verify --man=no --recursive-errors=no \
    skep.service skep-autostart.service skep-firewall.service \
    skep-certificate.socket skep-journal-sync.socket skep-journal-upload.socket
verify 'skep has a user, who may use Docker' sh -c 'id -nG skep | grep -qw docker'
# Cluster and role are settings of an instance, not of the image.
verify "skep's settings are valid" skep config --cluster image --role worker

if [ -d /run/systemd/system ]; then
    verify 'root reaches the metadata' timeout 5 bash -c '</dev/tcp/169.254.169.254/80'
    verify 'no other user reaches the metadata' \
        bash -c '! timeout 5 setpriv --reuid=65534 --clear-groups bash -c "</dev/tcp/169.254.169.254/80"'
fi

# Docker 20.10 cannot check its settings; 30-daemon has started it with them.
if dockerd --help | grep -q -- --validate; then
    verify "Docker's settings are valid" dockerd --validate --config-file /etc/docker/daemon.json
fi
verify 'live-restore is off' grep -q '"live-restore": false' /etc/docker/daemon.json
verify 'container logs are bounded' grep -q '"max-size"' /etc/docker/daemon.json

# --- Forbidden ---

if [ -d /run/systemd/system ]; then
    for unit in docker skep; do
        verify "$unit is stopped" sh -c "! systemctl is-active --quiet $unit.service"
    done
fi
verify 'the machine has no id' sh -c '[ -f /etc/machine-id ] && [ ! -s /etc/machine-id ]'
nothing 'swarm state' /var/lib/docker/swarm /var/lib/docker/engine-id /etc/docker/key.json
nothing 'state of skep' /var/lib/skep -mindepth 1
nothing "state of Session Manager's agent" /var/lib/amazon/ssm -mindepth 1
nothing "settings of an instance" /etc/skep/conf.d -name '50-*'
nothing 'host keys' /etc/ssh -name 'ssh_host_*'
nothing 'state of cloud-init' /var/lib/cloud/instance /var/lib/cloud/instances -mindepth 0
nothing 'authorized keys' /root /home -name authorized_keys
nothing 'credentials' /root /home \( -name .aws -o -name .docker \)
nothing 'shell histories' /root /home -maxdepth 2 -name '.*history'
nothing 'package caches' /var/lib/apt/lists /var/cache/apt/archives /var/cache/dnf -type f ! -name lock
nothing 'the uploaded package' "$PACKAGE"
# The kernel's audit never pauses, and an agent that still runs may have written a line since.
nothing 'logs' /var/log -type f -size +4k ! -path '/var/log/audit/*'
if grep -rlF SWMTKN- /etc /home /root /var/lib/cloud 2>/dev/null; then
    echo "error: join tokens in the files above" >&2
    wrong=$((wrong + 1))
fi

[ "$wrong" -eq 0 ] || { echo "error: $wrong things are not as they should be" >&2; exit 1; }
echo "the image is as it should be"
