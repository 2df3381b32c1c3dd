#!/usr/bin/env bash
# Run a command that needs the Docker daemon; as root through sudo where this user may not use it.
set -euo pipefail

if [[ $EUID -eq 0 || -n ${DOCKER_HOST:-} ]] || timeout 10 docker version >/dev/null 2>&1; then
    exec "$@"
fi
if ! command -v sudo >/dev/null; then
    echo "this needs the Docker daemon, which this user may not use (or start), and there is no sudo" >&2
    exit 1
fi
echo "using sudo: this user may not use (or start) the Docker daemon" >&2
# Root's caches would be files that this user cannot remove.
exec sudo env "PATH=$PATH" "HOME=$HOME" "TIDEGATE_CACHE=${TIDEGATE_CACHE:-}" "KEEP=${KEEP:-}" \
    "TIDEGATE_MACHINE_BASE=${TIDEGATE_MACHINE_BASE:-}" "TIDEGATE_MACHINE_PYTHON=${TIDEGATE_MACHINE_PYTHON:-}" \
    PYTHONDONTWRITEBYTECODE=1 PYTEST_ADDOPTS="-p no:cacheprovider" "$@"
