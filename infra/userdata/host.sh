#!/bin/bash
# First boot: tell this machine which stack it belongs to. What it then does is in the image: tidegate-boot.service.
set -euo pipefail
umask 077
install -d -m 0755 /etc/tidegate
cat >/etc/tidegate/stack.env <<'END'
STACK=${AWS::StackName}
REGION=${AWS::Region}
ROLE=${Role}
GROUP=${Group}
END
systemctl enable --now --no-block tidegate-boot.service
