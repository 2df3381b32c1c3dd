"""One suite for the HAProxy adapter on a real HAProxy and for the fake that stands in for it elsewhere."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from agent.core.model.errors import HaproxyRefusedError, HaproxyUnavailableError
from agent.core.model.states import AdminState, ReadinessGate
from tests.adapters.haproxy.rig import (
    BLUE,
    BLUE_PIN,
    DRAIN,
    GREEN,
    GREEN_PIN,
    MAINT,
    PINS,
    READY,
    AnyHaproxy,
    Bench,
    FakeBench,
    known_good,
    real_bench,
    seen,
)


@pytest_asyncio.fixture(name="bench", params=["fake", pytest.param("real", marks=pytest.mark.real)])
async def _bench(request: pytest.FixtureRequest, haproxy_dir: Path) -> AsyncIterator[Bench]:
    if request.param == "fake":
        yield FakeBench()
        return
    async with real_bench(haproxy_dir) as bench:
        yield bench


async def admins(proxy: AnyHaproxy) -> tuple[AdminState, AdminState]:
    servers = (await proxy.observe()).servers
    return servers[BLUE].admin, servers[GREEN].admin


async def stage(bench: Bench, *slots: str) -> None:
    for slot in (BLUE, GREEN):
        if slot in slots:
            await bench.set_healthy(slot, healthy=True)
            await bench.proxy.set_state(slot, DRAIN)
            assert await known_good(bench.proxy, slot)


async def test_a_fresh_haproxy_serves_nothing_and_is_closed(bench: Bench) -> None:
    """Before the first command both slots are in maint, nothing is pinned, the gate is closed."""
    found = await bench.proxy.observe()
    assert [server.status for server in found.servers.values()] == ["MAINT", "MAINT"]
    assert await admins(bench.proxy) == (MAINT, MAINT)
    assert (found.pins, found.pins_saved, found.gate, found.gate_saved) == ({}, True, ReadinessGate.CLOSED, True)
    assert (found.old_workers, found.state_saved) == (0, False)
    assert found.servers[BLUE].open_requests == found.servers[BLUE].queued == 0


async def test_a_drained_healthy_slot_becomes_known_good(bench: Bench) -> None:
    """Checks run in drain; until the first one a slot is not known good."""
    await bench.set_healthy(GREEN, healthy=True)
    await bench.proxy.set_state(GREEN, DRAIN)
    assert await known_good(bench.proxy, GREEN)
    assert await admins(bench.proxy) == (MAINT, DRAIN)


async def test_a_slot_nobody_listens_on_is_down_with_a_reason(bench: Bench) -> None:
    """A failing check shows in status, check and detail; the administrative state stays."""
    await bench.proxy.set_state(GREEN, DRAIN)
    assert await seen(bench.proxy, GREEN, status="DOWN", check="L4CON", admin=DRAIN)
    assert (await bench.proxy.observe()).servers[GREEN].check_detail


async def test_a_stale_check_of_the_former_tenant_is_not_known_good(bench: Bench) -> None:
    """Right after maint -> drain the last result still shows; it does not count."""
    await stage(bench, GREEN)
    await bench.proxy.set_state(GREEN, MAINT)
    await bench.set_healthy(GREEN, healthy=False)
    await bench.proxy.set_state(GREEN, DRAIN)
    server = (await bench.proxy.observe()).servers[GREEN]
    assert not server.is_known_good
    with pytest.raises(HaproxyRefusedError, match="switch_failed"):
        await bench.proxy.switch(GREEN, BLUE, DRAIN)


async def test_setting_a_state_twice_changes_nothing(bench: Bench) -> None:
    """Every change can be repeated."""
    await stage(bench, GREEN)
    for state in (DRAIN, DRAIN, READY, READY, MAINT, MAINT):
        await bench.proxy.set_state(GREEN, state)
        assert await admins(bench.proxy) == (MAINT, state)


async def test_serve_makes_a_slot_fully_up(bench: Bench) -> None:
    """The first deploy: no other slot is touched."""
    await stage(bench, BLUE)
    await bench.proxy.serve(BLUE)
    server = (await bench.proxy.observe()).servers[BLUE]
    assert (server.status, server.is_serving) == ("UP", True)
    assert await admins(bench.proxy) == (READY, MAINT)


@pytest.mark.parametrize("old_to", [DRAIN, MAINT])
async def test_a_switch_gives_new_visitors_to_the_new_slot(bench: Bench, old_to: AdminState) -> None:
    """Afterwards one slot is ready, the other as asked."""
    await stage(bench, BLUE, GREEN)
    await bench.proxy.serve(BLUE)
    await bench.proxy.switch(GREEN, BLUE, old_to)
    assert await admins(bench.proxy) == (old_to, READY)
    assert (await bench.proxy.observe()).servers[GREEN].is_serving


async def test_a_switch_to_a_slot_not_known_good_sends_nothing(bench: Bench) -> None:
    """In maint, and in drain but down: refused, and the serving slot goes on."""
    await stage(bench, BLUE)
    await bench.proxy.serve(BLUE)
    with pytest.raises(HaproxyRefusedError, match=r"^switch_failed: slot green is MAINT"):
        await bench.proxy.switch(GREEN, BLUE, DRAIN)
    await bench.proxy.set_state(GREEN, DRAIN)
    assert await seen(bench.proxy, GREEN, status="DOWN")
    with pytest.raises(HaproxyRefusedError, match=r"^switch_failed: slot green is DOWN"):
        await bench.proxy.switch(GREEN, BLUE, DRAIN)
    assert await admins(bench.proxy) == (READY, DRAIN)


async def test_a_restore_does_not_wait_for_checks(bench: Bench) -> None:
    """After a restart of HAProxy what served is put back at once."""
    await bench.set_healthy(GREEN, healthy=True)
    await bench.proxy.switch(GREEN, BLUE, DRAIN, restore=True)
    found = await bench.proxy.observe()
    assert found.servers[GREEN].status == "UP"
    assert await admins(bench.proxy) == (DRAIN, READY)


async def test_a_senseless_switch_is_a_bug_of_the_caller(bench: Bench) -> None:
    """To itself, or leaving both ready."""
    with pytest.raises(ValueError, match="no switch"):
        await bench.proxy.switch(BLUE, BLUE, DRAIN)
    with pytest.raises(ValueError, match="no switch"):
        await bench.proxy.switch(BLUE, GREEN, READY)


async def test_pins_are_exactly_what_was_set_last(bench: Bench) -> None:
    """Added, repeated, replaced, swapped and removed."""
    other = "d" * 12
    swapped = {BLUE: GREEN_PIN, GREEN: BLUE_PIN}
    for pins in ({BLUE: BLUE_PIN}, PINS, PINS, {BLUE: BLUE_PIN, GREEN: type(GREEN_PIN)(other)}, PINS, swapped, {}):
        await bench.proxy.set_pins(pins)
        found = await bench.proxy.observe()
        assert (found.pins, found.pins_saved) == (pins, True)


async def test_the_gate_is_what_was_set_last(bench: Bench) -> None:
    """Each value, and each again."""
    for gate in (
        ReadinessGate.HOLDING,
        ReadinessGate.HOLDING,
        ReadinessGate.OPEN,
        ReadinessGate.CLOSED,
        ReadinessGate.OPEN,
    ):
        await bench.proxy.set_gate(gate)
        found = await bench.proxy.observe()
        assert (found.gate, found.gate_saved) == (gate, True)


async def test_states_are_saved_until_the_next_change(bench: Bench) -> None:
    """A change makes the saved file stale; saving makes it good again."""
    await stage(bench, GREEN)
    await bench.proxy.save_state()
    assert (await bench.proxy.observe()).state_saved
    await bench.proxy.serve(GREEN)
    assert not (await bench.proxy.observe()).state_saved
    await bench.proxy.save_state()
    assert (await bench.proxy.observe()).state_saved


async def test_a_reload_keeps_states_pins_and_gate(bench: Bench) -> None:
    """In mid-drain: another worker answers, and everything is as it was."""
    await stage(bench, BLUE, GREEN)
    await bench.proxy.serve(BLUE)
    await bench.proxy.set_pins(PINS)
    await bench.proxy.set_gate(ReadinessGate.OPEN)
    await bench.proxy.switch(GREEN, BLUE, DRAIN)
    await bench.proxy.save_state()
    before = await bench.proxy.observe()
    await bench.reload()
    after = await bench.proxy.observe()
    assert after.worker != before.worker
    assert await admins(bench.proxy) == (DRAIN, READY)
    assert after.servers[GREEN].is_serving
    assert (after.pins, after.pins_saved, after.gate, after.gate_saved) == (PINS, True, ReadinessGate.OPEN, True)


async def test_a_reload_without_saved_states_serves_nothing(bench: Bench) -> None:
    """Without the file both slots start in maint: the agent sees it and restores."""
    await stage(bench, BLUE)
    await bench.proxy.serve(BLUE)
    await bench.reload()
    assert await admins(bench.proxy) == (MAINT, MAINT)
    assert not (await bench.proxy.observe()).state_saved


async def test_cutting_a_slot_with_nothing_open_is_fine(bench: Bench) -> None:
    """Idempotent, in any state, and it changes no state."""
    await stage(bench, BLUE)
    before = await admins(bench.proxy)
    await bench.proxy.shutdown_sessions(BLUE)
    await bench.proxy.shutdown_sessions(BLUE)
    assert await admins(bench.proxy) == before
    assert (await bench.proxy.observe()).servers[BLUE].open_requests == 0


async def test_a_haproxy_that_is_away_is_unavailable(bench: Bench) -> None:
    """Every call says so; nothing pretends."""
    await bench.go_away()
    proxy = bench.proxy
    for call in (
        proxy.observe(),
        proxy.set_state(BLUE, DRAIN),
        proxy.serve(BLUE),
        proxy.switch(BLUE, GREEN, DRAIN),
        proxy.shutdown_sessions(BLUE),
        proxy.set_pins(PINS),
        proxy.set_gate(ReadinessGate.OPEN),
        proxy.save_state(),
    ):
        with pytest.raises(HaproxyUnavailableError):
            await call
