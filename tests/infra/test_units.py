"""The systemd units and the scripts of the image, as far as they can be judged without starting anything."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "systemd"
SCRIPTS = ROOT / "infra" / "image"
LIBEXEC = ROOT / "agent" / "provision" / "libexec"
DROP_IN = "haproxy.service.d/tidegate.conf"
EXPOSURE = {
    "consul-client.service": 1.9,
    "consul-server.service": 1.9,
    "tidegate-agent.service": 1.4,
    # It writes files of several users, and starts units.
    "tidegate-boot.service": 2.6,
    "tidegate-drain.service": 1.9,
    # It reads what only root may.
    "tidegate-leave.service": 2.2,
    # It opens its port as root; the distribution's unit alone: 9.6.
    "haproxy.service": 4.1,
}
"""What ``systemd-analyze security`` may say at most, from 0 to 10: lower it with what is gained, never raise it."""
DISTRIBUTION_HAPROXY = """
[Unit]
Description=HAProxy Load Balancer
[Service]
Environment="CONFIG=/etc/haproxy/haproxy.cfg" "PIDFILE=/run/haproxy.pid" "EXTRAOPTS=-S /run/haproxy-master.sock"
ExecStart=/usr/sbin/haproxy -Ws -f $CONFIG -p $PIDFILE $EXTRAOPTS
ExecReload=/usr/sbin/haproxy -Ws -f $CONFIG -c -q $EXTRAOPTS
ExecReload=/bin/kill -USR2 $MAINPID
KillMode=mixed
Restart=always
SuccessExitStatus=143
Type=notify
"""
"""Debian's, without its comments."""

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")


@pytest.fixture(name="image")
def _image(tmp_path: Path) -> Path:
    """A root directory with the units, and a stub for each program that they start."""
    units = tmp_path / "etc" / "systemd" / "system"
    shutil.copytree(UNITS, units)
    (units / "haproxy.service").write_text(DISTRIBUTION_HAPROXY)
    for unit in units.rglob("*.*"):
        if unit.is_file():
            for program in re.findall(r"^Exec\w+=\+?(/\S+)", unit.read_text(), re.MULTILINE):
                stub = tmp_path / program[1:]
                stub.parent.mkdir(parents=True, exist_ok=True)
                stub.write_text("#!/bin/sh\n")
                stub.chmod(0o755)
    return tmp_path


def _analyze(image: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments[:1], f"--root={image}", *arguments[1:]],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


@needs_systemd
@pytest.mark.slow
def test_systemd_takes_every_unit_without_a_word(image: Path) -> None:
    """Unknown keys, wrong types and programs that are not there would be named."""
    said = _analyze(image, "verify", "--man=no", "--recursive-errors=no", *sorted(EXPOSURE))
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


@needs_systemd
@pytest.mark.slow
@pytest.mark.parametrize("unit", sorted(EXPOSURE))
def test_no_unit_is_more_exposed_than_it_was(image: Path, unit: str) -> None:
    """A ratchet."""
    said = _analyze(image, "security", "--offline=true", unit)
    found = re.search(r"exposure level for \S+: ([\d.]+)", said.stdout)
    assert found is not None, said.stdout + said.stderr
    assert float(found[1]) <= EXPOSURE[unit]


@needs_systemd
@pytest.mark.slow
def test_a_unit_that_is_wrong_is_seen(image: Path) -> None:
    """The check above can fail."""
    unit = image / "etc/systemd/system/tidegate-agent.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchdogSeconds="))
    assert "WatchdogSeconds" in _analyze(image, "verify", "--man=no", "tidegate-agent.service").stderr


def test_every_unit_is_in_the_ratchet() -> None:
    """None is forgotten."""
    assert {path.name for path in UNITS.glob("*.service")} == EXPOSURE.keys() - {"haproxy.service"}


def test_provisioning_knows_every_unit_and_every_script() -> None:
    """What lies in the repository gets onto the machine."""
    text = (SCRIPTS / "provision.sh").read_text()
    for path in (*UNITS.glob("*.service"), *LIBEXEC.iterdir()):
        assert path.name in text, path


@pytest.mark.slow
def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    """Every shell script of the image, of set-up, and of CI."""
    shebang = re.compile(r"#!/(usr/bin/env bash|bin/sh)\n")
    others = (*(ROOT / "cluster/setup").glob("*.sh"), *(ROOT / ".ci").iterdir())
    candidates = (*SCRIPTS.rglob("*"), *LIBEXEC.iterdir(), *others)
    scripts = [str(path) for path in candidates if path.is_file() and shebang.match(path.read_text())]
    assert len(scripts) >= 7
    program = Path(sys.executable).with_name("shellcheck")
    said = subprocess.run([program, *scripts], check=False, capture_output=True, text=True, timeout=60)
    assert (said.returncode, said.stdout) == (0, "")
