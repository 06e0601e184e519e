#!/usr/bin/env bash
# Says to Docker what suits a node of a swarm:
#   no live-restore, with which an engine refuses to be in a swarm;
#   networks of this host apart from the VPC: by default not in 172.31.0.0/16, where a default VPC is;
#   each of 4094 addresses, because every task has one on docker_gwbridge;
#   a bound on every container's log. json-file, because log shippers read it.
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

# The first that reads it is this machine's engine, so that a mistake ends the build. docker0 keeps the
# address it has; 90-clean takes it away.
if [ -d /run/systemd/system ]; then
    systemctl restart docker.service || {
        journalctl --unit=docker.service --lines=10 --output=cat >&2
        exit 1
    }
fi
