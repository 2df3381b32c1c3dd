"""
The life of a cloud instance as its agent lives it: looks every few seconds, and tells group and stack.

Whatever fails here is logged and tried again; traffic does not depend on it. An agent that starts anew in the middle
finds out again where it stands: the group says whether the instance is held back, the metadata whether it ends.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NoReturn, Protocol

import structlog

from agent.adapters.aws.ec2 import Membership, Place, TerminationNotice
from agent.core.cloud.asg_hooks import (
    CompleteHook,
    Heartbeat,
    Hook,
    InstanceState,
    Result,
    Timeouts,
    failure_of,
    next_step,
)
from agent.core.model.errors import Ec2UnavailableError, PermanentError, TransientError
from agent.core.model.report import NodeReport
from agent.pacing.clock import Clock, SystemClock

log = structlog.get_logger()
LOOK_EVERY_S = 5.0
ASK_EVERY_S = 30.0
"""How often an instance that belongs to no group asks again."""
_NOT_THROUGH = frozenset({"Pending", "Pending:Wait", "Terminating", "Terminating:Wait"})
SPOT_RESERVE_S = 10.0
"""The leave ends this long before AWS takes a spot instance away."""


class Cloud(Protocol):
    """What is asked of `agent.adapters.aws.ec2.Ec2`."""

    async def place(self) -> Place: ...  # noqa: D102 - the adapter's docstring is the contract
    async def termination_notice(self) -> TerminationNotice | None: ...  # noqa: D102 - the adapter's docstring is the contract
    async def rebalance_recommended(self) -> bool: ...  # noqa: D102 - as above
    async def membership(self, place: Place) -> Membership | None: ...  # noqa: D102 - as above
    async def complete(self, place: Place, group: str, hook: str, result: str) -> None: ...  # noqa: D102 - as above
    async def heartbeat(self, place: Place, group: str, hook: str) -> None: ...  # noqa: D102 - as above
    async def signal(self, place: Place, stack: str, resource: str, *, success: bool) -> None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """What the instance belongs to, and how its hooks are called there."""

    place: Place
    hooks: dict[Hook, str]
    stack: str = ""
    resource: str = ""
    """Logical name of the group in the stack."""


@dataclass(slots=True)
class Lifecycle:
    """Follows one instance from launch to end."""

    cloud: Cloud
    instance_group: InstanceGroup
    timeouts: Timeouts
    report: Callable[[], NodeReport | None]
    set_leaving: Callable[[bool], None]
    look_every_s: float = LOOK_EVERY_S
    clock: Clock = field(default_factory=SystemClock)
    _now: InstanceState = field(default_factory=lambda: InstanceState(None))
    _member: Membership | None = None
    _ask_again_at: float = float("-inf")
    _is_signalled: bool = False
    _warned: set[str] = field(default_factory=set)
    _done: set[Hook] = field(default_factory=set)

    async def run(self) -> NoReturn:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
            except (TransientError, PermanentError) as exc:
                self._warn(str(exc))
            await self.clock.sleep(self.look_every_s)

    async def look(self) -> None:
        """
        Look once, and tell the group what it should know.

        Raises:
            Ec2UnavailableError: metadata or AWS do not answer; look again.
            Ec2RefusedError: AWS refuses; look again.
        """
        at, report = self.clock.now(), self.report()
        failed = bool(failure_of(report))
        since = (self._now.failed_since if self._now.failed_since is not None else at) if failed else None
        self._now = replace(self._now, report=report, failed_since=since)
        await self._notice_the_end(at)
        if self._member is None and at >= self._ask_again_at:
            self._ask_again_at = at + ASK_EVERY_S
            self._member = await self.cloud.membership(self.instance_group.place)
            if self._member is not None and self._member.state.startswith("Pending"):
                self._now = replace(self._now, launching_since=at)
        await self._signal_if_it_stays(report)
        match next_step(self._now, self.clock.now(), self.timeouts):
            case CompleteHook() as step if step.hook not in self._done:
                await self._complete_hook(step)
            case Heartbeat(hook) if hook not in self._done:
                await self._heartbeat(hook)
            case _:
                pass

    async def _notice_the_end(self, at: float) -> None:
        if self._now.leaving_since is not None:
            return
        if await self.cloud.rebalance_recommended():
            self._warn("AWS calls an interruption likely; the group decides whether to replace the instance")
        notice = await self.cloud.termination_notice()
        if notice is None:
            return
        left_s = None if notice.by is None else notice.by.timestamp() - self.clock.wall() - SPOT_RESERVE_S
        by = None if left_s is None else at + max(left_s, 0.0)
        self._now = replace(self._now, leaving_since=at, leave_by=by, heartbeat_at=float("-inf"))
        log.info("instance.leaving", reason=notice.reason)
        self.set_leaving(True)

    async def _signal_if_it_stays(self, report: NodeReport | None) -> None:
        """Signal for an instance that no hook holds back, once it is ready."""
        held = self._now.launching_since is not None
        if self._is_signalled or held or self._member is None or report is None or not report.is_ready:
            return
        await self._signal(success=True)

    async def _signal(self, *, success: bool) -> None:
        if self.instance_group.stack:
            try:
                place, stack, resource = (
                    self.instance_group.place,
                    self.instance_group.stack,
                    self.instance_group.resource,
                )
                await self.cloud.signal(place, stack, resource, success=success)
            except PermanentError as exc:
                # Outside an update nobody waits for it, and CloudFormation says so.
                log.debug("instance.signal_unwanted", error=str(exc))
        self._is_signalled = True

    async def _complete_hook(self, step: CompleteHook) -> None:
        group = self._member.group if self._member is not None else ""
        if step.hook is Hook.LAUNCH and not self._is_signalled:
            await self._signal(success=step.result is Result.CONTINUE)
        try:
            await self.cloud.complete(
                self.instance_group.place, group, self.instance_group.hooks[step.hook], step.result
            )
        except PermanentError as exc:
            # Either the hook has ended by itself or there is none (spot), or it has not begun: the group takes the
            # instance from the balancer first.
            self._member = await self.cloud.membership(self.instance_group.place)
            if self._member is not None and self._member.state in _NOT_THROUGH:
                raise
            self._warn(f"{step.hook} hook: {exc}")
        self._done.add(step.hook)
        if step.hook is Hook.LAUNCH:
            self._now = replace(self._now, launching_since=None)
        if step.result is Result.ABANDON:
            log.error("instance.hook_completed", hook=str(step.hook), result=str(step.result), reason=step.reason)
        else:
            log.info("instance.hook_completed", hook=str(step.hook), result=str(step.result), reason=step.reason)

    async def _heartbeat(self, hook: Hook) -> None:
        group = self._member.group if self._member is not None else ""
        self._now = replace(self._now, heartbeat_at=self.clock.now())
        await self.cloud.heartbeat(self.instance_group.place, group, self.instance_group.hooks[hook])

    def _warn(self, what: str) -> None:
        """Log each trouble once."""
        if what not in self._warned:
            self._warned.add(what)
            log.warning("instance.warning", error=what)


async def place_of(cloud: Cloud) -> Place | None:
    """Return which instance this is; None where the metadata service does not answer."""
    try:
        return await cloud.place()
    except Ec2UnavailableError as exc:
        log.warning("instance.unknown", error=str(exc))
        return None


async def follow_instance(cloud: Cloud, lifecycle_at: Callable[[Place], Lifecycle], clock: Clock) -> NoReturn:
    """Follow the instance from launch to end, until cancelled; asks for its place until that is known."""
    while True:
        try:
            place = await cloud.place()
        except Ec2UnavailableError:
            await clock.sleep(LOOK_EVERY_S)
        else:
            await lifecycle_at(place).run()
