"""
Whole machines, provisioned as the AMI is: from user-data to serving, and to the end.

systemd, Consul with ACLs and TLS, HAProxy, Docker and the agent are real; moto plays SSM, Route53 and EC2, a stand-in
each machine's metadata and its group.
"""

import asyncio
import contextlib
import json
import shutil
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.cluster.machine import Machine
from tests.cluster.machines import build_machines, build_wheel, ship
from tests.contract.fakes.ec2 import FakeEc2, running
from tests.infra.cases import ROOT
from tests.infra.conftest import REGION
from tests.infra.machines import SETTINGS
from tests.infra.test_userdata import rendered
from tests.lab.dockerd import DockerDaemon
from tests.lab.process import eventually
from tests.lab.tools import run

pytestmark = [
    pytest.mark.infra,
    pytest.mark.real,
    pytest.mark.full,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("credentials"),
]

STACK, ZONE = "final-project", "us-east-1a"
EXTRA = ("boto3", "botocore", "cfn-flip", "click", "jmespath", "python-dateutil", "pyyaml", "s3transfer", "six",
         "troposphere", "urllib3")  # fmt: skip
CAPABILITIES = (
    *("SYS_ADMIN", "NET_ADMIN", "NET_RAW", "SYS_PTRACE", "SYS_NICE", "MKNOD", "AUDIT_WRITE", "SYS_CHROOT"),
    *("DAC_READ_SEARCH", "IPC_LOCK", "SYS_TIME", "SYS_TTY_CONFIG", "LINUX_IMMUTABLE", "SYSLOG"),
)
DOCKERFILE = """
ARG BASE
FROM ${BASE}
RUN systemctl disable -q consul-client.service tidegate-agent.service tidegate-drain.service
COPY wheels /usr/src/wheels-aws
COPY tidegate /usr/src/tidegate
RUN apt-get update -qq && /usr/src/tidegate/infra/image/provision.sh aws --wheels /usr/src/wheels-aws
"""
BOOT = """[Service]
Environment=AWS_ENDPOINT_URL={moto} AWS_EC2_METADATA_SERVICE_ENDPOINT={metadata}
ExecStart=
ExecStart=/opt/tidegate/bin/tidegate-infra machine {verb} --metadata {metadata}
"""


@pytest.fixture
async def image(docker: DockerDaemon, tmp_path: Path) -> AsyncIterator[str]:
    """The image of both roles, without what an AMI has beside it: Session Manager."""
    context = tmp_path / "image"
    await asyncio.to_thread(context.mkdir)
    base = (await build_machines(docker))["web"]
    ship(context / "tidegate")
    await build_wheel(context / "tidegate", context / "wheels")
    shutil.rmtree(context / "tidegate" / "build", ignore_errors=True)
    lock = (ROOT / "requirements-dev.lock").read_text().splitlines()
    pins = [line.split(" ")[0] for line in lock if line.partition("==")[0] in EXTRA]
    options = ("-q", "--no-deps", "--only-binary=:all:", "--python-version=3.11", "-d", str(context / "wheels"))
    await run([sys.executable, "-m", "pip", "download", *options, *pins], timeout_s=200)
    (context / "Dockerfile").write_text(DOCKERFILE)
    tag = f"tidegate/aws-try:{uuid.uuid4().hex[:8]}"
    await docker.cli("build", "-q", f"--build-arg=BASE={base}", "-t", tag, str(context), timeout_s=600)
    yield tag
    await docker.cli("rmi", "-f", tag, timeout_s=60)


@dataclass
class Cloud:
    """A network with moto on its bridge, and the machines in it."""

    docker: DockerDaemon
    image: str
    label: str
    gateway: str
    moto: str
    zone_id: str

    def client(self, service: str) -> Any:
        return boto3.client(service, REGION, endpoint_url=self.moto)

    async def launch(self, fake: FakeEc2, role: str, number: int) -> Machine:
        """Start a machine and let its user-data run."""
        name = f"{self.label}-{role}"
        identity = {
            "instanceId": f"i-0{number}",
            "availabilityZone": ZONE,
            "region": REGION,
            "accountId": "123456789012",
        }
        fake.documents |= {
            "dynamic/instance-identity/document": json.dumps(identity),
            "meta-data/local-hostname": f"ip-10-43-1-{number}.ec2.internal",
        }
        alias = [f"--network-alias=consul.{ZONE}.cs90"] if role == "consul" else []
        await self.docker.cli(
            "run", "-d", f"--name={name}", f"--label={self.label}", f"--network={self.label}", *alias,
            "--cgroupns=host", *(f"--cap-add={each}" for each in CAPABILITIES), "--security-opt=seccomp=unconfined",
            "--security-opt=apparmor=unconfined", "--tmpfs=/run", "--tmpfs=/tmp", "-v=/var/lib/docker",
            "-v=/sys/fs/cgroup:/sys/fs/cgroup:rw", self.image, timeout_s=60,
        )  # fmt: skip
        address = await self.docker.cli(
            "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name
        )
        made = Machine(name, name, address.strip(), self.docker)
        await made.booted()
        for unit, verb in (("boot", "boot"), ("leave", "leave")):
            drop_in = BOOT.format(moto=self.moto, metadata=fake.url, verb=verb)
            await made.run(
                "sh", "-c", f"mkdir -p /etc/systemd/system/tidegate-{unit}.service.d && cat >$0",
                f"/etc/systemd/system/tidegate-{unit}.service.d/lab.conf", given=drop_in.encode(),
            )  # fmt: skip
        agent = f"TIDEGATE_EC2__METADATA={fake.url}\nTIDEGATE_EC2__ENDPOINT={fake.url}/\n"
        await made.run("sh", "-c", "cat >/etc/tidegate/agent.env && systemctl daemon-reload", given=agent.encode())
        script = rendered("dev", "WebTemplate" if role == "web" else "ConsulTemplate")
        await made.run("bash", "-s", given=script.encode())
        return made

    def names(self) -> dict[str, str]:
        found = self.client("route53").list_resource_record_sets(HostedZoneId=self.zone_id)["ResourceRecordSets"]
        return {each["Name"]: each["ResourceRecords"][0]["Value"] for each in found if each["Type"] == "CNAME"}


@pytest.fixture
async def cloud(docker: DockerDaemon, image: str) -> AsyncIterator[Cloud]:
    from moto.server import ThreadedMotoServer

    label, subnet = f"tg-aws-{uuid.uuid4().hex[:6]}", await docker.free_subnet()
    await docker.cli("network", "create", f"--label={label}", f"--subnet={subnet}", f"--gateway={subnet[1]}", label)
    server = ThreadedMotoServer(ip_address=str(subnet[1]), port=0)
    server.start()
    moto = f"http://{subnet[1]}:{server.get_host_and_port()[1]}"
    try:
        vpc = boto3.client("ec2", REGION, endpoint_url=moto).create_vpc(CidrBlock="10.43.0.0/16")["Vpc"]["VpcId"]
        zone = boto3.client("route53", REGION, endpoint_url=moto).create_hosted_zone(
            Name="cs90", CallerReference=label, VPC={"VPCRegion": REGION, "VPCId": vpc}
        )
        zone_id = zone["HostedZone"]["Id"].rpartition("/")[2]
        settings = {**SETTINGS, "servers": 1, "zones": ZONE, "zone_id": zone_id}
        boto3.client("ssm", REGION, endpoint_url=moto).put_parameter(
            Name=f"/tidegate/{STACK}/shared/settings", Type="String", Value=json.dumps(settings)
        )
        boto3.client("logs", REGION, endpoint_url=moto).create_log_group(logGroupName=f"/tidegate/{STACK}")
        yield Cloud(docker, image, label, str(subnet[1]), moto, zone_id)
    finally:
        with contextlib.suppress(Exception):
            await docker.remove_labelled(label)
        server.stop()


async def test_machines_boot_into_their_role_serve_and_leave(cloud: Cloud) -> None:
    async with (
        running(FakeEc2(host=cloud.gateway, state="InService")) as at_server,
        running(FakeEc2(host=cloud.gateway)) as at_web,
    ):
        server = await cloud.launch(at_server, "consul", 7)
        web = await cloud.launch(at_web, "web", 8)
        try:
            await _check(cloud, server, web, at_server, at_web)
        except AssertionError:
            for machine, units in ((server, ("boot", "leave", "agent")), (web, ("boot", "agent"))):
                for unit in units:
                    print(machine.name, unit, await machine.journal(f"tidegate-{unit}"))
            raise


async def _check(cloud: Cloud, server: Machine, web: Machine, at_server: FakeEc2, at_web: FakeEc2) -> None:
    async def launched() -> bool:
        return bool(at_web.done("CompleteLifecycleAction")) and bool(at_web.done("SignalResource"))

    assert await eventually(launched, deadline_s=180)
    assert at_web.done("CompleteLifecycleAction")[-1]["LifecycleActionResult"] == "CONTINUE"
    assert at_web.done("SignalResource")[0]["LogicalResourceId"] == "WebHosts"
    assert (await web.asks())[0] == 200
    report = await web.report()
    assert report is not None
    assert (report.node, report.zone, report.machine) == ("web-08", ZONE, "i-08")
    assert cloud.names() == {f"consul.{ZONE}.cs90.": "ip-10-43-1-7.ec2.internal"}
    await _check_secrets(cloud, web)

    async def booted() -> bool:
        await asyncio.sleep(0.5)
        return (await server.shell("systemctl is-active tidegate-boot || true")).strip() == "active"

    # Its last step, the signal, takes a while to be given up: moto knows none.
    assert await eventually(booted, deadline_s=90)
    streams = cloud.client("logs").describe_log_streams(logGroupName=f"/tidegate/{STACK}")["logStreams"]
    assert {each["logStreamName"].split("/")[1] for each in streams} == {"consul-07", "web-08"}
    await _check_the_end(cloud, (server, at_server), (web, at_web))


async def _check_secrets(cloud: Cloud, web: Machine) -> None:
    # What the server made, the web host may not have; and nothing is readable by others.
    listing = await web.shell("stat -c '%a %U %n' /etc/tidegate/* | sort")
    assert "consul-key.pem" not in listing
    assert "600 tidegate /etc/tidegate/consul.token" in listing
    found = cloud.client("ssm").get_parameters_by_path(Path=f"/tidegate/{STACK}/", Recursive=True)["Parameters"]
    kinds = {each["Name"].removeprefix(f"/tidegate/{STACK}/"): each["Type"] for each in found}
    assert kinds.pop("shared/settings") == "String"
    assert set(kinds.values()) == {"SecureString"}


async def _check_the_end(
    cloud: Cloud, at_the_server: tuple[Machine, FakeEc2], at_the_web: tuple[Machine, FakeEc2]
) -> None:
    (server, at_server), (web, at_web) = at_the_server, at_the_web
    at_web.state, at_web.target = "Terminating:Wait", "Terminated"

    async def left() -> bool:
        return any(call["LifecycleHookName"] == "leave" for call in at_web.done("CompleteLifecycleAction"))

    assert await eventually(left, deadline_s=60)
    report = await web.report()
    assert report is not None
    assert report.is_leaving
    assert (await web.asks())[0] == 503

    at_server.target = "Terminated"

    async def gone() -> bool:
        await asyncio.sleep(0.5)
        return not cloud.names() and "left Consul" in await server.journal("tidegate-leave")

    assert await eventually(gone, deadline_s=60)
