"""The boot of machines against moto's parameters and names, and a real Consul server with ACLs."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest

from agent.adapters.aws.ec2 import Ec2
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.transport import Request, TokenSource
from agent.core.model.errors import ConsulForbiddenError, PermanentError
from agent.provision.aws import boot as boot_module
from agent.provision.aws import parameter_store as names
from agent.provision.aws.boot import SERVER_UNITS, WEB_UNITS, Boot, leave
from agent.provision.aws.certificates import make
from agent.provision.aws.consul_server import ConsulServer
from agent.provision.aws.files import ETC, File
from agent.provision.aws.parameter_store import ParameterStore
from cluster.servers.ports import free_port
from cluster.servers.process import ServerProcess, eventually, listens
from infra.aws import Aws
from infra.errors import InfraError
from tests.adapters.fakes.ec2 import FakeEc2, running
from tests.infra.account import REGION
from tests.provision.aws.machines import BUNDLE, SETTINGS, machine

pytestmark = [pytest.mark.infra, pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("aws")]


@dataclass
class Notes:
    """A machine on which nothing is really done."""

    files: dict[str, str] = field(default_factory=dict)
    units: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def install(self, files: Iterable[File]) -> None:
        self.files |= {str(file.path.relative_to(ETC)): file.text for file in files}

    def start(self, units: Sequence[str]) -> None:
        self.units += units


@pytest.fixture
async def fake() -> AsyncIterator[FakeEc2]:
    async with running(FakeEc2(state="Terminating:Wait")) as serving:
        yield serving


@pytest.fixture
async def ec2(fake: FakeEc2) -> AsyncIterator[Ec2]:
    async with Ec2(fake.url, f"{fake.url}/") as adapter:
        yield adapter


@dataclass(frozen=True)
class Stack:
    """What the boots of a test have in common."""

    parameter_store: ParameterStore
    ec2: Ec2

    def boot(self, role: str, host: Notes, consul: ConsulServer) -> Boot:
        return Boot(
            machine=machine(role),
            parameter_store=self.parameter_store,
            aws=Aws(REGION),
            ec2=self.ec2,
            host=host,
            consul=consul,
            say=host.said.append,
            make_bundle=lambda: BUNDLE,
        )


@pytest.fixture
def stack(parameter_store: ParameterStore, ec2: Ec2) -> Stack:
    return Stack(parameter_store, ec2)


def settle(parameter_store: ParameterStore, **changed: str) -> dict[str, Any]:
    settings = {**SETTINGS, **changed}
    parameter_store.ssm.put_parameter(
        Name=f"/tidegate/{parameter_store.stack}/shared/settings", Type="String", Value=json.dumps(settings)
    )
    return settings


async def test_a_web_host_waits_for_its_secrets_and_then_starts(parameter_store: ParameterStore, stack: Stack) -> None:
    settle(parameter_store)
    for name, value in {
        names.GOSSIP_KEY: "gossip", names.AUTHORITY: "ca", names.WEB_AGENT_TOKEN: "agent", names.NODE_TOKEN: "node",
    }.items():  # fmt: skip
        parameter_store.claim(name, lambda value=value: value)  # type: ignore[misc]
    host = Notes()
    await stack.boot("web", host, ConsulServer()).run()
    assert host.files["consul.token"] == "node"
    assert host.files["consul-agent.token"] == "agent"
    assert tuple(host.units) == WEB_UNITS


async def test_a_web_host_without_settings_says_so(stack: Stack) -> None:
    with pytest.raises(InfraError, match="shared/settings was not written"):
        await stack.boot("web", Notes(), ConsulServer()).run()


async def test_a_server_that_leaves_tries_every_step_whatever_fails(stack: Stack, fake: FakeEc2) -> None:
    """Without settings it has no name to give back, and no Consul answers here; the group's hook ends all the same."""
    host = Notes()
    await leave(stack.boot("consul", host, ConsulServer("http://127.0.0.1:9")), "leave")
    assert len(host.said) == 3
    assert host.said[2] == "the leave hook is complete"
    assert len(fake.done("CompleteLifecycleAction")) == 1


@dataclass
class Cluster:
    """One real Consul server with ACLs that nobody has bootstrapped."""

    address: str
    node: str
    data: Path


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    node, port = machine().node, free_port()
    config = {
        "server": True,
        "bootstrap_expect": 1,
        "node_name": node,
        "bind_addr": "127.0.0.1",
        "data_dir": str(tmp_path / "data"),
        "ports": {"http": port, "dns": -1, "grpc": -1, "serf_wan": -1, "serf_lan": free_port(), "server": free_port()},
        "acl": {"enabled": True, "default_policy": "deny"},
        "performance": {"raft_multiplier": 1},
    }
    (tmp_path / "consul.json").write_text(json.dumps(config))
    process = ServerProcess(
        ["consul", "agent", "-config-file", str(tmp_path / "consul.json")], log=tmp_path / "consul.log"
    )
    try:
        await process.start(lambda: listens(port), deadline_s=20)
        yield Cluster(f"http://127.0.0.1:{port}", node, tmp_path / "data")
    finally:
        process.kill()


@pytest.fixture
def zone_id(aws: None, request: pytest.FixtureRequest) -> str:
    vpc = boto3.client("ec2", REGION).create_vpc(CidrBlock="10.43.0.0/16")["Vpc"]["VpcId"]
    made = boto3.client("route53", REGION).create_hosted_zone(
        Name="cs90", CallerReference=request.node.name, VPC={"VPCRegion": REGION, "VPCId": vpc}
    )
    return str(made["HostedZone"]["Id"]).rpartition("/")[2]


@pytest.mark.real
async def test_consul_servers_make_every_token_and_may_do_so_again(
    parameter_store: ParameterStore, stack: Stack, fake: FakeEc2, cluster: Cluster, zone_id: str
) -> None:
    settle(parameter_store, zone_id=zone_id, initial_image="cfortier/cs90:a")
    hosts = [Notes(), Notes()]
    for host in hosts:
        await stack.boot("consul", host, ConsulServer(cluster.address)).run()
    assert hosts[0].files == hosts[1].files
    assert tuple(hosts[0].units) == SERVER_UNITS
    assert "cs90/active/image is cfortier/cs90:a" in hosts[0].said
    assert "cs90/active/image is cfortier/cs90:a" not in hosts[1].said
    assert "this server votes" in hosts[0].said
    assert len(fake.done("SignalResource")) == 2

    # What a web host will find is a token that Consul knows, with the rights of a node and no others.
    def of(name: str) -> ConsulClient:
        return ConsulClient(cluster.address, token=TokenSource(parameter_store.get(name) or ""))

    async with of(names.NODE_TOKEN) as node, of(names.OPERATOR_TOKEN) as operator, of(names.READ_ONLY_TOKEN) as reader:
        assert await node.get("cs90/active/image")
        with pytest.raises(ConsulForbiddenError):
            await node.put("cs90/active/image", b"evil:1")
        assert await node.put("cs90-status/nodes/web-1", b"{}")
        assert await operator.put("cs90/stage/image", b"cfortier/cs90:b")
        with pytest.raises(ConsulForbiddenError):
            await reader.put("cs90/stage/image", b"x")
    listed = boto3.client("route53", REGION).list_resource_record_sets(HostedZoneId=zone_id)["ResourceRecordSets"]
    assert [(each["Name"], each["ResourceRecords"][0]["Value"]) for each in listed if each["Type"] == "CNAME"] == [
        ("consul.us-east-1a.cs90.", "ip-10-43-1-1.ec2.internal")
    ]


@pytest.mark.real
async def test_a_server_that_died_while_bootstrapping_goes_on_where_it_was(
    parameter_store: ParameterStore, stack: Stack, fake: FakeEc2, cluster: Cluster, zone_id: str
) -> None:
    settle(parameter_store, zone_id=zone_id)

    class Dying(ConsulServer):
        async def create_policy(self, name: str, rules: str) -> None:
            raise PermanentError(f"died before {name}: {len(rules)}")

    with pytest.raises(PermanentError, match="died before"):
        await stack.boot("consul", Notes(), Dying(cluster.address)).run()
    assert parameter_store.get(names.AUTHORITY) is None  # so no web host goes on yet
    # The stack has given up waiting meanwhile; that ends no boot.
    fake.waits_for_signals, host = False, Notes()
    await stack.boot("consul", host, ConsulServer(cluster.address)).run()
    assert parameter_store.get(names.AUTHORITY) == "authority\n"
    assert host.said[-1].startswith("SignalResource: ValidationError")


@pytest.mark.real
async def test_a_server_that_was_not_the_first_waits_for_the_token_that_consul_chose(
    parameter_store: ParameterStore, stack: Stack, cluster: Cluster, zone_id: str
) -> None:
    """Consul before 1.11 takes nobody's word: the first server learns the token, and then writes it down."""
    settle(parameter_store, zone_id=zone_id)
    first = ConsulServer(cluster.address)
    await first.wait_for_leader(20)
    made = await first.bootstrap(names.new_token())
    assert made is not None
    boot = stack.boot("consul", Notes(), ConsulServer(cluster.address))
    booting = asyncio.create_task(boot.run())
    await asyncio.sleep(3)
    assert not booting.done()
    parameter_store.replace(names.MANAGEMENT, made)
    await booting
    assert parameter_store.get(names.AUTHORITY) == "authority\n"
    assert parameter_store.get(names.MANAGEMENT) == made


@pytest.mark.real
async def test_a_management_token_that_nobody_wrote_down_is_named_and_can_be_made_anew(
    parameter_store: ParameterStore, stack: Stack, cluster: Cluster, zone_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the first server died between learning it and writing it down; then as the documentation says."""
    settle(parameter_store, zone_id=zone_id)
    first = ConsulServer(cluster.address)
    await first.wait_for_leader(20)
    assert await first.bootstrap(names.new_token())
    monkeypatch.setattr(boot_module, "MANAGEMENT_DEADLINE_S", 2.5)
    with pytest.raises(PermanentError, match=r"/consul/management-token is not Consul's: .*ACL not found.*docs/"):
        await stack.boot("consul", Notes(), ConsulServer(cluster.address)).run()
    assert parameter_store.get(names.AUTHORITY) is None
    async with first.connect() as client:
        with pytest.raises(ConsulForbiddenError) as refused:
            await client.http.send(Request("PUT", "/v1/acl/bootstrap"))
    index = re.search(r"reset index: (\d+)", str(refused.value))
    assert index is not None
    (cluster.data / "acl-bootstrap-reset").write_text(index[1])
    await stack.boot("consul", Notes(), ConsulServer(cluster.address)).run()
    assert parameter_store.get(names.AUTHORITY) == "authority\n"


@pytest.mark.real
async def test_a_server_that_leaves_gives_its_name_and_its_vote_back(
    parameter_store: ParameterStore, stack: Stack, fake: FakeEc2, cluster: Cluster, zone_id: str
) -> None:
    """Its name, its vote, and then the group's hook."""
    settle(parameter_store, zone_id=zone_id)
    boot = stack.boot("consul", Notes(), ConsulServer(cluster.address))
    await boot.run()
    host = Notes()
    await leave(stack.boot("consul", host, ConsulServer(cluster.address)), "leave")
    assert host.said == [
        "- consul.us-east-1a.cs90 (was ip-10-43-1-1.ec2.internal)",
        "left Consul",
        "the leave hook is complete",
    ]
    (completed,) = fake.done("CompleteLifecycleAction")
    assert (completed["LifecycleHookName"], completed["LifecycleActionResult"]) == ("leave", "CONTINUE")

    async def is_gone() -> bool:
        return not await listens(int(cluster.address.rpartition(":")[2]))

    assert await eventually(is_gone, deadline_s=20)


@pytest.mark.real
def test_the_authority_and_certificate_are_made_with_consuls_own_tool() -> None:
    from cluster.servers.tools import tool

    bundle = make(tool("consul"), days=2)
    assert bundle.certificate.startswith("-----BEGIN CERTIFICATE")
    assert len(bundle.pack()) <= names.LIMIT_BYTES
