"""The boot's view of the metadata service, against a stand-in over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from agent.provision.aws.imds import Imds
from infra.errors import InfraError
from tests.adapters.fakes.ec2 import INSTANCE, ZONE, FakeEc2, running

STACK_ENV = "STACK=final-project\nREGION=us-east-1\nROLE=consul\nGROUP=ConsulServers\n"
IDENTITY = {"instanceId": INSTANCE, "availabilityZone": ZONE, "region": "us-east-1", "accountId": "123456789012"}


@pytest.fixture
async def fake() -> AsyncIterator[FakeEc2]:
    documents = {
        "dynamic/instance-identity/document": json.dumps(IDENTITY),
        "meta-data/local-hostname": "ip-10-43-1-9.ec2.internal",
    }
    async with running(FakeEc2(documents=documents)) as serving:
        yield serving


async def test_a_machine_learns_who_it_is(fake: FakeEc2) -> None:
    made = await asyncio.to_thread(Imds(fake.url).machine, STACK_ENV)
    assert (made.stack, made.role, made.group) == ("final-project", "consul", "ConsulServers")
    assert (made.instance, made.zone, made.host) == (INSTANCE, ZONE, "ip-10-43-1-9.ec2.internal")
    assert made.node == "consul-0abc"


async def test_a_stack_env_with_a_line_missing_is_named(fake: FakeEc2) -> None:
    with pytest.raises(InfraError, match="do not say ROLE"):
        await asyncio.to_thread(Imds(fake.url).machine, "STACK=x\nREGION=y\n")


async def test_a_token_that_has_become_invalid_is_replaced(fake: FakeEc2) -> None:
    imds = Imds(fake.url)
    await asyncio.to_thread(imds.is_to_end)
    fake.token = "t2"
    assert await asyncio.to_thread(imds.get, "meta-data/autoscaling/target-lifecycle-state") == "InService"


@pytest.mark.parametrize(
    ("target", "spot", "ends"), [("InService", "", False), ("Terminated", "", True), ("", "{}", True)]
)
async def test_the_end_is_seen(fake: FakeEc2, target: str, spot: str, ends: bool) -> None:
    fake.target, fake.spot = target, spot
    assert await asyncio.to_thread(Imds(fake.url).is_to_end) is ends


async def test_waiting_for_the_end_outlasts_a_service_that_is_away(fake: FakeEc2) -> None:
    imds, good, looks = Imds("http://127.0.0.1:9"), fake.url, list[float]()
    fake.target = "Terminated"

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        imds.address = good

    await asyncio.to_thread(imds.wait_for_the_end, sleep=sleep)
    assert len(looks) == 1
