# shellcheck shell=bash
# $1: 0 when the last version is removed, 1 at an upgrade, which leaves skep running until it is restarted.
set -euo pipefail

[ "$1" -eq 0 ] || exit 0

if [ -d /run/systemd/system ]; then
    if systemctl --quiet is-active skep.service; then
        echo "skep is stopped. This node stays in its swarm, but nothing drains it any more when it goes;"
        echo "to take it out first: skep leave"
    fi
    systemctl stop skep.service skep-certificate.socket skep-journal-sync.socket skep-journal-upload.socket \
        skep-firewall.service
fi
systemctl disable --quiet skep-autostart.service skep-certificate.socket skep-journal-sync.socket skep-journal-upload.socket \
    skep-firewall.service skep.service
