"""What we render is taken by the real Consul: checked by it, and run."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from agent.core.model.errors import FatalError
from agent.provision.consul_config import ConsulPlan, Secrets, render
from agent.provision.consul_program import consul_version, validate
from agent.provision.render_consul import write
from cluster.servers.ports import free_port
from cluster.servers.process import ServerProcess, eventually, listens
from cluster.servers.tools import run, tool
from tests.provision.consul_plans import CLIENT, SERVER

pytestmark = [pytest.mark.real, pytest.mark.asyncio]


@pytest.fixture(name="consul_program", scope="module")
def _consul_program() -> str:
    return tool("consul")


async def _certificates(program: str, home: Path) -> dict[str, str]:
    await run([program, "tls", "ca", "create"], cwd=home, timeout_s=20)
    await run([program, "tls", "cert", "create", "-server", "-dc", "dc1"], cwd=home, timeout_s=20)
    return {
        "ca_file": str(home / "consul-agent-ca.pem"),
        "cert_file": str(home / "dc1-server-consul-0.pem"),
        "key_file": str(home / "dc1-server-consul-0-key.pem"),
    }


@pytest.mark.parametrize("mode", [SERVER, CLIENT])
async def test_consul_takes_what_is_rendered(consul_program: str, tmp_path: Path, mode: dict[str, Any]) -> None:
    """Gossip key, certificates, ACLs, names to join: all of it."""
    gossip = (await run([consul_program, "keygen"], timeout_s=10)).strip()
    secrets = Secrets(gossip_key=SecretStr(gossip), agent_token=SecretStr("c0ffee00-0000-4000-8000-000000000000"))
    changes: dict[str, Any] = {"data_dir": str(tmp_path / "data")}
    if mode is SERVER:
        changes["tls"] = await _certificates(consul_program, tmp_path)
    config = render(ConsulPlan.model_validate(mode | changes), secrets, await consul_version(consul_program))
    assert "valid" in await validate(config, consul_program)


async def test_consuls_refusal_is_told_in_its_words(consul_program: str) -> None:
    """A key that is no gossip key."""
    plan = ConsulPlan.model_validate(CLIENT)
    config = render(plan, Secrets(gossip_key=SecretStr("short")), await consul_version(consul_program))
    with pytest.raises(FatalError, match="encrypt"):
        await validate(config, consul_program)


async def test_a_program_that_is_not_there_is_named() -> None:
    """And what to do about it."""
    with pytest.raises(FatalError, match=r"no-such-consul.*install Consul"):
        await consul_version("no-such-consul")


async def test_a_server_runs_on_the_file_that_is_written(consul_program: str, tmp_path: Path) -> None:
    """Alone, with ACLs: it answers, and nobody else may read the file."""
    ports = {name: free_port() for name in ("http", "server", "serf_lan")}
    lines = [
        'mode = "server"',
        'node = "consul-a"',
        "servers = 1",
        'bind = "127.0.0.1"',
        f'data_dir = "{tmp_path / "data"}"',
        "[ports]",
        *(f"{name} = {port}" for name, port in ports.items()),
        f"dns = {free_port()}",
    ]
    (tmp_path / "consul.toml").write_text("\n".join(lines))
    out = tmp_path / "consul.json"
    await write(tmp_path / "consul.toml", out, consul_program)
    assert out.stat().st_mode & 0o777 == 0o640
    assert json.loads(out.read_text())["acl"]["default_policy"] == "deny"
    server = ServerProcess([consul_program, "agent", "-config-file", str(out)], log=tmp_path / "consul.log")
    try:
        await server.start(lambda: listens(ports["http"]), deadline_s=20)
        assert await eventually(lambda: _leads(server), deadline_s=20)
    finally:
        await server.stop()


async def _leads(server: ServerProcess) -> bool:
    return "cluster leadership acquired" in server.log_tail(200)
