# shellcheck shell=bash
# $1: 1 at the first installation, 2 and more at an upgrade. rpm runs this with bash.
set -euo pipefail

sockets=(skep-certificate.socket skep-journal-sync.socket skep-journal-upload.socket)

systemd-sysusers skep.conf
systemd-tmpfiles --create skep.conf
# An upgrade keeps the administrator's changes since the first installation.
[ "$1" -gt 1 ] || systemctl preset --quiet skep-autostart.service "${sockets[@]}" skep-firewall.service skep.service

# In an image that is not booted, systemd does not run.
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
for socket in "${sockets[@]}"; do
    ! systemctl --quiet is-enabled "$socket" || systemctl start "$socket"
done
# An upgrade may bring new rules.
! systemctl --quiet is-active skep-firewall.service || systemctl reload skep-firewall.service
# A restart is no departure, and the package manager need not wait for it. skep is never started here: UserData
# starts it, with the settings that name the swarm.
[ "$1" -eq 1 ] || systemctl --no-block try-restart skep.service
