"""The demo of the fleet: what it reads from the audit entries, and the whole of it."""

import asyncio
import json
import os
import subprocess
import sys

import pytest

from cluster.demo.fleet import commit_of, durations
from cluster.machine_images import ROOT
from cluster.servers.fleet import Command, Said
from tests.e2e.demo_line import KEYS

HISTORY = [
    {"from": "ready", "to": "switching", "at": "2026-01-01T00:00:00+00:00"},
    {"from": "pending", "to": "staging", "at": "2026-01-01T00:01:00+00:00"},
    {"from": "staging", "to": "ready", "at": "2026-01-01T00:01:04+00:00"},
    {"from": "ready", "to": "switching", "at": "2026-01-01T00:01:05+00:00"},
    {"from": "switching", "to": "baking", "at": "2026-01-01T00:01:06+00:00"},
    {"from": "baking", "to": "retiring", "at": "2026-01-01T00:01:16+00:00"},
    {"from": "retiring", "to": "successful", "at": "2026-01-01T00:01:18+00:00"},
]


def test_phases_are_those_of_the_last_rollout() -> None:
    """Each as long as the audit entries say."""
    assert durations(HISTORY) == {"stage": 4, "drain": 10, "retire": 2}
    assert durations(HISTORY[:2]) == {}


def test_the_switch_counts_from_the_last_commit() -> None:
    """None where nothing was committed."""
    assert commit_of(HISTORY) == 1767225665
    assert commit_of(HISTORY[1:3]) is None


FALLING_BACK = """
from cluster.demo import fleet
from cluster.cluster import Cluster
from cluster.servers.tools import LabError

async def power_up(*_):
    raise LabError("systemd does not start in a container here")

Cluster.power_up = power_up
fleet.main()
"""


@pytest.mark.real
@pytest.mark.traffic
@pytest.mark.full
@pytest.mark.timeout(500)
async def test_the_demo_of_the_fleet_loses_nothing_and_refuses_the_bad_image() -> None:
    """From nothing to the verdict: exit status 0, and the promised last line."""
    said = await _played("-m", "cluster.demo.fleet", deadline_s=450)
    told = json.loads(said.out.splitlines()[-1])
    assert list(told) == [*KEYS, "hosts", "skew_s"]
    assert told["hosts"] == 3
    assert told["failed"] == {}
    assert told["bad_image_refused"] is True


@pytest.mark.real
@pytest.mark.traffic
@pytest.mark.full
@pytest.mark.timeout(300)
async def test_where_no_cluster_can_run_one_host_plays_and_the_reason_is_told() -> None:
    """The machines are made, and do not start: the demo of one host, to its own last line."""
    said = await _played("-c", FALLING_BACK, deadline_s=250)
    assert "no cluster can run here (systemd does not start in a container here); playing on one host" in said.err
    told = json.loads(said.out.splitlines()[-1])
    assert list(told) == list(KEYS)
    assert told["failed"] == {}


async def _played(*program: str, deadline_s: float) -> Said:
    """Run a demo to its good end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *program),
        cwd=ROOT,
        env={**os.environ, "KEEP": ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    said = await Command(process).said(deadline_s=deadline_s)
    assert said.code == 0, said.out + said.err
    return said
