#!/usr/bin/env bash
# Turn a stock Debian 12/13 or Ubuntu 22.04/24.04 into a web host or a Consul server. Run it as root; it may be run
# again, and then changes only what differs. The AMI, user-data and the local cluster's image all use it.
#
#   provision.sh web|consul|aws [--consul FILE] [--wheels DIR]
#
#   aws             for an AMI: all that both roles need; which one it is, an instance learns at its first boot
#   --consul FILE   a Consul binary to install, where neither PATH nor apt has one
#   --wheels DIR    a directory of wheels to install Tidegate from, without asking PyPI
#
# Of Python packages it installs only what the locks name, and only files whose hashes are in them.
#
# What belongs to one host alone (settings, tokens, certificates) is not its job: that lies in /etc/tidegate.
set -euo pipefail

source_dir=$(cd "$(dirname "$0")/../.." && pwd)
home=/opt/tidegate
etc=/etc/tidegate
role=
consul_file=
wheels=
export DEBIAN_FRONTEND=noninteractive

say() { echo "provision: $*" >&2; }
fail() {
    say "$*"
    exit 1
}
have() { command -v "$1" >/dev/null; }

arguments() {
    role=${1:-}
    [[ $role =~ ^(web|consul|aws)$ ]] || fail "usage: provision.sh web|consul|aws [--consul FILE] [--wheels DIR]"
    shift
    while [[ $# -gt 0 ]]; do
        case $1 in
        --consul) consul_file=${2:?--consul needs a file} ;;
        --wheels) wheels=${2:?--wheels needs a directory} ;;
        *) fail "unknown argument $1" ;;
        esac
        shift 2
    done
    [[ $EUID -eq 0 ]] || fail "needs root"
    have apt-get || fail "this is neither Debian nor Ubuntu"
}

serves() { [[ $role != consul ]]; }
coordinates() { [[ $role != web ]]; }

# --- packages ------------------------------------------------------------------------------------------------

python_package() { # the newest of the distribution's that is new enough
    local name
    for name in python3 python3.13 python3.12 python3.11; do
        local version
        version=$(apt-cache policy "$name" | sed -n 's/^  Candidate: //p')
        if [[ -n $version && $version != "(none)" ]] && dpkg --compare-versions "$version" ge 3.11~; then
            echo "$name"
            return
        fi
    done
    fail "no Python >= 3.11 in this distribution"
}

packages() {
    # procps: units reload with /bin/kill.
    local wanted=(ca-certificates procps) missing=() name
    if serves; then
        wanted+=(haproxy)
        have dockerd || wanted+=(docker.io)
    fi
    # The registry's credentials, asked for at each pull.
    if [[ $role == aws ]]; then wanted+=(amazon-ecr-credential-helper); fi
    if ! ls $home/bin/python >/dev/null 2>&1; then
        apt-get update -qq
        name=$(python_package)
        wanted+=("$name" "$name-venv")
    fi
    for name in "${wanted[@]}"; do
        dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name")
    done
    if [[ ${#missing[@]} -gt 0 ]]; then
        say "installing ${missing[*]}"
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    fi
}

consul() {
    if [[ -n $consul_file ]]; then
        install_file "$consul_file" /usr/bin/consul 0755
    elif ! have consul; then
        apt-get install -y -qq --no-install-recommends consul >/dev/null 2>&1 ||
            fail "no Consul here: add HashiCorp's apt source, or give a binary with --consul"
    fi
}

# --- users, files, settings --------------------------------------------------------------------------------------

user() { # user NAME HOME
    getent passwd "$1" >/dev/null || useradd --system --user-group --home-dir "$2" --shell /usr/sbin/nologin "$1"
}

users() {
    user tidegate /var/lib/tidegate
    user consul /var/lib/consul
    if serves; then
        # Whoever may use Docker's socket is root in effect: docs/security.md.
        usermod -a -G docker tidegate
    fi
}

install_file() { # install_file FROM TO MODE, only if it differs
    if ! cmp -s "$1" "$2"; then install -D -m "$3" "$1" "$2"; fi
}

build_wheel() { # build_wheel DIRECTORY: Tidegate's own, with the build backend that is locked
    "$home/bin/python" -m venv "$1/backend"
    local pip=("$1/backend/bin/python" -m pip --disable-pip-version-check)
    "${pip[@]}" install -q --no-deps --require-hashes -r "$source_dir/requirements-build.lock"
    "${pip[@]}" wheel -q --no-deps --no-build-isolation -w "$1" "$source_dir"
}

tidegate() {
    local python pip=("$home/bin/python" -m pip install -q --disable-pip-version-check --no-deps)
    python=$(for each in python3 python3.13 python3.12 python3.11; do
        have "$each" && "$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' && command -v "$each" && break
    done)
    [[ -x $home/bin/python ]] || "$python" -m venv "$home"
    local wanted
    wanted=$(cd "$source_dir" && find agent haproxy infra pyproject.toml requirements*.lock -type f -not -name '*.pyc' \
        -print0 | sort -z | xargs -0 sha256sum | sha256sum)
    local locks=(-r "$source_dir/requirements.lock")
    if [[ $role == aws ]]; then
        locks+=(-r "$source_dir/requirements-infra.lock")
        wanted+=" infra"
    fi
    if [[ ! -e $home/.installed || $(<$home/.installed) != "$wanted" ]]; then
        say "installing Tidegate into $home"
        local built='' problems
        if [[ -n $wheels ]]; then
            pip+=(--no-index --find-links "$wheels")
        else
            built=$(mktemp -d)
            build_wheel "$built"
        fi
        "${pip[@]}" --require-hashes "${locks[@]}"
        # The version may be the same, and what it holds another one.
        "${pip[@]}" --force-reinstall --no-index --find-links "${wheels:-$built}" tidegate
        problems=$("$home/bin/python" -m pip check) || fail "the locks are not whole: $problems"
        rm -rf "$built"
        echo "$wanted" >"$home/.installed"
    fi
    local name
    for name in render-haproxy render-consul; do
        install_file "$source_dir/agent/provision/libexec/$name" "$home/libexec/$name" 0755
    done
    if [[ $(readlink /usr/local/bin/tidegate) != "$home/bin/tidegate" ]]; then
        ln -sfn "$home/bin/tidegate" /usr/local/bin/tidegate
    fi
}

directories() {
    # Everyone may look in: Consul's user, too, has files there. Each secret is for its reader alone.
    install -d -m 0755 "$etc"
    install -d -m 0750 -o root -g consul /etc/consul.d
    install -d -m 0750 -o tidegate -g tidegate /var/lib/tidegate
    # HAProxy may start before the agent has ever run.
    printf 'd /run/tidegate 0750 tidegate tidegate -\n' | write /etc/tmpfiles.d/tidegate.conf 0644
    if [[ -d /run/systemd/system ]]; then systemd-tmpfiles --create tidegate.conf; fi
}

write() { # write FILE MODE, from standard input, only if it differs
    local new
    new=$(mktemp)
    cat >"$new"
    install_file "$new" "$1" "$2"
    rm -f "$new"
}

docker_settings() {
    local before
    before=$(cat /etc/docker/daemon.json 2>/dev/null || true)
    # A daemon.json that is there belongs to the administrator: only what Tidegate needs is added to it.
    "$home/bin/python" - <<'PYTHON'
import json, pathlib
file = pathlib.Path("/etc/docker/daemon.json")
before = json.loads(file.read_text() or "{}") if file.exists() else {}
wanted = {"live-restore": True} | before
if wanted != before:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(wanted, indent=2) + "\n")
PYTHON
    # An engine that runs already takes it up without a restart.
    if [[ -d /run/systemd/system && $before != "$(cat /etc/docker/daemon.json)" ]]; then
        systemctl reload docker 2>/dev/null || true
    fi
}

# --- units -----------------------------------------------------------------------------------------------------

units() {
    local unit wanted=(tidegate-agent.service)
    if serves; then wanted+=(consul-client.service tidegate-drain.service); fi
    if coordinates; then wanted+=(consul-server.service); fi
    if [[ $role == aws ]]; then wanted+=(tidegate-boot.service tidegate-leave.service); fi
    for unit in "${wanted[@]}"; do
        install_file "$source_dir/systemd/$unit" "/etc/systemd/system/$unit" 0644
    done
    if serves; then
        install_file "$source_dir/systemd/haproxy.service.d/tidegate.conf" \
            /etc/systemd/system/haproxy.service.d/tidegate.conf 0644
        wanted+=(haproxy.service docker.service)
    fi
    # Enabled, not started: each needs settings that are this host's own.
    if [[ -d /run/systemd/system ]]; then systemctl daemon-reload; fi
    if [[ $role == aws ]]; then
        # The others are enabled at the first boot, when the role is known; HAProxy's package has enabled it.
        systemctl disable -q haproxy.service
        wanted=(tidegate-boot.service docker.service)
    fi
    systemctl enable -q "${wanted[@]}"
}

arguments "$@"
packages
consul
users
tidegate
directories
if serves; then docker_settings; fi
units
if [[ $role == aws ]]; then
    say "this can be an image of AWS now"
else
    say "this is a $role host now; write $etc/tidegate.toml and $etc/consul.toml, then start the units"
fi
