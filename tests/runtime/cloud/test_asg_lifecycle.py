"""An instance from launch to end, against a stand-in for AWS over HTTP."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import structlog
from structlog.testing import capture_logs

from agent.adapters.aws.ec2 import Ec2, Place
from agent.config import Ec2Settings
from agent.core.cloud.asg_hooks import Hook, Timeouts
from agent.core.model.errors import Ec2RefusedError, Ec2UnavailableError
from agent.core.model.names import parse_node
from agent.core.model.report import NodeReport
from agent.daemon import new_identity
from agent.runtime.cloud.asg_lifecycle import InstanceGroup, Lifecycle
from tests.adapters.fakes.ec2 import INSTANCE, ZONE, FakeEc2, running
from tests.core.cloud.reports import FAILED, GONE, READY, report

HOOKS = {Hook.LAUNCH: "serving", Hook.LEAVE: "leave"}


class Bench:
    """One instance, whose host says what the test wants."""

    def __init__(self, fake: FakeEc2, ec2: Ec2) -> None:
        self.aws, self.says, self.leaving = fake, report(), False
        self.life = Lifecycle(
            cloud=ec2,
            instance_group=InstanceGroup(Place(INSTANCE, ZONE, "us-east-1"), HOOKS, "final-project", "WebHosts"),
            timeouts=Timeouts(launch_s=600, leave_s=240),
            report=self._report,
            set_leaving=self._set_leaving,
        )

    def _report(self) -> NodeReport:
        return self.says

    def _set_leaving(self, leaving: bool) -> None:
        self.leaving = leaving

    @property
    def results(self) -> list[tuple[str, str]]:
        done = self.aws.done("CompleteLifecycleAction")
        return [(call["LifecycleHookName"], call["LifecycleActionResult"]) for call in done]

    @property
    def signals(self) -> list[str]:
        return [call["Status"] for call in self.aws.done("SignalResource")]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    structlog.reset_defaults()
    async with running(FakeEc2()) as fake, Ec2(fake.url, f"{fake.url}/") as ec2:
        yield Bench(fake, ec2)


async def test_a_host_joins_only_when_it_is_ready(bench: Bench) -> None:
    await bench.life.look()
    await bench.life.look()
    assert (bench.results, bench.signals) == ([], [])
    assert len(bench.aws.done("RecordLifecycleActionHeartbeat")) == 1
    bench.says = READY
    await bench.life.look()
    await bench.life.look()
    assert (bench.results, bench.signals) == ([("serving", "CONTINUE")], ["SUCCESS"])


async def test_a_host_that_cannot_serve_is_abandoned_with_the_reason(bench: Bench) -> None:
    bench.life.timeouts = Timeouts(0, 240)
    bench.says = FAILED
    with capture_logs() as logs:
        await bench.life.look()
    assert (bench.results, bench.signals) == ([("serving", "ABANDON")], ["FAILURE"])
    (line,) = [each for each in logs if each["event"] == "instance.hook_completed"]
    assert line["log_level"] == "error"


async def test_the_hook_may_begin_later_than_the_host_is_ready(bench: Bench) -> None:
    """Completing a hook that has not begun is refused; giving up then would hold the host back for good."""
    bench.aws.state, bench.says = "Pending", READY
    with pytest.raises(Ec2RefusedError):
        await bench.life.look()
    bench.aws.state = "Pending:Wait"
    await bench.life.look()
    assert bench.results == [("serving", "CONTINUE")] * 2
    assert bench.aws.state == "InService"
    assert bench.signals == ["SUCCESS"]


async def test_an_instance_in_service_already_signals_once_and_completes_nothing(bench: Bench) -> None:
    bench.aws.state, bench.aws.waits_for_signals, bench.says = "InService", False, READY
    await bench.life.look()
    await bench.life.look()
    assert (bench.results, len(bench.signals)) == ([], 1)


async def test_a_terminated_host_leaves_traffic_and_only_then_completes(bench: Bench) -> None:
    bench.aws.state, bench.says = "InService", READY
    await bench.life.look()
    bench.aws.state, bench.aws.target = "Terminating:Wait", "Terminated"
    await bench.life.look()
    assert bench.leaving
    assert bench.results == []
    assert len(bench.aws.done("RecordLifecycleActionHeartbeat")) == 1
    bench.says = GONE
    bench.life.timeouts = Timeouts(600, 0)
    await bench.life.look()
    await bench.life.look()
    assert bench.results == [("leave", "CONTINUE")]


async def test_a_leave_hook_that_has_not_begun_is_waited_for(bench: Bench) -> None:
    """The group takes the instance from the balancer first."""
    bench.aws.state, bench.aws.target, bench.says = "Terminating", "Terminated", GONE
    bench.life.timeouts = Timeouts(600, 0)
    with pytest.raises(Ec2RefusedError):
        await bench.life.look()
    bench.aws.state = "Terminating:Wait"
    await bench.life.look()
    assert bench.aws.state == "Terminating:Proceed"


async def test_a_spot_notice_outside_a_group_drains_and_ends(bench: Bench) -> None:
    bench.aws.in_group, bench.says = False, GONE
    when = datetime.now(UTC) + timedelta(seconds=5)
    bench.aws.spot = f'{{"action": "terminate", "time": "{when:%Y-%m-%dT%H:%M:%SZ}"}}'
    await bench.life.look()
    assert bench.leaving
    await bench.life.look()
    assert len(bench.results) == 1


async def test_a_recommendation_drains_nothing(bench: Bench) -> None:
    """If all hosts are at risk at once, leaving at once would leave nobody: the group replaces them one by one."""
    bench.aws.state, bench.aws.rebalance, bench.says = "InService", "{}", READY
    with capture_logs() as logs:
        await bench.life.look()
        await bench.life.look()
    assert not bench.leaving
    assert len([each for each in logs if "interruption" in str(each.get("error"))]) == 1


async def test_an_agent_that_starts_anew_while_leaving_finds_out(bench: Bench) -> None:
    bench.aws.state, bench.aws.target, bench.says = "Terminating:Wait", "Terminated", READY
    await bench.life.look()
    assert bench.leaving


async def test_aws_away_is_an_error_and_the_end_is_noticed_all_the_same(bench: Bench) -> None:
    bench.aws.target, bench.aws.refuse = "Terminated", (503, "ServiceUnavailable")
    with pytest.raises(Ec2UnavailableError):
        await bench.life.look()
    assert bench.leaving


async def test_outside_a_cloud_nothing_is_asked() -> None:
    identity = await new_identity(parse_node("web-1"), Ec2Settings())
    assert (identity.zone, identity.machine) == ("", "")


async def test_without_metadata_the_agent_starts_all_the_same() -> None:
    with capture_logs() as logs:
        identity = await new_identity(parse_node("web-1"), Ec2Settings(enabled=True, metadata="http://127.0.0.1:9"))
    assert (identity.zone, identity.machine) == ("", "")
    assert logs[0]["event"] == "instance.unknown"
