# shellcheck shell=bash
# The units were removed or replaced.
set -euo pipefail

if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
fi
