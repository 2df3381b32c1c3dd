"""What only a real HAProxy can show: open requests, load, reloads, old workers, files that are gone."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from agent.adapters.haproxy.runtime_api import HaproxySocket
from agent.core.model.errors import HaproxyRefusedError, HaproxyUnavailableError, PermanentError
from agent.core.model.names import SlotName
from agent.core.model.states import ReadinessGate
from cluster.servers.ports import free_port
from cluster.servers.process import eventually
from cluster.traffic.record import RequestFailedError
from cluster.traffic.websocket import open_websocket
from tests.adapters.haproxy.backend import Backend
from tests.adapters.haproxy.rig import (
    BLUE,
    BLUE_PIN,
    DRAIN,
    GREEN,
    GREEN_PIN,
    MAINT,
    PINS,
    READY,
    RealBench,
    cookie,
    get_on,
    known_good,
    real_bench,
    seen,
)

pytestmark = pytest.mark.real


@pytest_asyncio.fixture(name="bench")
async def _bench(haproxy_dir: Path) -> AsyncIterator[RealBench]:
    """Blue serves, green drains."""
    async with real_bench(haproxy_dir) as bench:
        await bench.serve_blue_drain_green()
        yield bench


async def test_open_requests_and_websockets_are_counted_and_survive_maint(bench: RealBench) -> None:
    """Drain and maint cut nothing; the age of the last request is seconds, not unknown."""
    held, talking = await bench.connect(), await bench.connect()
    try:
        await held.send("GET", "/hold", cookie(GREEN_PIN))
        head, socket = await open_websocket(talking, "/ws", cookie(GREEN_PIN))
        assert head.version == "green"
        assert await seen(bench.proxy, GREEN, open_requests=2)
        assert (await bench.observe()).servers[GREEN].last_request_age_s <= 2
        await bench.proxy.set_state(GREEN, MAINT)
        await socket.send("still here")
        assert await socket.receive() == "still here"
        bench.backends[GREEN].release.set()
        assert (await held.read_head()).status == 200
        assert await seen(bench.proxy, GREEN, open_requests=1)
    finally:
        held.close()
        talking.close()
    assert await seen(bench.proxy, GREEN, open_requests=0)


async def test_shutting_sessions_down_cuts_one_slot_only(bench: RealBench) -> None:
    """The other slot's open requests end as if nothing had been."""
    green, blue = await bench.connect(), await bench.connect()
    try:
        await blue.send("GET", "/hold", "")
        _, socket = await open_websocket(green, "/ws", cookie(GREEN_PIN))
        assert await seen(bench.proxy, BLUE, open_requests=1)
        await bench.proxy.set_state(GREEN, MAINT)
        await bench.proxy.shutdown_sessions(GREEN)
        with pytest.raises(RequestFailedError):
            await socket.receive()
        assert await seen(bench.proxy, GREEN, open_requests=0)
        bench.backends[BLUE].release.set()
        assert (await blue.read_head()).status == 200
    finally:
        green.close()
        blue.close()


async def test_switching_under_load_fails_no_request(bench: RealBench) -> None:
    """Ready before drain: for two seconds new visitors arrive while the slots change places again and again."""
    until = time.monotonic() + 2
    statuses: list[int] = []

    async def visit() -> None:
        while time.monotonic() < until:
            statuses.append((await bench.get()).status)

    async def flip() -> int:
        new, old, flips = GREEN, BLUE, 0
        while time.monotonic() < until:
            await bench.proxy.switch(new, old, DRAIN)
            new, old, flips = old, new, flips + 1
            await asyncio.sleep(0.005)
        return flips

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        flips = group.create_task(flip())
        for _ in range(8):
            group.create_task(visit())
    assert set(statuses) == {200}
    assert len(statuses) > 200
    assert flips.result() > 20


async def test_a_reload_in_mid_drain_keeps_visitors_and_shows_the_old_worker(bench: RealBench) -> None:
    """The open request ends at the old worker, which is counted until it has gone."""
    await bench.proxy.switch(GREEN, BLUE, DRAIN)
    await bench.proxy.save_state()
    held = await bench.connect()
    try:
        await held.send("GET", "/hold", cookie(BLUE_PIN))
        assert await seen(bench.proxy, BLUE, open_requests=1)
        await bench.reload()
        found = await bench.observe()
        assert (found.old_workers, found.servers[BLUE].open_requests, found.state_saved) == (1, 0, True)
        kept, new = await bench.get(fields=cookie(BLUE_PIN)), await bench.get()
        assert (kept.version, kept.pin, new.version, new.pin) == ("blue", None, "green", GREEN_PIN)
        bench.backends[BLUE].release.set()
        assert (await held.read_head()).status == 200
    finally:
        held.close()

    async def gone() -> bool:
        return (await bench.observe()).old_workers == 0

    assert await eventually(gone, deadline_s=5)


async def test_a_crash_keeps_states_through_the_file(bench: RealBench) -> None:
    """Killed and started again: the serving slot serves at once, before any check."""
    await bench.proxy.switch(GREEN, BLUE, DRAIN)
    await bench.proxy.save_state()
    before = (await bench.observe()).worker
    bench.haproxy.kill()
    with pytest.raises(HaproxyUnavailableError):
        await bench.observe()
    await bench.haproxy.start()
    answers = [await bench.get(), await bench.get(fields=cookie(BLUE_PIN))]
    assert [answer.version for answer in answers] == ["green", "blue"]
    found = await bench.observe()
    assert found.worker != before
    assert (found.servers[BLUE].admin, found.servers[GREEN].admin, found.state_saved) == (DRAIN, READY, True)


async def test_a_failed_reload_leaves_no_old_worker(bench: RealBench) -> None:
    """The worker that was to be replaced serves on."""
    before = await bench.observe()
    bench.config.write_text("nonsense\n")
    os.kill(bench.haproxy.pid, signal.SIGUSR2)

    async def refused() -> bool:
        return "Loading failure" in bench.haproxy.process.log_tail(40)

    assert await eventually(refused, deadline_s=5)

    async def counted() -> bool:
        # Unknown while the master loads itself again.
        return (await bench.observe()).old_workers == 0

    assert await eventually(counted, deadline_s=5)
    assert (await bench.observe()).worker == before.worker
    assert (await bench.get()).version == "blue"


async def test_a_changed_container_port_holds_for_the_next_tenant(bench: RealBench) -> None:
    """A slot gets the new port when it leaves maint, also through a reload; the other serves on where it is."""
    port = free_port()
    changed = HaproxySocket(bench.app.model_copy(update={"container_port": port}), bench.paths)
    moved = Backend("moved", str(bench.app.address(GREEN)), port)
    await moved.start()
    try:
        await changed.set_state(GREEN, DRAIN)
        assert (await bench.get(fields=cookie(GREEN_PIN))).version == "green"
        for state in (MAINT, DRAIN):
            await changed.set_state(GREEN, state)
        assert await known_good(changed, GREEN)
        await changed.save_state()
        await bench.reload()
        versions = [(await bench.get(fields=cookie(pin))).version for pin in (GREEN_PIN, BLUE_PIN)]
        assert versions == ["moved", "blue"]
    finally:
        await moved.close()


async def test_without_a_master_socket_old_workers_are_unknown(bench: RealBench) -> None:
    """Unknown is never none."""
    bench.haproxy.master_socket.unlink()
    assert (await bench.observe()).old_workers is None


async def test_files_that_differ_from_the_runtime_are_seen_and_mended(bench: RealBench) -> None:
    """A lost, foreign or older map file shows as not saved; setting the same again writes it."""
    await bench.proxy.set_gate(ReadinessGate.OPEN)
    for path in bench.paths.maps(bench.app.name):
        for damage in (path.unlink, lambda path=path: path.write_text("eeeeeeeeeeee blue\n")):
            damage()
            found = await bench.observe()
            assert not (found.pins_saved and found.gate_saved), path
            await bench.proxy.set_pins(PINS)
            await bench.proxy.set_gate(ReadinessGate.OPEN)
            found = await bench.observe()
            assert found.pins_saved
            assert found.gate_saved


async def test_a_runtime_that_differs_from_the_files_is_mended(bench: RealBench) -> None:
    """Surplus, doubled and wrong entries go; a pin in one map only does not count as pinned."""
    forward, backward, gate = bench.paths.maps(bench.app.name)
    await cli(
        bench,
        f"add map {forward} eeeeeeeeeeee blue;add map {forward} {GREEN_PIN} blue;del map {backward} blue;"
        f"add map {gate} other open;add map {backward} purple x",
    )
    found = await bench.observe()
    assert not found.pins_saved
    assert not found.gate_saved
    assert BLUE not in found.pins
    await bench.proxy.set_pins(PINS)
    await bench.proxy.set_gate(ReadinessGate.OPEN)
    found = await bench.observe()
    assert (found.pins, found.pins_saved, found.gate, found.gate_saved) == (PINS, True, ReadinessGate.OPEN, True)


async def test_a_state_directory_that_is_gone_is_named(bench: RealBench) -> None:
    """The runtime is left alone when the file cannot be written first."""
    for path in bench.paths.maps(bench.app.name):
        path.unlink()
    moved = HaproxySocket(bench.app, type(bench.paths)(**{**as_dict(bench.paths), "state_dir": Path("/nonexistent")}))
    with pytest.raises(PermanentError, match="cannot write /nonexistent/cs90-pin-to-slot"):
        await moved.set_pins({})
    assert (await bench.get(fields=cookie(GREEN_PIN))).version == "green"


async def test_a_foreign_haproxy_is_refused_with_its_words(bench: RealBench, tmp_path: Path) -> None:
    """A HAProxy without this app's backend is no HAProxy of ours."""
    foreign = HaproxySocket(bench.app.model_copy(update={"name": "other"}), bench.paths)
    with pytest.raises(HaproxyRefusedError, match="Can't find backend"):
        await foreign.observe()
    with pytest.raises(HaproxyRefusedError, match="No such backend"):
        await foreign.set_state(BLUE, MAINT)


async def test_a_frozen_haproxy_is_unavailable_by_the_deadline(
    bench: RealBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts and says nothing: the deadline ends the wait."""
    monkeypatch.setattr("agent.adapters.haproxy.socket.TIMEOUT_S", 0.3)
    bench.haproxy.process.pause()
    try:
        with pytest.raises(HaproxyUnavailableError, match="within"):
            await bench.observe()
    finally:
        bench.haproxy.process.resume()
    assert (await bench.observe()).servers[BLUE].is_serving


async def test_an_idle_client_is_not_cut_by_a_reload(bench: RealBench) -> None:
    """As a balancer's kept connection: its next request is answered, the connection ends after it."""
    await bench.proxy.save_state()
    connection = await bench.connect()
    try:
        assert (await get_on(connection)).status == 200
        await bench.reload()
        assert (await get_on(connection)).status == 200
    finally:
        connection.close()


async def test_writers_take_turns(bench: RealBench) -> None:
    """Changes asked for at once are all done, in some order; the last state is one of those asked for."""
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        for slot in SlotName:
            for gate in ReadinessGate:
                group.create_task(bench.proxy.set_gate(gate))
                group.create_task(bench.proxy.set_pins({slot: PINS[slot]}))
    found = await bench.observe()
    assert found.pins_saved
    assert found.gate_saved
    assert len(found.pins) == 1


def as_dict(paths: object) -> dict[str, Path]:
    return {name: getattr(paths, name) for name in ("runtime_socket", "state_dir", "state_file", "master_socket")}


async def cli(bench: RealBench, line: str) -> str:
    reader, writer = await asyncio.open_unix_connection(bench.paths.runtime_socket)
    writer.write(f"{line}\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.decode()
