"""What machines find after their boot: read by the very models of the agent and of its Consul configuration."""

import json
import tomllib
from pathlib import Path

import pytest

from agent.config import Ec2Settings, Settings, load
from agent.provision.aws.files import ETC, File, ServerSecrets, WebSecrets, docker_config, server_files, web_files
from agent.provision.consul_config import ConsulPlan, Mode
from tests.provision.aws.machines import BUNDLE, SETTINGS, machine

WEB = web_files(machine("web"), SETTINGS, WebSecrets("gossip", "authority", "agent", "node"))
SERVER = server_files(machine(), SETTINGS, ServerSecrets("gossip", BUNDLE, "agent", "coordinator"))
BOTH = pytest.mark.parametrize("files", [WEB, SERVER], ids=["web", "consul"])


def text(files: tuple[File, ...], name: str) -> str:
    (found,) = [file.text for file in files if file.path == ETC / name]
    return found


def settings(files: tuple[File, ...], tmp_path: Path) -> Settings:
    file = tmp_path / "tidegate.toml"
    file.write_text(text(files, "tidegate.toml"))
    return load(file)


def test_a_web_hosts_settings_are_valid_for_its_agent(tmp_path: Path) -> None:
    made = settings(WEB, tmp_path)
    assert made.node == "web-01"
    assert made.app.name == "cs90"
    assert made.app.knobs.bake_time == 600
    assert made.ec2 == Ec2Settings(
        enabled=True, launch_timeout=840, leave_timeout=270, stack="final-project", resource="WebHosts"
    )


def test_a_consul_servers_agent_coordinates_and_has_no_app(tmp_path: Path) -> None:
    made = settings(SERVER, tmp_path)
    assert (made.coordinated, made.apps) == (("cs90",), ())


@pytest.mark.parametrize(("files", "mode"), [(WEB, Mode.CLIENT), (SERVER, Mode.SERVER)], ids=["web", "consul"])
def test_consuls_settings_are_valid(files: tuple[File, ...], mode: Mode) -> None:
    plan = ConsulPlan.model_validate(tomllib.loads(text(files, "consul.toml")))
    assert plan.mode is mode
    assert plan.joins[:2] == (
        "provider=aws tag_key=Stack tag_value=final-project region=us-east-1",
        "consul.us-east-1a.cs90",
    )
    assert plan.servers == 3


@BOTH
def test_secrets_are_for_one_reader(files: tuple[File, ...]) -> None:
    secret = {"gossip.key", "consul-agent.token", "consul.token", "consul-key.pem", "config.json"}
    assert {file.path.name for file in files if file.mode == 0o600} == secret & {file.path.name for file in files}
    assert all(file.mode in {0o600, 0o644} for file in files)


def test_a_web_host_gets_no_key_and_no_right_to_deploy() -> None:
    names = {file.path.name for file in WEB}
    assert not names & {"consul-key.pem", "consul.pem"}
    assert "coordinator" not in text(WEB, "tidegate.toml")


def test_ecr_credentials_come_from_dockers_helper_at_each_pull() -> None:
    assert json.loads(docker_config(machine("web"))) == {
        "credHelpers": {"123456789012.dkr.ecr.us-east-1.amazonaws.com": "ecr-login"}
    }
