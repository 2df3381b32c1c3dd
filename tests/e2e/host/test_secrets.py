"""A deploy with everything secret that there is, failures included; then all that was written or shown is searched."""

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from agent.core.model.report import NodeReport
from agent.core.model.states import SlotPhase
from cluster.scenarios.host import Scenario
from cluster.servers.consul import ConsulServer
from cluster.servers.dockerd import DockerDaemon
from cluster.servers.host import TEST_KNOBS, Host, Plan
from cluster.servers.images import Images
from cluster.servers.registry import Login, registry
from cluster.servers.tools import LabError
from tests.e2e.host.conftest import MakeHost, PushedImages

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

PASSWORD = "hunter2-registry-password"
DATABASE = "postgres://app:hunter2-database@db/app"
LOUD = "hunter2-the-app-logs-this"
KNOBS = {**TEST_KNOBS, "healthy_deadline": "3s", "min_healthy_time": "200ms"}


async def test_no_secret_is_in_anything_the_agent_wrote_or_showed(
    app_name: str, make_host: MakeHost, acl_consul: ConsulServer, docker: DockerDaemon, test_images: PushedImages
) -> None:
    """Consul's token, the registry's password, values of env and env files, also where the app itself logs one."""
    rules = f'key_prefix "{app_name}" {{ policy = "write" }} service_prefix "" {{ policy = "write" }}'
    token = await acl_consul.create_token(rules)
    spec = {"default_spec": {"env": {"SAY": LOUD}, "env_files": [f"/tmp/{app_name}.env"]}}
    env_file = Path(f"/tmp/{app_name}.env")
    host = await make_host(
        Plan(
            app_name,
            knobs=KNOBS,
            app_settings=spec,
            settings={"consul": {"address": acl_consul.address, "token": token}},
        )
    )
    scenario = Scenario(app_name, acl_consul, [host])
    async with registry(Login("ci", PASSWORD)) as private:
        _keep(env_file, f"DATABASE_URL={DATABASE}\n")
        try:
            await _deploy_and_fail(
                scenario, test_images, await Images(docker, private).testapp("b"), private.docker_config
            )
            everything = dict([pair async for pair in _shown(host, scenario)]) | _written(host)
        finally:
            _remove(env_file)
    assert leaks(everything, (token, PASSWORD, DATABASE, LOUD)) == []
    assert "version=sick" in everything["/v1/status"], "no log line was shown at all"
    assert {"agent.log", "haproxy.cfg", "tidegate status"} <= set(everything)


def leaks(texts: Mapping[str, str], secrets: tuple[str, ...]) -> list[str]:
    """Return which text holds which secret, in any letter case."""
    return [
        f"{secret} is in {name}" for name, text in texts.items() for secret in secrets if secret.lower() in text.lower()
    ]


async def test_a_leak_is_found() -> None:
    """The search can fail."""
    assert leaks({"status": "all is well", "log": f"pull with {PASSWORD.upper()}"}, (PASSWORD, LOUD)) == [
        f"{PASSWORD} is in log"
    ]


async def _deploy_and_fail(scenario: Scenario, test_images: PushedImages, private: str, docker_config: Path) -> None:
    (host,) = scenario.hosts
    await scenario.consul.put(f"{scenario.app}/active/image", test_images.a)
    await host.start_agent()
    await scenario.activate(test_images.a)
    await scenario.consul.put(f"{scenario.app}/stage/image", private)
    await host.until(lambda report: "no basic auth credentials" in report.model_dump_json())
    _keep(host.settings.docker.config_file, (docker_config / "config.json").read_text())
    await scenario.consul.put(f"{scenario.app}/stage/image", test_images.a)
    await host.until(lambda report: private not in report.model_dump_json())
    await scenario.stage(private)
    await scenario.activate(private)
    await scenario.retired(test_images.a)
    await scenario.consul.put(f"{scenario.app}/stage/image", test_images.sick)
    await host.until(_has_shown_lines)


def _has_shown_lines(report: NodeReport) -> bool:
    return any(slot.phase is SlotPhase.FAILED and slot.lines for slot in report.slots.values())


async def _shown(host: Host, scenario: Scenario) -> AsyncIterator[tuple[str, str]]:
    """Give everything an operator, Consul or Prometheus gets to see, by name."""
    for path in ("/v1/status", "/v1/plan", "/metrics", "/healthz", "/readyz"):
        yield path, await asyncio.to_thread(_fetch, host.settings.api.port, path)
    for command in ("status --local", "status", "plan", "doctor"):
        yield f"tidegate {command}", await _printed(host, *command.split())
    for key, value in (await scenario.consul.tree(f"{scenario.app}-status/")).items():
        yield key, value
    yield "services", str(await scenario.consul.services())
    yield "a crash", await _printed(host, "status", "--api-port", "1")


def _written(host: Host) -> dict[str, str]:
    """Return what the agent and its HAProxy left on disk; their settings and credentials are the operator's own."""
    given = {host.config, host.settings.docker.config_file}
    files = [path for path in host.home.rglob("*") if path.is_file() and path not in given]
    return {str(path.relative_to(host.home)): path.read_text(errors="replace") for path in files}


async def _printed(host: Host, *command: str) -> str:
    try:
        return await host.cli(*command)
    except LabError as exc:
        return str(exc)


def _fetch(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
        return str(reply.read().decode())


def _keep(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text)


def _remove(file: Path) -> None:
    file.unlink(missing_ok=True)
