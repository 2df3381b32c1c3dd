"""The policies `tidegate init` creates, in a real Consul in default deny."""

import asyncio
import json
import uuid
from dataclasses import replace

import pytest
from typer.testing import CliRunner, Result

from agent.adapters.consul.acl import (
    AclDisabledError,
    Policy,
    Token,
    Written,
    bootstrap,
    check_token,
    create_policy,
    create_token,
    write_policy,
)
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.transport import TokenSource
from agent.cli.main import cli
from agent.core.model.errors import ConsulForbiddenError
from cluster.servers.consul import ConsulServer

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


async def tidegate(server: ConsulServer, *arguments: str, token: str | None = None) -> Result:
    """Run a command beside the test's own loop."""
    env = {
        "CONSUL_HTTP_ADDR": server.address,
        "CONSUL_HTTP_TOKEN": server.token if token is None else token,
        "TIDEGATE_CONFIG": "/none",
    }
    return await asyncio.to_thread(CliRunner().invoke, cli, list(arguments), env=env)


async def test_a_policy_is_created_corrected_and_left_alone(acl_consul: ConsulServer, app_name: str) -> None:
    """By name; the rules are what counts."""
    policy = Policy(app_name, "a test", 'key_prefix "x/" { policy = "read" }')
    async with ConsulClient(acl_consul.address, token=TokenSource(acl_consul.token or "")) as client:
        assert await write_policy(client, policy) is Written.CREATED
        assert await write_policy(client, policy) is Written.UNCHANGED
        other = replace(policy, rules='key_prefix "y/" { policy = "read" }')
        assert await write_policy(client, other) is Written.CHANGED
        assert await write_policy(client, other) is Written.UNCHANGED


async def test_a_policy_that_is_there_is_not_corrected_by_creating_it(acl_consul: ConsulServer, app_name: str) -> None:
    """A boot leaves alone what an operator may have changed."""
    policy = Policy(app_name, "a test", 'key_prefix "x/" { policy = "read" }')
    async with ConsulClient(acl_consul.address, token=TokenSource(acl_consul.token or "")) as client:
        await create_policy(client, policy)
        await create_policy(client, replace(policy, rules=""))
        assert await write_policy(client, policy) is Written.UNCHANGED


async def test_a_token_has_the_value_that_was_chosen_and_its_policies(acl_consul: ConsulServer, app_name: str) -> None:
    """A second time it is left alone."""
    token = Token(str(uuid.uuid4()), "a test", (app_name,))
    rules = f'key_prefix "{app_name}/" {{ policy = "write" }}'
    async with ConsulClient(acl_consul.address, token=TokenSource(token.secret)) as holder:
        with pytest.raises(ConsulForbiddenError, match="ACL not found"):
            await check_token(holder)
        async with ConsulClient(acl_consul.address, token=TokenSource(acl_consul.token or "")) as client:
            await create_policy(client, Policy(app_name, "", rules))
            await create_token(client, token)
            await create_token(client, replace(token, policies=()))
        await check_token(holder)
        assert await holder.put(f"{app_name}/key", b"value")


async def test_who_may_not_manage_acls_creates_nothing(acl_consul: ConsulServer, app_name: str) -> None:
    """A refusal is no "it is there already"."""
    weak = await acl_consul.create_token('key_prefix "" { policy = "write" }')
    async with ConsulClient(acl_consul.address, token=TokenSource(weak)) as client:
        with pytest.raises(ConsulForbiddenError):
            await create_policy(client, Policy(app_name, "", ""))
        with pytest.raises(ConsulForbiddenError):
            await create_token(client, Token(str(uuid.uuid4()), "", ()))


async def test_a_second_management_token_is_not_made(acl_consul: ConsulServer) -> None:
    """The cluster has one."""
    async with ConsulClient(acl_consul.address) as client:
        assert await bootstrap(client, str(uuid.uuid4())) is None


async def test_init_creates_the_policies_and_no_key(acl_consul: ConsulServer, app_name: str) -> None:
    """A second time it changes nothing; both say so."""
    done = await tidegate(acl_consul, "init", app_name)
    assert done.exit_code == 0, done.output
    roles = ("node", "coordinator", "operator", "read-only")
    assert done.stdout.splitlines()[:4] == [f"policy tidegate-{app_name}-{role}: created" for role in roles]
    for role in roles:
        assert f"consul acl token create -policy-name tidegate-{app_name}-{role} " in done.stdout
    again = json.loads((await tidegate(acl_consul, "init", app_name, "--json")).stdout)
    assert set(again["policies"].values()) == {"unchanged"}
    assert await acl_consul.tree(f"{app_name}/") == {}


async def test_a_token_that_may_not_manage_acls_is_told_so(acl_consul: ConsulServer, app_name: str) -> None:
    """And which token it was."""
    token = await acl_consul.create_token('key_prefix "" { policy = "write" }')
    done = await tidegate(acl_consul, "init", app_name, token=token)
    assert isinstance(done.exception, ConsulForbiddenError)
    assert done.exception.__notes__[0].startswith("the token was given by its value")


async def test_without_acls_there_is_nothing_to_create(consul: ConsulServer, app_name: str) -> None:
    """It says what that means."""
    done = await tidegate(consul, "init", app_name)
    assert done.exit_code == 0, done.output
    assert "runs without ACLs: everybody who reaches it may deploy; no policy was created" in done.stdout
    async with ConsulClient(consul.address) as client:
        with pytest.raises(AclDisabledError):
            await write_policy(client, Policy(app_name, "", ""))
