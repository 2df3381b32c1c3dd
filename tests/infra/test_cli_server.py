"""The commands of docs/infrastructure.md, word for word, by AWS's own command line against moto's server."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.servers.tools import cache_dir
from tests.infra.account import IMAGE, REGION
from tests.infra.cases import ROOT

PAGE = ROOT / "docs" / "infrastructure.md"


def aws_program() -> str:
    """Return AWS's command line: that on PATH, else the one that set-up keeps."""
    import shutil

    own = cache_dir() / "awscli" / "bin" / "aws"
    return str(own) if own.exists() else shutil.which("aws") or ""


pytestmark = [
    pytest.mark.infra,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not aws_program(), reason="no aws command: make setup brings one"),
]


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """Where commands meet moto instead of AWS."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        **{key: value for key, value in os.environ.items() if not key.startswith("AWS_")},
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "AWS_PAGER": "",
    }
    server.stop()


def run(line: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run one line of the page, in the repository."""
    bin_dir = Path(sys.executable).parent
    path = f"{Path(aws_program()).parent}:{bin_dir}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", line],
        cwd=ROOT,
        env={**environment, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def documented(section: str) -> list[str]:
    """Return the commands of the first console block under a heading."""
    text = PAGE.read_text().partition(f"## {section}\n")[2]
    block = re.search(r"```console\n(.*?)```", text, re.DOTALL)
    assert block, section
    joined = block[1].replace("\\\n", " ")
    return [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]


def test_the_commands_of_the_page_create_the_stack_and_show_it(environment: dict[str, str]) -> None:
    commands = documented("With the AWS CLI alone")
    assert any("create-stack" in command for command in commands)
    for command in commands:
        done = run(command.replace("ami-0123456789abcdef0", IMAGE), environment)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    shown = json.loads(run("tidegate-infra outputs --json", environment).stdout)
    assert shown["ZoneName"] == "cs90"
    same = run("tidegate-infra plan", environment)
    assert (same.returncode, same.stdout) == (0, "final-project: nothing to change\n")


def test_a_template_that_is_no_good_is_refused(environment: dict[str, str], tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    text = (ROOT / "final-project.json").read_text().replace('"AWS::EC2::VPC"', '"AWS::EC2::VPCC"')
    bad.write_text(text)
    done = run(f"aws cloudformation validate-template --template-body file://{bad}", environment)
    assert done.returncode != 0


def test_wrong_region_and_no_endpoint_are_one_line(environment: dict[str, str]) -> None:
    done = run("tidegate-infra outputs --region eu-west-1", environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tidegate-infra: there is no stack final-project in eu-west-1: is the region right?\n"
    away = run("tidegate-infra outputs", {**environment, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
    assert away.returncode == 1
    assert len(away.stderr.splitlines()) == 1
    assert "AWS does not answer" in away.stderr
