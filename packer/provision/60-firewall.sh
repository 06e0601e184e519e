#!/usr/bin/env bash
# Closes the instance metadata and the swarm's own ports to containers, with the rules of skep's package.
#   METADATA_FOR_CONTAINERS  true leaves the metadata, and so the node's role, to every container
set -euo pipefail

if command -v apt-get >/dev/null; then
    DEBIAN_FRONTEND=noninteractive apt-get install -q nftables
else
    dnf install -y -q nftables
fi

if [ "$METADATA_FOR_CONTAINERS" = true ]; then
    cat >/etc/skep/firewall.d/10-image.nft <<'END'
# Written when this image was built.
insert rule inet skep forward ip daddr 169.254.169.254 accept
insert rule inet skep forward ip6 daddr fd00:ec2::254 accept
END
fi

systemctl enable skep-firewall.service
# This machine's kernel reads the rules first, so that a mistake ends the build.
if [ -d /run/systemd/system ]; then
    systemctl restart skep-firewall.service || {
        journalctl --unit=skep-firewall.service --lines=10 --output=cat >&2
        exit 1
    }
fi
