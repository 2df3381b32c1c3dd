"""What a boot learns of its instance, against a stand-in for the metadata service over HTTP."""

from collections.abc import AsyncIterator

import pytest

from agent.adapters.aws.ec2 import Ec2
from agent.core.model.errors import Ec2RefusedError, Ec2UnavailableError, FatalError
from agent.provision.aws.instance import find_machine, signal_stack, wait_for_termination
from tests.adapters.fakes.ec2 import ACCOUNT, HOST_NAME, INSTANCE, ZONE, FakeEc2, running
from tests.provision.aws.machines import machine

STACK_ENV = "STACK=final-project\nREGION=us-east-1\nROLE=consul\nGROUP=ConsulServers\n"


@pytest.fixture
async def fake() -> AsyncIterator[FakeEc2]:
    async with running(FakeEc2()) as serving:
        yield serving


async def test_a_machine_learns_who_it_is(fake: FakeEc2) -> None:
    async with Ec2(fake.url) as ec2:
        made = await find_machine(ec2, STACK_ENV)
    assert (made.stack, made.role, made.group) == ("final-project", "consul", "ConsulServers")
    assert (made.instance, made.zone, made.host, made.account) == (INSTANCE, ZONE, HOST_NAME, ACCOUNT)
    assert made.node == "consul-0abc"


async def test_a_stack_env_with_lines_missing_is_named(fake: FakeEc2) -> None:
    async with Ec2(fake.url) as ec2:
        with pytest.raises(FatalError, match="does not say ROLE, GROUP"):
            await find_machine(ec2, "STACK=x\nREGION=y\n")


@pytest.mark.parametrize(("target", "spot"), [("Terminated", ""), ("", "{}")])
async def test_termination_is_waited_for(fake: FakeEc2, target: str, spot: str) -> None:
    waited = list[float]()

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            fake.target, fake.spot = target, spot

    async with Ec2(fake.url) as ec2:
        await wait_for_termination(ec2, sleep=sleep)
    assert len(waited) == 2


async def test_waiting_for_termination_outlasts_a_service_that_is_away(fake: FakeEc2) -> None:
    ec2, waited = Ec2("http://127.0.0.1:9"), list[float]()
    fake.target = "Terminated"

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        ec2._metadata = fake.url

    async with ec2:
        await wait_for_termination(ec2, sleep=sleep)
    assert len(waited) == 1


async def test_the_stack_is_signalled_again_while_aws_throttles(fake: FakeEc2) -> None:
    fake.refuse, waited = (400, "Throttling"), list[float]()

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            fake.refuse = None

    async with Ec2(fake.url, f"{fake.url}/") as ec2:
        await signal_stack(ec2, machine(), sleep=sleep)
    assert waited == [0.5, 1.0, 2.0]
    signal = fake.done("SignalResource")[-1]
    assert (signal["StackName"], signal["LogicalResourceId"], signal["UniqueId"], signal["Status"]) == (
        "final-project", "ConsulServers", "i-01", "SUCCESS",
    )  # fmt: skip


async def test_a_signal_is_given_up_at_last(fake: FakeEc2) -> None:
    fake.refuse = 503, "ServiceUnavailable"

    async def sleep(_: float) -> None:
        pass

    async with Ec2(fake.url, f"{fake.url}/") as ec2:
        with pytest.raises(Ec2UnavailableError):
            await signal_stack(ec2, machine(), sleep=sleep)
    assert len(fake.done("SignalResource")) == 6


async def test_a_stack_that_waits_for_nothing_is_signalled_once(fake: FakeEc2) -> None:
    fake.waits_for_signals = False
    async with Ec2(fake.url, f"{fake.url}/") as ec2:
        with pytest.raises(Ec2RefusedError):
            await signal_stack(ec2, machine())
    assert len(fake.done("SignalResource")) == 1
