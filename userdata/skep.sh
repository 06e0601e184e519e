#!/bin/bash
set -euo pipefail

mkdir -p /etc/skep/conf.d
cat >/etc/skep/conf.d/50-userdata.new <<'END'
cluster = "${cluster}"
role = "${role}"
END
mv /etc/skep/conf.d/50-userdata.new /etc/skep/conf.d/50-userdata.toml

systemctl start skep.service || {
    echo 'error: skep is not ready; its own lines above say why (journalctl --unit=skep)' >&2
    exit 1
}
