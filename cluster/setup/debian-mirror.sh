#!/usr/bin/env bash
# Print the address of a Debian archive: the one this machine's apt uses, else the one debootstrap knows.
set -euo pipefail

if [[ -n ${TIDEGATE_DEBIAN_MIRROR:-} ]]; then
    echo "$TIDEGATE_DEBIAN_MIRROR"
    exit
fi
# shellcheck disable=SC2016  # apt fills these in
mirror=$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    sed -n 's/^Debian|Debian|//p' | sed -n 1p)
if [[ -z $mirror ]]; then
    mirror=$(grep -hoE 'http://[a-z.]+\.debian\.org/debian' /usr/sbin/debootstrap /usr/share/debootstrap/scripts/* \
        2>/dev/null | sed -n 1p) || true
fi
if [[ -z $mirror ]]; then
    echo "no Debian archive known: set TIDEGATE_DEBIAN_MIRROR to the address of one" >&2
    exit 1
fi
echo "$mirror"
