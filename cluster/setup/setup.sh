#!/usr/bin/env bash
# Bring what `make demo` and `make test` need on Debian 12/13 or Ubuntu 22.04/24.04; `setup.sh venv` stops after
# the virtual environment, `setup.sh bench` brings the load generator of `make bench`, too. It takes what is there,
# says what it fetches before it does, and starts no service.
# Small single-file programs (Consul, registry, busybox) are unpacked into a cache directory, not installed.
set -euo pipefail
cd "$(dirname "$0")/../.."

cache=${TIDEGATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tidegate}
venv_stamp=.venv/.tidegate-stamp
policy_file=/usr/sbin/policy-rc.d
policy_is_ours=no
apt_is_fresh=no
work=
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
export DEBIAN_FRONTEND=noninteractive

say() { echo "setup: $*" >&2; }
fail() {
    say "$*"
    exit 1
}
have() { command -v "$1" >/dev/null; }

as_root() {
    if [[ $EUID -eq 0 ]]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        fail "need root for: $* (there is no sudo; run that as root, then try again)"
    fi
}

clean_up() {
    if [[ $policy_is_ours == yes ]]; then as_root rm -f "$policy_file"; fi
    if [[ -n $work ]]; then rm -rf "$work"; fi
}
trap clean_up EXIT

# --- apt ---------------------------------------------------------------------------------------------------

refresh_apt() {
    if [[ $apt_is_fresh == yes ]]; then return; fi
    have apt-get || fail "this is neither Debian nor Ubuntu (no apt-get): bring python >= 3.11, Docker," \
        "haproxy, consul, docker-registry, busybox and gcc yourself"
    if [[ $EUID -ne 0 ]]; then say "using sudo for apt-get: only root may read the package lists anew and install"; fi
    # A third-party source that does not answer is no reason to stop: what is needed is asked for by name below.
    as_root apt-get update -qq >"$work/update.log" 2>&1 || say "some apt sources did not answer; going on"
    apt_is_fresh=yes
}

candidate() { # the version of a package that apt would install; nothing where it has none
    apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: //p' | grep -v '(none)' || true
}

forbid_service_starts() {
    # Where the administrator already has a policy it is left alone; any service it lets start is stopped below.
    if [[ -e $policy_file ]]; then return; fi
    policy_is_ours=yes
    printf '#!/bin/sh\nexit 101\n' >"$work/policy"
    as_root install -m 0755 "$work/policy" "$policy_file"
}

keep_service_off() { # what this script installed is not to run, now or after the next boot
    if [[ ! -d /run/systemd/system ]]; then return; fi
    local unit
    for unit in "$@"; do
        as_root systemctl disable --now "$unit" >/dev/null 2>&1 || true
    done
}

install_packages() {
    local name services=()
    say "installing with apt: $*"
    for name in "$@"; do
        [[ -n $(candidate "$name") ]] || fail "apt has no package $name here: install what provides it, then try again"
        case $name in
        docker.io) services+=(docker.socket docker.service containerd.service) ;;
        haproxy) services+=(haproxy.service) ;;
        esac
    done
    forbid_service_starts
    if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" \
        >"$work/install.log" 2>&1; then
        tail -n 15 "$work/install.log" >&2
        fail "apt could not install: $*"
    fi
    if [[ ${#services[@]} -gt 0 ]]; then keep_service_off "${services[@]}"; fi
}

# --- the virtual environment ---------------------------------------------------------------------------------

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
can_make_venvs() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

find_python() {
    local name
    for name in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if have "$name" && is_new_enough "$name"; then
            echo "$name"
            return
        fi
    done
}

bring_python() { # sets $python
    local version
    python=$(find_python)
    if [[ -z $python ]]; then
        refresh_apt
        version=$(candidate python3)
        if [[ -n $version ]] && dpkg --compare-versions "$version" ge 3.11; then
            install_packages python3 python3-venv
        elif [[ -n $(candidate python3.11) ]]; then
            install_packages python3.11 python3.11-venv
        else
            fail "need Python >= 3.11; this system's is ${version:-absent}: install one and set PYTHON to it"
        fi
        python=$(find_python)
    fi
    if ! can_make_venvs "$python"; then
        refresh_apt
        install_packages "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    fi
}

bring_venv() {
    local wanted problems
    wanted=$(cat requirements-dev.lock pyproject.toml <(pwd) | sha256sum)
    if [[ -e $venv_stamp && $(<"$venv_stamp") == "$wanted" ]] && is_new_enough .venv/bin/python; then return; fi
    if ! is_new_enough .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        bring_python
        say "making .venv with $("$python" --version)"
        "$python" -m venv --clear .venv
    fi
    say "installing the locked Python packages into .venv"
    # The lock is whole, so nothing is resolved: pip before 23.3 takes a newer release for an extra than the locked one.
    .venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes \
        -r requirements-dev.lock || fail "pip could not install requirements-dev.lock"
    .venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e . ||
        fail "pip could not install this checkout"
    problems=$(.venv/bin/python -m pip check) || fail "requirements-dev.lock is not whole: $problems"
    echo "$wanted" >"$venv_stamp"
}

# --- programs ------------------------------------------------------------------------------------------------

needs_static_libc() { ! have gcc || [[ ! -e $(gcc -print-file-name=libc.a) ]]; }
needs_docker_engine() { ! have dockerd && ! timeout 10 docker info >/dev/null 2>&1; }

bring_packages() { # bring_packages <stage>
    local wanted=()
    if [[ $1 == bench ]] && ! have wrk; then wanted+=(wrk); fi
    if ! have haproxy; then wanted+=(haproxy); fi
    if ! have ip; then wanted+=(iproute2); fi
    if needs_static_libc; then wanted+=(gcc libc6-dev); fi
    if needs_docker_engine; then
        wanted+=(docker.io)
        # Docker's default profile cannot be loaded without this, and no container starts.
        if grep -qs Y /sys/module/apparmor/parameters/enabled && ! have apparmor_parser; then wanted+=(apparmor); fi
    fi
    if [[ ${#wanted[@]} -gt 0 ]]; then
        refresh_apt
        install_packages "${wanted[@]}"
    fi
    if ! have docker; then # newer Debian packs the command line apart
        refresh_apt
        install_packages docker-cli
    fi
}

keep_program() { # keep_program <directory with a package file> <program>: take that one program into the cache
    local found
    dpkg -x "$1"/*.deb "$1/tree"
    # Debian 13 moved what was in /bin to /usr/bin; Docker's plugins lie in libexec (Debian, Ubuntu) or lib (Docker).
    found=$(find "$1/tree/bin" "$1/tree/usr/bin" "$1"/tree/usr/lib*/docker -type f -name "$2" 2>/dev/null | sed -n 1p)
    [[ -n $found ]] && install -m 0755 "$found" "$cache/bin/$2"
}

unpack_from_apt() { # unpack_from_apt <package> <program in it>
    refresh_apt
    [[ -n $(candidate "$1") ]] || return 1
    say "unpacking the package $1 into $cache (not installed)"
    mkdir -p "$work/$1"
    (cd "$work/$1" && apt-get download -qq -o APT::Sandbox::User= "$1" >"$work/download.log" 2>&1) || return 1
    keep_program "$work/$1" "$2"
}

debian_archive() { # sets $mirror and $keyring
    if [[ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ]]; then
        refresh_apt
        install_packages debian-archive-keyring
    fi
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    if ! mirror=$(cluster/setup/debian-mirror.sh 2>/dev/null); then
        refresh_apt
        install_packages debootstrap
        mirror=$(cluster/setup/debian-mirror.sh)
    fi
}

download_from_debian() { # download_from_debian <release> <package>: into $work/<package>
    local mirror keyring options place="$work/$1"
    debian_archive
    mkdir -p "$work/$2" "$place/lists/partial" "$place/cache/archives/partial"
    echo "deb [signed-by=$keyring] $mirror $1 main" >"$place/sources.list"
    options=(-qq -o "Dir::Etc::SourceList=$place/sources.list" -o Dir::Etc::SourceParts=-
        -o "Dir::State::Lists=$place/lists" -o "Dir::Cache=$place/cache" -o APT::Sandbox::User=)
    (cd "$work/$2" && apt-get "${options[@]}" update && apt-get "${options[@]}" download "$2") \
        >"$work/download.log" 2>&1
}

unpack_consul_from_debian_11() { # Debian 12 and 13 and Ubuntu 24.04 have no Consul; Debian 11's runs on them
    say "unpacking Debian 11's consul into $cache (not installed)"
    download_from_debian bullseye consul || return 1
    keep_program "$work/consul" consul
}

bring_program() { # bring_program <program> <package>: the user's own on PATH comes first
    if have "$1" || [[ -x $cache/bin/$1 ]]; then return; fi
    unpack_from_apt "$2" "$1" || fail "cannot get $1 (apt has no package $2 here): put it on PATH, then try again"
}

bring_consul() {
    if have consul || [[ -x $cache/bin/consul ]]; then return; fi
    unpack_from_apt consul consul || unpack_consul_from_debian_11 || {
        cat "$work/download.log" >&2
        fail "cannot get Consul: put a consul binary on PATH (1.8 or newer), then try again"
    }
    "$cache/bin/consul" version >/dev/null || fail "Debian 11's consul does not run here: put your own on PATH"
}

# --- the local cluster ---------------------------------------------------------------------------------------

bring_compose() { # the user's own `docker compose` comes first
    if docker compose version >/dev/null 2>&1 || [[ -x $cache/bin/docker-compose ]]; then return; fi
    unpack_from_apt docker-compose-v2 docker-compose && return
    say "unpacking Debian 13's docker-compose into $cache (not installed)"
    { download_from_debian trixie docker-compose && keep_program "$work/docker-compose" docker-compose; } || {
        cat "$work/download.log" >&2
        fail "cannot get Docker Compose v2: install Docker's plugin, then try again"
    }
    "$cache/bin/docker-compose" version >/dev/null || fail "Debian 13's docker-compose does not run here"
}

bring_machine_base() { # a bare Debian for the cluster's machines, where the Hub does not answer
    if [[ -e $cache/machine-base.tar || -e $cache/docker-hub ]]; then return; fi
    say "making a bare Debian with debootstrap, as root, once (about a minute)"
    bring_debootstrap
    as_root env "TIDEGATE_DEBIAN_MIRROR=${TIDEGATE_DEBIAN_MIRROR:-}" cluster/setup/debian-base.sh \
        "$cache/machine-base.tar" || fail "cannot make the machines' base"
}

# --- AWS's own command line ------------------------------------------------------------------------------------

bring_awscli() { # only plays against moto; its botocore is another one than boto3's, so it has a place of its own
    if have aws || [[ -x $cache/awscli/bin/aws ]]; then return; fi
    say "installing awscli into $cache (the tests of infra/ run its commands against a stand-in)"
    { "$PWD/.venv/bin/python" -m venv --clear "$cache/awscli" &&
        "$cache/awscli/bin/pip" install -qq --disable-pip-version-check awscli==1.46.3 &&
        "$cache/awscli/bin/aws" --version >/dev/null; } || {
        rm -rf "$cache/awscli"
        say "cannot install awscli: the tests that need it are skipped"
    }
}

# --- the base of the PHP page ----------------------------------------------------------------------------------

bring_debootstrap() {
    if have debootstrap && [[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]]; then return; fi
    refresh_apt
    install_packages debootstrap debian-archive-keyring
}

bring_php_base() { # cluster/servers/images.py reads the outcome: a tar of our own, or the mark that the Hub answered
    if [[ -e $cache/php-base.tar || -e $cache/docker-hub ]]; then return; fi
    if timeout 8 docker manifest inspect php:8-apache >/dev/null 2>&1; then
        touch "$cache/docker-hub"
        return
    fi
    say "Docker Hub has no php:8-apache for this machine (or did not answer in 8 s): using Debian's Apache and PHP"
    bring_debootstrap
    say "making that base with debootstrap, as root, once (about a minute)"
    as_root env "TIDEGATE_DEBIAN_MIRROR=${TIDEGATE_DEBIAN_MIRROR:-}" cluster/setup/debian-base.sh "$cache/php-base.tar" \
        apache2,libapache2-mod-php || fail "cannot make the PHP base"
}

mkdir -p "$cache/bin"
exec 9>"$cache/setup.lock"
flock -w 900 9 || fail "another set-up is still running"
work=$(mktemp -d)
bring_venv
if [[ ${1:-} == venv ]]; then exit; fi
bring_packages "${1:-}"
bring_program docker-registry docker-registry
bring_program busybox busybox-static
bring_consul
bring_php_base
bring_machine_base
bring_compose
bring_awscli
