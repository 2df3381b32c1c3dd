"""The doctor's judgements that need no server."""

import time
from email.utils import formatdate
from pathlib import Path

import pytest

from agent.config import Settings
from agent.doctor.consul import judge_clock
from agent.doctor.finding import Grade
from agent.doctor.haproxy import judge_version
from agent.doctor.host import check_disk, check_subnet

ROUTES = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"


def settings(subnet: str) -> Settings:
    return Settings(node="web-1", apps=[{"name": "shop", "subnet": subnet}])


@pytest.mark.parametrize(("ahead_s", "grade"), [(0, Grade.OK), (3, Grade.OK), (3600, Grade.FAIL), (-3600, Grade.FAIL)])
def test_clocks_that_are_apart_are_told(ahead_s: float, grade: Grade) -> None:
    """Beyond 5 s in either direction."""
    assert judge_clock(formatdate(time.time() + ahead_s, usegmt=True)).grade is grade


def test_a_server_without_a_clock_is_noted() -> None:
    """Nothing to compare with is not bad."""
    assert judge_clock(None).grade is Grade.WARN


@pytest.mark.parametrize(
    ("version", "grade"),
    [
        ("2.6.12-1+deb12u1", Grade.OK),
        ("3.2.1", Grade.OK),
        ("2.10.0", Grade.OK),
        ("2.4.14-1ubuntu1", Grade.OK),
        ("2.3.9", Grade.FAIL),
        ("1.8.0", Grade.FAIL),
    ],
)
def test_an_old_haproxy_is_bad(version: str, grade: Grade) -> None:
    """2.4 is the oldest that was tried."""
    assert judge_version(version).grade is grade


@pytest.mark.parametrize(
    ("interface", "destination", "mask", "grade"),
    [
        pytest.param("eth0", "0050EAAC", "00FFFFFF", Grade.OK, id="another-network"),
        pytest.param("eth0", "00501EAC", "00FFFFFF", Grade.FAIL, id="the-same-network"),
        pytest.param("tun0", "00001EAC", "0000FFFF", Grade.FAIL, id="a-wider-network"),
        pytest.param("br-1234", "00501EAC", "00FFFFFF", Grade.OK, id="its-own-bridge"),
        pytest.param("eth0", "00000000", "00000000", Grade.OK, id="the-default-route"),
    ],
)
def test_a_route_into_the_apps_subnet_is_bad(interface: str, destination: str, mask: str, grade: Grade) -> None:
    """As /proc/net/route writes it: little-endian hexadecimals."""
    line = f"{interface}\t{destination}\t00000000\t0001\t0\t0\t0\t{mask}\t0\t0\t0\n"
    finding = check_subnet(settings("172.30.80.0/24"), ROUTES + line)
    assert finding.grade is grade
    assert (interface in finding.seen) is (grade is Grade.FAIL)


def test_disk_and_state_directory_are_looked_at(tmp_path: Path) -> None:
    """A missing state directory is bad; where nothing can be measured the file system's root is."""
    (tmp_path / "state").mkdir()
    assert [each.what for each in check_disk(tmp_path, tmp_path / "state")] == ["Disk", "State directory"]
    assert check_disk(tmp_path / "none", tmp_path / "state")[1].grade is Grade.OK
    missing = check_disk(tmp_path, tmp_path / "none")[1]
    assert (missing.grade, "create it" in missing.advice) == (Grade.FAIL, True)
