#!/usr/bin/env bash
# Installs skep from its package; it does not start before an instance of the image boots.
#   PACKAGE       the .deb or .rpm
#   OVERLAY_POOL  range of the swarm's networks, read by the node that founds the swarm
set -euo pipefail

case $PACKAGE in
    *.deb) DEBIAN_FRONTEND=noninteractive apt-get install -q --reinstall "$PACKAGE" ;;
    *.rpm) dnf install -y -q "$PACKAGE" ;;
    *) echo "error: $PACKAGE is neither a .deb nor an .rpm" >&2; exit 1 ;;
esac

install -d -m 755 /etc/skep/conf.d
cat >/etc/skep/conf.d/10-image.toml <<END
# Written when this image was built.
[swarm]
address_pool = ["$OVERLAY_POOL"]
END
