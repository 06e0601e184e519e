# shellcheck shell=bash
# $1: 1 at the first installation, 2 and more at an upgrade. rpm gives this to bash.
set -euo pipefail

sockets=(skep-certificate.socket skep-journal-sync.socket skep-journal-upload.socket)

systemd-sysusers skep.conf
systemd-tmpfiles --create skep.conf
# What an administrator has changed since the first installation stays.
[ "$1" -gt 1 ] || systemctl preset --quiet skep-autostart.service "${sockets[@]}" skep.service

# In an image that is not booted nothing runs.
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
for socket in "${sockets[@]}"; do
    ! systemctl --quiet is-enabled "$socket" || systemctl start "$socket"
done
# A restart is no departure, and nobody here need wait for it. skep is never started: that is up to
# UserData, which says which swarm.
[ "$1" -eq 1 ] || systemctl --no-block try-restart skep.service
