"""Where a real HAProxy sends visitors: by their cookie, by the states of the slots, by the gate, by the Host."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from agent.core.model.states import ReadinessGate
from tests.adapters.haproxy.rig import (
    BLUE,
    BLUE_PIN,
    DRAIN,
    GREEN,
    GREEN_PIN,
    MAINT,
    PINS,
    RealBench,
    cookie,
    get_on,
    known_good,
    real_bench,
    seen,
)

pytestmark = pytest.mark.real


@pytest_asyncio.fixture(name="bare")
async def _bare(haproxy_dir: Path) -> AsyncIterator[RealBench]:
    """HAProxy without any backend."""
    async with real_bench(haproxy_dir) as bench:
        yield bench


@pytest_asyncio.fixture(name="bench")
async def _bench(bare: RealBench) -> RealBench:
    """Blue serves, green drains; visits end after 1,800 s, a stamp is renewed after 180 s."""
    await bare.serve_blue_drain_green()
    return bare


async def test_a_new_visitor_gets_the_serving_slot_and_its_pin(bench: RealBench) -> None:
    """The cookie carries pin and time, is invisible to scripts and outlives the visit by a little only."""
    answers = [await bench.get() for _ in range(10)]
    assert {(answer.version, answer.pin) for answer in answers} == {("blue", BLUE_PIN)}
    assert re.fullmatch(
        r"TIDEGATE=b{12}\.\d{10}; Path=/; Max-Age=1981; HttpOnly; SameSite=Lax",
        answers[0].head.set_cookies[0],
    )
    assert answers[0].head.fields["cache-control"] == "private"


async def test_a_cookie_is_secure_where_the_visitor_came_by_https(bench: RealBench) -> None:
    """As the balancer in front says."""
    secure = await bench.get(fields="X-Forwarded-Proto: https\r\n")
    assert secure.head.set_cookies[0].endswith("; SameSite=Lax; Secure")
    plain = await bench.get(fields="X-Forwarded-Proto: http\r\n")
    assert plain.head.set_cookies[0].endswith("; SameSite=Lax")


async def test_what_sets_a_cookie_may_not_be_shared_by_caches(bench: RealBench) -> None:
    """Even when the app says public; a response that sets none is left as the app made it."""
    first = await bench.get("/cached")
    assert first.head.fields["cache-control"] == "private"
    again = await bench.get("/cached", cookie(BLUE_PIN))
    assert again.head.fields["cache-control"] == "public, max-age=60"


AGES = [
    (0, "green", None),
    (175, "green", None),
    (185, "green", GREEN_PIN),
    (1800, "green", GREEN_PIN),
    (1975, "green", GREEN_PIN),
    (1990, "blue", BLUE_PIN),
    (100_000, "blue", BLUE_PIN),
    (-50, "green", None),
    (-70, "blue", BLUE_PIN),
    (-100_000, "blue", BLUE_PIN),
]


async def test_the_age_of_a_stamp_decides_whether_a_visit_goes_on(bench: RealBench) -> None:
    """Young: stays, no cookie. Older: stays, stamped anew. Past the visit or from the future: a new visitor."""
    for age_s, version, pin in AGES:
        answer = await bench.get(fields=cookie(GREEN_PIN, age_s=age_s))
        assert (answer.version, answer.pin) == (version, pin), age_s


# NOW stands for a fresh stamp.
MEANINGLESS = [
    "",
    ".",
    GREEN_PIN,
    f"{GREEN_PIN}.",
    f"{GREEN_PIN}.xyz",
    f"{GREEN_PIN}.1",
    f"{GREEN_PIN}.99999999999",
    f"{GREEN_PIN}.NOW.1",
    f"{GREEN_PIN}.1.NOW",
    f"{GREEN_PIN}.17x0000000",
    f".{GREEN_PIN}.NOW",
    f"{GREEN_PIN}.-1",
    f"{GREEN_PIN}.0xNOW",
    f"{GREEN_PIN}.NOWx",
    f"x{GREEN_PIN}.NOW",
    f"{GREEN_PIN.upper()}.NOW",
    f'x"{GREEN_PIN}.NOW"',
    "dddddddddddd.NOW",
    "green.NOW",
    "%[srv_name].NOW",
    "\u00ff\u00fe.NOW",
    f"{GREEN_PIN * 340}.NOW",
    f"{GREEN_PIN}.{'9' * 4000}",
]


async def test_a_cookie_that_means_nothing_makes_a_new_visitor(bench: RealBench) -> None:
    """Malformed, unknown or huge: the serving slot and a new cookie, never an error."""
    stamp = cookie("x").strip().rpartition(".")[2]
    for value in MEANINGLESS:
        answer = await bench.get(fields=f"Cookie: TIDEGATE={value.replace('NOW', stamp)}\r\n")
        assert (answer.status, answer.version, answer.pin) == (200, "blue", BLUE_PIN), value


async def test_a_cookie_in_quotes_is_ours_too(bench: RealBench) -> None:
    """As clients of RFC 2109 send it back, with its version and path around it."""
    value = cookie(GREEN_PIN).strip().rpartition("=")[2]
    for line in (f'TIDEGATE="{value}"', f'$Version=1; TIDEGATE="{value}"; $Path="/"'):
        answer = await bench.get(fields=f"Cookie: {line}\r\n")
        assert (answer.version, answer.pin) == ("green", None), line


async def test_of_several_cookies_the_last_counts(bench: RealBench) -> None:
    """Browsers send the cookie of the longest path first, so ours, of path /, comes last."""
    good = cookie(GREEN_PIN).strip().removeprefix("Cookie: ")
    for line in (f"TIDEGATE=junk; {good}", f"a=b; TIDEGATE=x.1; {good}; c=d", f"XTIDEGATE=1; {good}"):
        answer = await bench.get(fields=f"Cookie: {line}\r\n")
        assert (answer.version, answer.pin) == ("green", None), line
    for last in ("TIDEGATE=junk", f"{good}x", f"{good}.1", "TIDEGATE="):
        answer = await bench.get(fields=f"Cookie: {good}; {last}\r\n")
        assert (answer.version, answer.pin) == ("blue", BLUE_PIN), last


async def test_visitors_of_a_slot_stay_in_drain_and_move_at_maint(bench: RealBench) -> None:
    """Moved visitors get the cookie of where they are now, and stay there."""
    assert (await bench.get(fields=cookie(GREEN_PIN))).version == "green"
    await bench.proxy.set_state(GREEN, MAINT)
    moved = await bench.get(fields=cookie(GREEN_PIN))
    assert (moved.version, moved.pin) == ("blue", BLUE_PIN)


async def test_visitors_of_a_dead_container_move_within_two_retries(bench: RealBench) -> None:
    """Also before HAProxy's checks have noticed; it waits 0.5 s before each where only one slot is ready."""
    await bench.set_healthy(GREEN, healthy=False)
    async with asyncio.timeout(1.5):
        moved = await bench.get(fields=cookie(GREEN_PIN))
    assert (moved.version, moved.pin) == ("blue", BLUE_PIN)
    assert await seen(bench.proxy, GREEN, status="DOWN", admin=DRAIN)
    assert (await bench.get(fields=cookie(GREEN_PIN))).pin == BLUE_PIN


async def test_a_slot_without_a_pin_stamps_nobody(bench: RealBench) -> None:
    """No cookie is better than an empty one."""
    await bench.proxy.set_pins({GREEN: GREEN_PIN})
    answer = await bench.get(fields=cookie(BLUE_PIN))
    assert (answer.version, answer.head.set_cookies) == ("blue", ())


async def test_a_kept_connection_changes_release_with_its_next_request(bench: RealBench) -> None:
    """Routing is by request: a connection (a balancer's, of many visitors) pins nobody."""
    connection = await bench.connect()
    try:
        assert (await get_on(connection)).version == "blue"
        await bench.proxy.switch(GREEN, BLUE, DRAIN)
        assert (await get_on(connection)).version == "green"
        assert (await get_on(connection, fields=cookie(BLUE_PIN))).version == "blue"
    finally:
        connection.close()


async def test_a_rollback_moves_only_visitors_of_what_is_taken_back(bench: RealBench) -> None:
    """Switch to green, back to blue with green in maint."""
    await bench.proxy.switch(GREEN, BLUE, DRAIN)
    await bench.proxy.switch(BLUE, GREEN, MAINT)
    kept, moved = await bench.get(fields=cookie(BLUE_PIN)), await bench.get(fields=cookie(GREEN_PIN))
    assert (kept.version, kept.pin) == ("blue", None)
    assert (moved.version, moved.pin) == ("blue", BLUE_PIN)


async def test_the_gate_before_anything_serves(bare: RealBench) -> None:
    """Closed and open: 503 to balancers. Holding: ready, and the holding page for people, not to be stored."""
    for gate, ready, body in (
        (None, 503, b"503"),
        (ReadinessGate.OPEN, 503, b"503"),
        (ReadinessGate.CLOSED, 503, b"503"),
    ):
        if gate is not None:
            await bare.proxy.set_gate(gate)
        assert (await bare.get("/_lb/cs90")).status == ready
        page = await bare.get()
        assert page.status == 503
        assert body in page.body
        assert b"This host is ready" not in page.body
    await bare.proxy.set_gate(ReadinessGate.HOLDING)
    assert (await bare.get("/_lb/cs90")).status == 200
    page = await bare.get()
    assert (page.status, page.head.fields["retry-after"], page.head.fields["cache-control"]) == (503, "5", "no-store")
    assert page.head.fields["content-type"] == "text/html; charset=utf-8"
    assert b"This host is ready" in page.body
    assert (await bare.get("/_lb/alive")).status == 200


async def test_the_gate_while_a_slot_serves(bench: RealBench) -> None:
    """Balancers hear of a closed gate; visitors who still come are served, whatever the gate."""
    for gate, ready in ((ReadinessGate.OPEN, 200), (ReadinessGate.HOLDING, 200), (ReadinessGate.CLOSED, 503)):
        await bench.proxy.set_gate(gate)
        assert (await bench.get("/_lb/cs90")).status == ready
        assert (await bench.get()).version == "blue"
    assert (await bench.get("/_lb/alive")).status == 200
    await bench.proxy.set_gate(ReadinessGate.OPEN)
    assert (await bench.get("/_lb/cs90x")).version == "blue"


async def test_a_host_with_only_a_draining_slot_is_not_ready(bench: RealBench) -> None:
    """Pinned visitors are still served."""
    await bench.proxy.set_gate(ReadinessGate.OPEN)
    await bench.proxy.set_state(BLUE, MAINT)
    assert (await bench.get("/_lb/cs90")).status == 503
    assert (await bench.get(fields=cookie(GREEN_PIN))).version == "green"


async def test_only_named_hosts_reach_the_app(haproxy_dir: Path) -> None:
    """Others get 404; balancers ask by address and are answered all the same."""
    async with real_bench(haproxy_dir, hosts=("Shop.example", "www.shop.example")) as bench:
        await bench.stage(BLUE)
        await bench.proxy.set_pins(PINS)
        await bench.proxy.serve(BLUE)
        await bench.proxy.set_gate(ReadinessGate.OPEN)
        for host, status in (("shop.example", 200), ("WWW.shop.example:80", 200), ("other.example", 404)):
            connection = await bench.connect()
            connection.writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert (await connection.read_head()).status == status, host
            connection.close()
        assert (await bench.get()).status == 404
        assert (await bench.get("/_lb/cs90")).status == 200


async def test_a_failing_health_path_takes_a_slot_down(bench: RealBench) -> None:
    """HAProxy asks the app's path and expects 200; the reason is there to read."""
    bench.backends[GREEN].healthy = False
    assert await seen(bench.proxy, GREEN, status="DOWN", check="L7STS")
    assert "500" in (await bench.observe()).servers[GREEN].check_detail
    bench.backends[GREEN].healthy = True
    assert await known_good(bench.proxy, GREEN)
