"""The first boot's script: rendered as CloudFormation does, judged by shellcheck, and run in a container."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.machine_images import _base
from cluster.servers.dockerd import DockerDaemon
from infra.template.compute import user_data
from tests.infra.cases import CASES
from tests.infra.userdata import rendered

SYSTEMCTL = '#!/bin/sh\necho "$*" >>/out/calls\n'


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tier", ["WebTemplate", "ConsulTemplate"])
def test_nothing_is_left_to_be_filled_in(case: str, tier: str) -> None:
    assert "${" not in rendered(case, tier)


def test_it_is_short_and_has_no_logic() -> None:
    lines = user_data().splitlines()
    assert len(lines) < 30
    assert not re.search(r"^\s*(if|for|while|case|curl|apt-get)\b", user_data(), re.MULTILINE)


@pytest.mark.parametrize("tier", ["WebTemplate", "ConsulTemplate"])
def test_shellcheck_finds_nothing(tier: str, tmp_path: Path) -> None:
    script = tmp_path / "user-data.sh"
    script.write_text(rendered("dev", tier))
    program = shutil.which("shellcheck") or str(Path(sys.executable).with_name("shellcheck"))
    said = subprocess.run([program, str(script)], capture_output=True, text=True, timeout=30, check=False)
    assert (said.returncode, said.stdout) == (0, "")


@pytest.fixture
def first_boot(tmp_path: Path) -> Path:
    """A directory with the script, a stub of systemctl, and one for what that notes."""
    tmp_path.chmod(0o755)
    (tmp_path / "user-data").write_text(rendered("dev", "WebTemplate"))
    stub = tmp_path / "systemctl"
    stub.write_text(SYSTEMCTL)
    stub.chmod(0o755)
    (tmp_path / "out").mkdir()
    return tmp_path


@pytest.mark.real
async def test_a_machine_knows_its_stack_and_starts_its_boot(docker: DockerDaemon, first_boot: Path) -> None:
    show = "bash /user-data && stat -c %a /etc/tidegate/stack.env /etc/tidegate && cat /etc/tidegate/stack.env"
    volumes = (
        f"-v={first_boot}/user-data:/user-data:ro",
        f"-v={first_boot}/systemctl:/usr/local/bin/systemctl:ro",
        f"-v={first_boot}/out:/out",
    )
    image = await _base(docker)
    said = await docker.cli("run", "--rm", "--network=none", *volumes, image, "bash", "-c", show, timeout_s=120)
    mode, folder, *lines = said.splitlines()
    assert (mode, folder) == ("600", "755")
    assert lines == ["STACK=final-project", "REGION=us-east-1", "ROLE=web", "GROUP=WebHosts"]
    assert (first_boot / "out" / "calls").read_text() == "enable --now --no-block tidegate-boot.service\n"
