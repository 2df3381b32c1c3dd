"""
A stack's machines in the local cluster, each told by its user-data alone.

systemd, Consul with ACLs and TLS, HAProxy, Docker, the registry, the edge and the agents are real; moto plays SSM,
Route53, EC2 and CloudWatch, a stand-in each machine's metadata service and its group.
"""

import asyncio
import json
import shutil
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

from cluster.cluster import Cluster
from cluster.machine import Machine
from cluster.machine_images import MACHINE_PYTHON, build_machines, build_wheel, ship
from cluster.secrets import REGISTRY, ZONES
from cluster.servers.dockerd import DockerDaemon
from cluster.servers.host import TEST_KNOBS
from cluster.servers.tools import run
from cluster.settings import File, docker_config
from tests.adapters.fakes.ec2 import FakeEc2, running
from tests.infra.account import REGION
from tests.infra.cases import ROOT
from tests.infra.userdata import rendered
from tests.provision.aws.machines import SETTINGS

STACK = "final-project"
APP = {"name": "cs90", "container_port": 8080, "health_path": "/health", "knobs": TEST_KNOBS}
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
ExecStart=/opt/tidegate/bin/tidegate-machine {verb} --metadata {metadata}
"""
AGENT = """[Service]
Environment=TIDEGATE_EC2__METADATA={metadata} TIDEGATE_EC2__ENDPOINT={metadata}/
"""
# The registry here is no ECR: its login takes the place of the credential helper's name.
LOGIN = "Exec{when}=+/bin/cp -a /etc/tidegate-lab/config.json /etc/tidegate/docker/config.json\n"
UNITS = "/etc/systemd/system"


@asynccontextmanager
async def machine_image(docker: DockerDaemon, home: Path) -> AsyncIterator[str]:
    """Build the image of both roles in *home*: what an AMI has, but for Session Manager."""
    context = home / "image"
    await asyncio.to_thread(context.mkdir)
    base = (await build_machines(docker))["web"]
    ship(context / "tidegate")
    await build_wheel(context / "tidegate", context / "wheels")
    shutil.rmtree(context / "tidegate" / "build", ignore_errors=True)
    options = (
        "-q",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
        f"--python-version={MACHINE_PYTHON}",
        "-d",
        str(context / "wheels"),
        "-r",
        str(ROOT / "requirements-infra.lock"),
    )
    await run([sys.executable, "-m", "pip", "download", *options], timeout_s=200)
    (context / "Dockerfile").write_text(DOCKERFILE)
    tag = f"tidegate/aws-try:{uuid.uuid4().hex[:8]}"
    await docker.cli("build", "-q", f"--build-arg=BASE={base}", "-t", tag, str(context), timeout_s=600)
    try:
        yield tag
    finally:
        await docker.cli("rmi", "-f", tag, timeout_s=60)


@dataclass(frozen=True, slots=True)
class Instance:
    """A machine, and what AWS says to it and hears from it."""

    machine: Machine
    aws: FakeEc2

    @property
    def node(self) -> str:
        """How Consul and Tidegate call it."""
        identity = json.loads(self.aws.documents["dynamic/instance-identity/document"])
        return f"{self.machine.name.partition('-')[0]}-{identity['instanceId'].removeprefix('i-')}"

    async def logs(self) -> str:
        """Return what its boot and its agent logged."""
        units = ("tidegate-boot", "tidegate-leave", "tidegate-agent")
        return "\n".join([f"{self.machine.name} {unit}\n{await self.machine.journal(unit)}" for unit in units])


@dataclass(slots=True)
class Cloud:
    """A stack, as far as its machines can tell."""

    cluster: Cluster
    moto: str
    zone_id: str
    _open: AsyncExitStack
    _launched: int = field(default=0)

    def client(self, service: str) -> Any:
        """Return boto3's client of moto."""
        return boto3.client(service, REGION, endpoint_url=self.moto)

    def parameter(self, name: str) -> str:
        """Return the value of one of the stack's parameters, as somebody who may read it gets it."""
        found = self.client("ssm").get_parameter(Name=f"/tidegate/{STACK}/{name}", WithDecryption=True)
        return str(found["Parameter"]["Value"])

    def write(self, name: str, value: str) -> None:
        """Write over one of the stack's secrets."""
        path = f"/tidegate/{STACK}/{name}"
        self.client("ssm").put_parameter(Name=path, Type="SecureString", Value=value, Overwrite=True)

    def kinds(self) -> dict[str, str]:
        """Return of which type each of the stack's parameters is."""
        pages = self.client("ssm").get_paginator("get_parameters_by_path")
        found = [
            each for page in pages.paginate(Path=f"/tidegate/{STACK}/", Recursive=True) for each in page["Parameters"]
        ]
        return {each["Name"].removeprefix(f"/tidegate/{STACK}/"): each["Type"] for each in found}

    def names(self) -> dict[str, str]:
        """Return the records of the servers' names."""
        found = self.client("route53").list_resource_record_sets(HostedZoneId=self.zone_id)["ResourceRecordSets"]
        return {each["Name"]: each["ResourceRecords"][0]["Value"] for each in found if each["Type"] == "CNAME"}

    async def launch(self, name: str, *, state: str = "Pending:Wait") -> Instance:
        """Make an instance of the machine *name*, which is up and knows nothing, and let its user-data run."""
        self._launched += 1
        number, machine = self._launched, self.cluster.machine(name)
        role, _, last = name.partition("-")
        identity = {
            "instanceId": f"i-0{number}",
            "availabilityZone": last if role == "consul" else ZONES[(int(last) - 1) % len(ZONES)],
            "region": REGION,
            "accountId": "123456789012",
        }
        fake = await self._open.enter_async_context(running(FakeEc2(host=self.cluster.gateway, state=state)))
        fake.documents |= {
            "dynamic/instance-identity/document": json.dumps(identity),
            "meta-data/local-hostname": f"ip-10-43-1-{number}.ec2.internal",
        }
        await machine.booted()
        authority, login = self.cluster.secrets.ca.read_text(), docker_config(REGISTRY, self.cluster.secrets)
        drop_ins = {
            "boot": BOOT.format(moto=self.moto, metadata=fake.url, verb="boot") + LOGIN.format(when="StartPost"),
            "leave": BOOT.format(moto=self.moto, metadata=fake.url, verb="leave"),
            "agent": AGENT.format(metadata=fake.url) + LOGIN.format(when="StartPre"),
        }
        await machine.put(
            [
                *(File(f"{UNITS}/tidegate-{unit}.service.d/lab.conf", text) for unit, text in drop_ins.items()),
                File("/usr/local/share/ca-certificates/cluster.crt", authority, mode=0o644),
                File("/etc/tidegate-lab/config.json", login, "tidegate"),
            ]
        )
        await machine.shell("update-ca-certificates && systemctl daemon-reload")
        script = rendered("dev", "WebTemplate" if role == "web" else "ConsulTemplate")
        await machine.run("bash", "-s", given=script.encode())
        return Instance(machine, fake)


@asynccontextmanager
async def cloud_of(cluster: Cluster) -> AsyncIterator[Cloud]:
    """Play AWS for a cluster whose machines are up."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address=cluster.gateway, port=0)
    server.start()
    try:
        moto = f"http://{cluster.gateway}:{server.get_host_and_port()[1]}"
        vpc = boto3.client("ec2", REGION, endpoint_url=moto).create_vpc(CidrBlock="10.43.0.0/16")["Vpc"]["VpcId"]
        zone = boto3.client("route53", REGION, endpoint_url=moto).create_hosted_zone(
            Name="cs90", CallerReference=cluster.layout.project, VPC={"VPCRegion": REGION, "VPCId": vpc}
        )
        zone_id = zone["HostedZone"]["Id"].rpartition("/")[2]
        own = {"zones": " ".join(ZONES), "zone_id": zone_id, "app": APP}
        boto3.client("ssm", REGION, endpoint_url=moto).put_parameter(
            Name=f"/tidegate/{STACK}/shared/settings", Type="String", Value=json.dumps({**SETTINGS, **own})
        )
        boto3.client("logs", REGION, endpoint_url=moto).create_log_group(logGroupName=f"/tidegate/{STACK}")
        async with AsyncExitStack() as fakes:
            yield Cloud(cluster, moto, zone_id, fakes)
    finally:
        server.stop()
