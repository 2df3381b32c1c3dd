#!/usr/bin/env bash
# Make a bare Debian 12 as a tar: debian-base.sh <tar to write> [package,package ...]. Needs root and debootstrap.
# `docker import` turns it into an image: a stand-in for debian:bookworm-slim, or with Apache for php:8-apache.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tar_file=$1
packages=${2:-}

work=$(mktemp -d "$(dirname "$tar_file")/debian-base.XXXXXX")
trap 'rm -rf "$work"' EXIT
log=$work/log
root=$work/root

if ! timeout 900 debootstrap --variant=minbase ${packages:+"--include=$packages"} \
    bookworm "$root" "$("$here/debian-mirror.sh")" >"$log" 2>&1; then
    tail -n 15 "$log" "$root/debootstrap/debootstrap.log" >&2 || true
    echo "debootstrap could not make a bare Debian" >&2
    exit 1
fi
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
tar -C "$root" --numeric-owner -cf "$work/tar" .
mv "$work/tar" "$tar_file"
