"""The loop of one host over the fakes: what it does by hand-set keys, over its own death, and when something fails."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from agent.core.host.actions import Action, SetReadinessGate, Switch
from agent.core.model.errors import HaproxyUnavailableError
from agent.core.model.keys import KeySnapshot, Known, Present
from agent.core.model.names import ImageReference, SlotName
from agent.core.model.report import NodeReport
from agent.core.model.states import AdminState, ReadinessGate, SlotPhase
from agent.runtime.host.reconciler import BootPolicy
from cluster.servers.process import eventually
from tests.adapters.fakes.haproxy import FakeHaproxy
from tests.runtime.host.rig import World, agent, phase_of, slot_of

pytest_plugins = ["tests.runtime.host.fixtures"]

IDLE_S = 60.0


def gone(reference: ImageReference) -> Callable[[NodeReport], bool]:
    return lambda report: slot_of(report, reference) is None


def serves(at: World) -> set[SlotName]:
    return {name for name, slot in at.haproxy.slots.items() if slot.admin is AdminState.READY and slot.is_up}


def reading(active: ImageReference, index: int = 20) -> Known:
    return Known(KeySnapshot(active=Present(active, index)))


@pytest.mark.slow
async def test_a_deploy_by_hand_from_first_release_to_retired(at: World) -> None:
    """Activate a, stage b, activate b; a goes when it is idle, and its slot is empty and in maint."""
    a, b = at.push("a"), at.push("b")
    async with agent(at) as host:
        await host.until(lambda report: report.gate is ReadinessGate.HOLDING)
        await at.activate(a)
        await host.until_in(SlotPhase.SERVING, a)
        (old,) = serves(at)
        assert old in at.haproxy.pins
        await at.stage(b)
        report = await host.until_in(SlotPhase.STAGED, b)
        assert serves(at) == {old}
        assert report.holds == b
        assert set(at.haproxy.pins) == set(SlotName)
        await at.activate(b)
        await host.until(
            lambda report: phase_of(report, b) is SlotPhase.SERVING and report.slots[old].phase != "serving"
        )
        assert serves(at) == {old.other}
        at.haproxy.slots[old].last_request_age_s = IDLE_S
        await host.until(gone(a))
        assert (len(at.daemon.containers), set(at.haproxy.pins)) == (1, {old.other})
        assert at.haproxy.slots[old].admin is AdminState.MAINT


@pytest.mark.slow
async def test_a_way_back_while_the_old_release_is_warm_starts_no_container(at: World) -> None:
    """`active` is set back in the drain: the same container serves again, and the other one goes when empty."""
    a, b = at.push("a"), at.push("b")
    async with agent(at) as host:
        await at.activate(a)
        await host.until_in(SlotPhase.SERVING, a)
        (first,) = at.containers()
        await at.stage(b)
        await host.until_in(SlotPhase.STAGED, b)
        await at.activate(b)
        await host.until_in(SlotPhase.SERVING, b)
        await at.activate(a)
        await host.until_in(SlotPhase.SERVING, a)
        await host.until(gone(b))
        assert at.containers() == {first}


@pytest.mark.slow
async def test_an_agent_that_died_goes_on_from_its_journal_without_consul(at: World) -> None:
    """Killed in mid-drain; the next one finds Consul away, touches nothing, and keeps the time of the drain."""
    a, b = at.push("a"), at.push("b")
    async with agent(at) as host:
        await at.activate(a)
        await host.until_in(SlotPhase.SERVING, a)
        (old,) = serves(at)
        await at.activate(b)
        await host.until(lambda report: report.slots[old].reason.startswith("last request"))
        before = host.reconciler.memory
    assert before.slot(old).drain_since is not None
    await at.consul.kill()
    containers, states = at.containers(), {name: slot.admin for name, slot in at.haproxy.slots.items()}
    did: list[Action] = []

    async def note(action: Action | None) -> None:
        if action is not None:
            did.append(action)

    at.before_action = note
    async with agent(at) as host:
        report = await host.until(lambda report: any("the journal" in note for note in report.notes))
        assert phase_of(report, a) is SlotPhase.DRAINING
        assert host.reconciler.memory.slot(old).drain_since == before.slot(old).drain_since
        assert host.reconciler.memory.last_applied.active == before.last_applied.active
    assert did == []
    assert (at.containers(), {name: slot.admin for name, slot in at.haproxy.slots.items()}) == (containers, states)


@dataclass(slots=True)
class Flaky(FakeHaproxy):
    """Answers looks, and fails to switch while `fails` is above 0."""

    fails: int = 0

    async def switch(self, new: SlotName, old: SlotName, old_to: AdminState, *, restore: bool = False) -> None:
        if self.fails > 0:
            self.fails -= 1
            raise HaproxyUnavailableError("HAProxy cannot be asked: it is flaky")
        await FakeHaproxy.switch(self, new, old, old_to, restore=restore)


def _flaky(at: World, fails: int) -> Flaky:
    at.haproxy = proxy = Flaky(fails=fails)
    for slot in proxy.slots.values():
        slot.healthy = True
    return proxy


async def test_what_was_broken_off_is_not_remembered_as_done_and_is_tried_again(at: World) -> None:
    """After a switch that failed the memory holds what was seen; half a second later it is made."""
    _flaky(at, fails=1)
    a = at.push("a")
    async with agent(at) as host:
        await at.activate(a)
        report = await host.until(lambda report: report.error != "")
        slot = slot_of(report, a)
        assert slot is not None
        assert "flaky" in report.error
        assert report.slots[slot].phase is SlotPhase.CHECKING
        assert not host.reconciler.memory.slot(slot).served
        report = await host.until_in(SlotPhase.SERVING, a)
        assert report.error == ""
        assert host.reconciler.memory.slot(slot).served


async def test_a_step_that_keeps_failing_is_logged_once(at: World) -> None:
    """It is tried twice a second; the log says it once, and the report holds it."""
    proxy = _flaky(at, fails=1000)
    a = at.push("a")
    with capture_logs() as logs:
        async with agent(at) as host:
            await at.activate(a)
            await host.until(lambda report: report.error != "")
            failures = proxy.fails

            async def tried_again() -> bool:
                return proxy.fails <= failures - 2

            assert await eventually(tried_again, deadline_s=5)
    assert len([line for line in logs if line["event"] == "tick.completed" and line["error"]]) == 1


async def test_leaving_that_is_asked_for_during_a_tick_is_not_lost(at: World) -> None:
    """It is asked for while an action is under way; the tick's own memory does not undo it."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def hold(action: Action | None) -> None:
        if isinstance(action, SetReadinessGate) and action.gate is ReadinessGate.OPEN:
            entered.set()
            await go_on.wait()

    at.before_action = hold
    async with agent(at) as host, asyncio.timeout(10):
        await at.activate(at.push("a"))
        await entered.wait()
        host.reconciler.set_leaving(leaving=True)
        go_on.set()
        await host.until(lambda report: report.gate is ReadinessGate.CLOSED)
        assert host.reconciler.memory.leaving
        assert json.loads(at.journal.read_text())["memory"]["leaving"] is True
        host.reconciler.set_leaving(leaving=False)
        await host.until(lambda report: report.gate is ReadinessGate.OPEN)


def _runs(at: World) -> bool:
    return any(container.status == "running" for container in at.daemon.containers.values())


def _reboot(at: World) -> None:
    """No container runs, and HAProxy's own states (on a tmpfs) are gone."""
    for container in list(at.daemon.containers):
        at.daemon.die(container, 137)
    at.haproxy = FakeHaproxy(gate=at.haproxy.gate)
    for slot in at.haproxy.slots.values():
        slot.healthy = True


@pytest.mark.slow
async def test_a_host_that_boots_without_consul_waits_for_it_and_then_goes_by_its_journal(at: World) -> None:
    """Nothing is started before `boot_wait` is over; then what the journal says is."""
    a = at.push("a")
    async with agent(at) as host:
        await at.activate(a)
        await host.until_in(SlotPhase.SERVING, a)
    _reboot(at)
    await at.consul.kill()
    at.boot_policy = replace(at.boot_policy, boot_wait_s=0.4)
    began = time.monotonic()
    async with agent(at) as host:
        report = await host.until(lambda report: "waits for Consul" in report.wants)
        assert not _runs(at)
        assert not report.is_ready
        await host.until_in(SlotPhase.SERVING, a)
        assert time.monotonic() - began >= 0.4
        assert any("going by the journal" in note for told in host.reports for note in told.notes)


async def test_a_starting_agent_looks_only_once_consul_has_answered(at: World) -> None:
    """Its journal may be of before the last step of the process before: it would take that back for a moment."""
    a, b = at.push("a"), at.push("b")
    async with agent(at) as host:
        await at.activate(a)
        await host.until_in(SlotPhase.SERVING, a)
    await at.activate(b)
    async with agent(at) as host:
        first = await host.until(lambda _: True)
    assert b in first.wants


async def test_a_starting_agent_does_not_wait_for_a_consul_that_hangs(at: World) -> None:
    """It goes by its journal after a second: visitors are there."""
    a = at.push("a")
    async with agent(at) as host:
        await at.activate(a)
        await host.until_in(SlotPhase.SERVING, a)
    await at.consul.freeze()
    try:
        async with agent(at) as host:
            await host.until_in(SlotPhase.SERVING, a)
    finally:
        await at.consul.thaw()


async def test_a_journal_that_is_too_old_is_not_gone_by(at: World) -> None:
    """The host stays empty and says why."""
    a = at.push("a")
    async with agent(at) as host:
        await at.activate(a)
        await host.until_in(SlotPhase.SERVING, a)
    _reboot(at)
    await at.consul.kill()
    at.boot_policy = BootPolicy(boot_wait_s=0, journal_max_age_s=0)
    async with agent(at) as host:
        report = await host.until(lambda report: "journal_max_age" in report.wants)
        assert not report.is_ready
    assert not _runs(at)


async def test_the_report_of_a_tick_names_the_record_the_tick_acted_on(at: World) -> None:
    """A record that asks for nothing is said to be read at once: a rollout that waits for it loses no time."""
    record = {"v": 1, "generation": 7, "seq": 3, "phase": "successful"}
    async with agent(at, by_hand=True) as host, asyncio.timeout(10):
        host.reconciler.read(Known(KeySnapshot(rollout=Present(json.dumps(record), 20))))
        await host.reconciler.tick()
        assert (host.reports[-1].generation, host.reports[-1].seq) == (7, 3)


async def test_a_preview_changes_nothing_and_takes_no_result(at: World) -> None:
    """`/v1/plan` in the moment a pull ended: the next tick still learns of it."""
    a = at.push("a")
    async with agent(at, by_hand=True) as host, asyncio.timeout(10):
        host.reconciler.read(reading(a))
        await host.reconciler.tick()

        async def ended() -> bool:
            return not host.jobs.under_way()

        assert await eventually(ended, deadline_s=5)
        memory, slots = host.reconciler.memory, dict(at.haproxy.slots)
        view = await host.reconciler.preview()
        assert view.plan.views
        assert (host.reconciler.memory, at.haproxy.slots, at.containers()) == (memory, slots, set())
        await host.reconciler.tick()
        assert list(host.reconciler.memory.resolved.values()) == ["sha256:" + "a" * 64]


async def test_a_full_disk_does_not_stop_the_loop(at: World) -> None:
    """Without a journal the host deploys all the same; its report says what is wrong, its log says it once."""
    at.home /= "missing"
    a = at.push("a")
    with capture_logs() as logs:
        async with agent(at) as host:
            await at.activate(a)
            report = await host.until_in(SlotPhase.SERVING, a)
    assert report.error == f"journal {at.journal} cannot be written: No such file or directory"
    assert [line["error"] for line in logs if line["event"] == "tick.failed"] == [report.error]


@dataclass(slots=True)
class Deaf(FakeHaproxy):
    """Takes the gate's new state and forgets it."""

    async def set_gate(self, gate: ReadinessGate) -> None:
        """Do nothing."""


async def test_a_step_without_effect_does_not_make_the_loop_spin(at: World) -> None:
    """Done once more and not seen again, it waits half a second, as after a failure."""
    at.haproxy = Deaf()
    async with agent(at, by_hand=True) as host:
        host.reconciler.read(Known(KeySnapshot()))
        for _ in range(2):
            assert await host.reconciler.tick() <= time.monotonic()
        assert await host.reconciler.tick() > time.monotonic() + 0.3


async def test_the_log_says_what_each_slot_does_in_few_words(at: World) -> None:
    """Slot and phase, without images and reasons; each change once."""
    a = at.push("a")
    with capture_logs() as logs:
        async with agent(at) as host:
            await at.activate(a)
            await host.until_in(SlotPhase.SERVING, a)
    told = [line["now"] for line in logs if line["event"] == "phase.changed"]
    assert told[-1] == "blue serving, green empty"
    assert all(now != was for was, now in pairwise(told))
    assert not any("registry.local" in now for now in told)


async def test_each_tick_that_acted_is_one_line_of_the_log(at: World) -> None:
    """With all it did, in order; a tick that found nothing to do says nothing."""
    did: list[str] = []

    async def note(action: Action | None) -> None:
        if action is not None:
            did.append(str(action))

    at.before_action = note
    with capture_logs() as logs:
        async with agent(at) as host:
            for version in "ab":
                await at.activate(at.push(version))
                await host.until_in(SlotPhase.SERVING, at.push(version))
            for _ in range(5):
                host.reconciler.wake.call("test")
                host.shown.clear()
                await host.shown.wait()
    told = [line for line in logs if line["event"] == "tick.completed"]
    assert [action for line in told for action in line["actions"]] == did
    assert all(line["actions"] for line in told)


async def test_nothing_is_done_on_a_converged_host(at: World) -> None:
    """Ten looks at a host that is as it should be: no action, no journal write."""
    a = at.push("a")
    did: list[Action] = []

    async def note(action: Action | None) -> None:
        if action is not None:
            did.append(action)

    at.before_action = note
    async with agent(at) as host:
        await at.activate(a)
        await host.until_in(SlotPhase.SERVING, a)
        await asyncio.sleep(0.2)
        did.clear()
        written = at.journal.stat().st_mtime_ns
        for _ in range(10):
            host.reconciler.wake.call("test")
            host.shown.clear()
            await host.shown.wait()
    assert did == []
    assert at.journal.stat().st_mtime_ns == written


async def test_a_tick_that_breaks_is_made_again(at: World) -> None:
    """A defect is logged with its traceback, and the loop goes on."""
    a, broken = at.push("a"), [True]

    async def break_once(action: Action | None) -> None:
        if isinstance(action, Switch) and broken.pop():
            broken.append(False)
            raise ZeroDivisionError

    at.before_action = break_once
    with capture_logs() as logs:
        async with agent(at) as host:
            await at.activate(a)
            await host.until_in(SlotPhase.SERVING, a)
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["tick.crashed"]
