#!/usr/bin/env bash
# Limits the journal, so that a verbose service does not fill the disk, and keeps it over a reboot.
#   JOURNAL_SIZE  such as 500M
set -euo pipefail

install -d -m 755 /etc/systemd/journald.conf.d
cat >/etc/systemd/journald.conf.d/50-skep.conf <<END
[Journal]
Storage=persistent
SystemMaxUse=$JOURNAL_SIZE
SystemKeepFree=1G
END
if [ -d /run/systemd/system ]; then
    systemctl restart systemd-journald.service
fi
