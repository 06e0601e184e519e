# shellcheck shell=bash
# The units have gone or are others now.
set -euo pipefail

if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
fi
