#!/usr/bin/env bash
# Configures Docker for a node of a swarm:
#   no live-restore, with which an engine refuses to be in a swarm;
#   networks of this host outside the VPC: by default not in 172.31.0.0/16, the range of a default VPC;
#   4094 addresses in each network, because every task has one on docker_gwbridge;
#   a size limit for every container's log; json-file, because log shippers read it.
#     BRIDGE_POOL, CONTAINER_LOG_SIZE
set -euo pipefail

settings=/etc/docker/daemon.json
install -d -m 755 /etc/docker
cat >"$settings.new" <<END
{
  "live-restore": false,
  "default-address-pools": [{ "base": "$BRIDGE_POOL", "size": 20 }],
  "log-driver": "json-file",
  "log-opts": { "max-size": "$CONTAINER_LOG_SIZE", "max-file": "5" }
}
END
mv "$settings.new" "$settings"

# This machine's engine reads the file first, so that a mistake ends the build. docker0 keeps its address; 90-clean
# removes docker0.
if [ -d /run/systemd/system ]; then
    systemctl restart docker.service || {
        journalctl --unit=docker.service --lines=10 --output=cat >&2
        exit 1
    }
fi
