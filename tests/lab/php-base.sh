#!/usr/bin/env bash
# Make a stand-in for php:8-apache from Debian packages: php-base.sh <tar to write>. Needs root and debootstrap.
# app/Dockerfile does the rest; `docker import` turns the tar into an image (tests/lab/images.py).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tar_file=$1

work=$(mktemp -d "$(dirname "$tar_file")/php-base.XXXXXX")
trap 'rm -rf "$work"' EXIT
log=$work/log
root=$work/root

if ! timeout 900 debootstrap --variant=minbase --include=apache2,libapache2-mod-php \
    bookworm "$root" "$("$here/debian-mirror.sh")" >"$log" 2>&1; then
    tail -n 15 "$log" "$root/debootstrap/debootstrap.log" >&2 || true
    echo "debootstrap could not make the PHP base" >&2
    exit 1
fi
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
tar -C "$root" --numeric-owner -cf "$work/tar" .
mv "$work/tar" "$tar_file"
