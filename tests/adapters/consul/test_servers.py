"""A real Consul server asked about itself and its peers."""

import pytest

from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.servers import has_leader, is_voter
from agent.adapters.consul.transport import TokenSource
from agent.core.model.errors import ConsulForbiddenError
from cluster.servers.consul import ConsulServer

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]


async def test_the_only_server_leads_and_votes(acl_consul: ConsulServer) -> None:
    async with ConsulClient(acl_consul.address, token=TokenSource(acl_consul.token or "")) as client:
        assert await has_leader(client)
        assert await is_voter(client, acl_consul.name)
        assert not await is_voter(client, "another")


async def test_who_votes_is_not_told_to_everybody(acl_consul: ConsulServer) -> None:
    async with ConsulClient(acl_consul.address) as client:
        assert await has_leader(client)
        with pytest.raises(ConsulForbiddenError):
            await is_voter(client, "another")
