"""A coordinator without apps, with its policy alone, whose token is rotated in the middle of a rollout."""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.adapters.consul.fleet import read_keys, write_change
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.policies import Role, policy
from agent.adapters.consul.transport import TokenSource
from agent.core.model.names import AppName, ImageReference, NodeName, parse_app
from agent.core.model.record import Phase
from agent.core.rollout.change import Change, Indexes, writes_of
from agent.core.rollout.commands import CommandAuthor, abort, current, deploy
from agent.core.rollout.decision import Decision, Request
from agent.core.rollout.strategy import Strategy
from bench.fleet_in_consul import Population, staged
from cluster.servers.consul import ConsulServer
from cluster.servers.fleet import Coordinator
from cluster.servers.process import eventually
from tests.e2e.fleet.served import SERVED

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]
BY = CommandAuthor("lab", "a test", 0.0)


async def test_a_coordinator_goes_on_with_the_token_that_is_in_its_file_now(
    acl_consul: ConsulServer, tmp_path: Path
) -> None:
    """It takes a rollout up; its token is revoked; with the new one it acts on the next command without a restart."""
    app = parse_app(f"fleet-{uuid.uuid4().hex[:8]}")
    people = Population(acl_consul, app, [NodeName("web-1")])
    await people.register()
    await people.report([staged(app, node, SERVED, None) for node in people.nodes])
    await acl_consul.put(f"{app}/active/image", SERVED.image)
    token = tmp_path / "token"
    token.write_text(await acl_consul.create_token(policy(Role.COORDINATOR, app)))
    coordinator = Coordinator(tmp_path, "coordinator-1", app, acl_consul, token)
    management = TokenSource(acl_consul.token or "")
    try:
        await coordinator.start()
        async with ConsulClient(acl_consul.address, token=management) as client:
            keys = await read_keys(client, app)
            # Nobody listens at that address: it waits for the registry.
            request = Request(image=ImageReference("127.0.0.1:1/shop:b"))
            await _write(client, app, deploy(keys, (), request, Strategy(), BY))
            await _until(client, app, lambda record: record.since is not None)
            old = token.read_text()
            token.write_text(await acl_consul.create_token(policy(Role.COORDINATOR, app)))
            await acl_consul.revoke(old)
            await _write(client, app, abort(await read_keys(client, app), BY))
            await _until(client, app, lambda record: record.phase is Phase.ABORTED)
    finally:
        await coordinator.agent.stop()


async def _write(client: ConsulClient, app: AppName, change: Change) -> None:
    snapshot = await read_keys(client, app)
    index = getattr(snapshot.rollout, "modify_index", 0)
    await write_change(client, app, writes_of(app, change, Indexes(record=index), by="lab", now=0.0))


async def _until(client: ConsulClient, app: AppName, condition: Callable[[Decision], bool]) -> None:
    async def met() -> bool:
        record = current(await read_keys(client, app))
        return record is not None and condition(record)

    assert await eventually(met, deadline_s=40)
