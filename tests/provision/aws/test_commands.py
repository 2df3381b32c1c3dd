"""``tidegate-machine boot`` where it cannot even begin: one line, and exit status 1, so that the unit tries again."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.provision.main import main
from tests.adapters.fakes.ec2 import FakeEc2, running


@pytest.fixture
async def fake() -> AsyncIterator[FakeEc2]:
    async with running(FakeEc2()) as serving:
        yield serving


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/none")


def test_a_machine_that_user_data_did_not_reach_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tidegate-machine", "boot", "--stack-env", "/none"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "tidegate-machine: /none: No such file or directory: user-data has not run\n"


async def test_what_awss_library_is_refused_ends_the_boot_in_the_same_way(
    fake: FakeEc2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here no client can be made, as there is no region."""
    file = tmp_path / "stack.env"
    file.write_text("STACK=final-project\nREGION=\nROLE=consul\nGROUP=ConsulServers\n")
    monkeypatch.setattr(sys, "argv", ["tidegate-machine", "boot", "--metadata", fake.url, "--stack-env", str(file)])
    with pytest.raises(SystemExit) as ended:
        await asyncio.to_thread(main)
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("tidegate-machine: cannot use ssm: no region")
