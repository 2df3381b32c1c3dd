"""A stack's first launch, a deploy, and instances that end: whole machines, provisioned as the AMI is."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from cluster.cluster import make
from cluster.scenarios.cluster import MIX
from cluster.scenarios.fleet import KNOBS
from cluster.servers.dockerd import DockerDaemon
from cluster.servers.process import eventually
from cluster.servers.tools import LabError
from cluster.settings import AppPlan
from cluster.traffic.generator import Traffic
from tests.infra.cloud import STACK, Cloud, Instance, cloud_of, machine_image

pytestmark = [
    pytest.mark.infra,
    pytest.mark.real,
    pytest.mark.full,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("credentials"),
]
SERVERS, WEBS = ("consul-a", "consul-b", "consul-c"), ("web-1", "web-2")
SHARED_BY_SERVERS = "gossip.key consul.pem consul-key.pem ca.pem consul.token consul-agent.token"


@pytest.fixture(name="cloud")
async def _cloud(docker: DockerDaemon, tmp_path: Path) -> AsyncIterator[Cloud]:
    """Five machines that know nothing, in a cloud in which nothing was ever deployed."""
    async with machine_image(docker, tmp_path) as image:
        roles = {"web": image, "consul": image}
        cluster = await make(docker, f"tg-aws-{uuid.uuid4().hex[:6]}", AppPlan(), roles)
        try:
            await cluster.power_up(len(WEBS))
            async with cloud_of(cluster) as cloud:
                yield cloud
        finally:
            await cluster.down()


async def test_a_stack_boots_at_once_deploys_and_lets_instances_go(cloud: Cloud) -> None:
    """Nobody types a token, no boot fails, and from the first answer on no request is lost."""
    launched = await asyncio.gather(*(cloud.launch(name) for name in (*SERVERS, *WEBS)))
    servers, webs = launched[: len(SERVERS)], launched[len(SERVERS) :]
    try:
        await _stand(webs)
        await _told_one_story(cloud, servers)
        with pytest.raises(LabError, match="may not write"):
            await _deploy(cloud, servers[0], "a", token="web/node-token")
        await _deploy(cloud, servers[0], "a")
        await _serve(cloud, webs, "a")
        await _node_token_rotated(cloud, servers[0], webs)
        async with Traffic(cloud.cluster.site, mix=MIX) as traffic:
            await _deploy(cloud, servers[0], "b")
            await _serve(cloud, webs, "b")
            await _web_host_left(webs[1])
            await _server_replaced(cloud, servers[1])
            outcome = await traffic.stop()
    except (AssertionError, LabError):
        for each in launched:
            with contextlib.suppress(LabError):  # it may be off
                print(await each.logs())
        raise
    assert outcome.rate > 100, "so few requests prove nothing"
    assert outcome.failed_by_fault == {}, outcome.failures[:5]


async def _stand(webs: Sequence[Instance]) -> None:
    """The launch hooks end with the holding page, and the stack is told: so an empty cluster settles."""

    async def all_in_service() -> bool:
        return all(web.aws.done("CompleteLifecycleAction") and web.aws.done("SignalResource") for web in webs)

    await _insist(all_in_service, 180)
    for web in webs:
        assert (await web.machine.shell("systemctl show -P NRestarts tidegate-boot")).strip() == "0", web.node
        assert web.aws.done("CompleteLifecycleAction")[-1]["LifecycleActionResult"] == "CONTINUE"
        assert web.aws.done("SignalResource")[0]["LogicalResourceId"] == "WebHosts"
        assert (await web.machine.asks())[0] == 200
        assert (await web.machine.asks("/"))[0] == 503
        report = await web.machine.report()
        assert report is not None
        assert (report.node, report.machine) == (web.node, web.node.replace("web-", "i-"))
        listing = await web.machine.shell("stat -c '%a %U %n' /etc/tidegate/* | sort")
        assert "consul-key.pem" not in listing, "that is the servers'"
        assert "600 tidegate /etc/tidegate/consul.token" in listing


async def _told_one_story(cloud: Cloud, servers: Sequence[Instance]) -> None:
    """Of three that chose secrets at once, all have the same; each first boot came to its end."""

    async def booted() -> bool:
        states = [await each.machine.shell("systemctl is-active tidegate-boot || true") for each in servers]
        return {state.strip() for state in states} == {"active"}

    # A boot's last step, the signal, takes a while to be given up: moto knows none.
    await _insist(booted, 120)
    for each in servers:
        assert (await each.machine.shell("systemctl show -P NRestarts tidegate-boot")).strip() == "0", each.node
    sums = [await each.machine.shell(f"cd /etc/tidegate && sha256sum {SHARED_BY_SERVERS}") for each in servers]
    assert len(set(sums)) == 1
    kinds = cloud.kinds()
    assert kinds.pop("shared/settings") == "String"
    assert set(kinds.values()) == {"SecureString"}
    assert set(cloud.names()) == {f"consul.{name[-1]}.cs90." for name in SERVERS}
    peers = await _as(cloud, servers[0], "consul/management-token", "consul operator raft list-peers")
    assert peers.count("true") == len(servers), peers
    streams = cloud.client("logs").describe_log_streams(logGroupName=f"/tidegate/{STACK}")["logStreams"]
    assert {each["logStreamName"].split("/")[1] for each in streams} >= {each.node for each in servers}


async def _deploy(cloud: Cloud, server: Instance, version: str, token: str = "people/operator-token") -> None:
    image = cloud.cluster.reference(await cloud.cluster.images().testapp(version))
    command = f"/opt/tidegate/bin/tidegate deploy {image} --app cs90 --reason 'a test' --wait done {' '.join(KNOBS)}"
    await _as(cloud, server, token, command)


async def _serve(cloud: Cloud, webs: Sequence[Instance], version: str) -> None:
    image = cloud.cluster.reference(f"x/testapp:{version}-finish")
    for web in webs:
        report = await web.machine.report()
        assert report is not None
        assert {slot.image.partition("@")[0] for slot in report.slots.values() if slot.is_up} == {image}


async def _node_token_rotated(cloud: Cloud, server: Instance, webs: Sequence[Instance]) -> None:
    """As docs/infrastructure.md says: a new token, the parameter, the boots, and then the old one goes."""
    create = "consul acl token create -policy-name tidegate-cs90-node -format=json"
    new = json.loads(await _as(cloud, server, "consul/management-token", create))["SecretID"]
    old = json.loads(await _as(cloud, server, "web/node-token", "consul acl token read -self -format=json"))
    cloud.write("web/node-token", new)
    for web in webs:
        await web.machine.run("systemctl", "restart", "tidegate-boot", timeout_s=60)
        assert (await web.machine.shell("cat /etc/tidegate/consul.token")).strip() == new
    await _as(cloud, server, "consul/management-token", f"consul acl token delete -id {old['AccessorID']}")


async def _web_host_left(web: Instance) -> None:
    """It drains, completes the group's hook, and takes no new visitor meanwhile."""
    web.aws.state, web.aws.target = "Terminating:Wait", "Terminated"

    async def left() -> bool:
        return any(call["LifecycleHookName"] == "leave" for call in web.aws.done("CompleteLifecycleAction"))

    await _insist(left, 60)
    report = await web.machine.report()
    assert report is not None
    assert report.is_leaving
    assert (await web.machine.asks())[0] == 503
    await web.machine.power_off()


async def _server_replaced(cloud: Cloud, server: Instance) -> None:
    """One ends, with its name and its vote; the next of its zone takes both."""
    name = f"consul.{server.machine.name[-1]}.cs90."
    # The peers are listed by the name of whoever had their address last; here the next one has the same address.
    identity = (await server.machine.shell("cat /var/lib/consul/node-id")).strip()
    server.aws.target = "Terminated"

    async def gone() -> bool:
        return name not in cloud.names() and "left Consul" in await server.machine.journal("tidegate-leave")

    await _insist(gone, 60)
    await asyncio.sleep(3)  # longer than systemd waits before it starts something again
    assert (await server.machine.shell("systemctl is-active consul-server || true")).strip() == "inactive"
    await cloud.cluster.renew(server.machine.name)
    new = await cloud.launch(server.machine.name, state="InService")

    async def votes() -> bool:
        return "this server votes" in await new.machine.journal("tidegate-boot")

    await _insist(votes, 120, new.logs)
    assert name in cloud.names()
    peers = await _as(cloud, new, "consul/management-token", "consul operator raft list-peers")
    assert identity not in peers
    assert peers.count("true") == len(SERVERS), peers


async def _as(cloud: Cloud, server: Instance, token: str, command: str) -> str:
    """Run *command* on a server, as somebody who may read the parameter *token*."""
    return await server.machine.shell(f"CONSUL_HTTP_TOKEN={cloud.parameter(token)} {command}", timeout_s=120)


async def _insist(
    is_so: Callable[[], Awaitable[bool]], deadline_s: float, logs: Callable[[], Awaitable[str]] | None = None
) -> None:
    async def slowly() -> bool:
        with contextlib.suppress(LabError):
            if await is_so():
                return True
        await asyncio.sleep(0.5)
        return False

    is_met = await eventually(slowly, deadline_s=deadline_s)
    assert is_met, f"{is_so.__name__}: not within {deadline_s} s\n{await logs() if logs else ''}"
