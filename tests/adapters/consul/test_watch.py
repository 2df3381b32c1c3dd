"""The watch on an app's keys, the same on the fake and on a real server, and its pace on a clock of its own."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.transport import TokenSource
from agent.adapters.consul.watch import watch
from agent.core.model.keys import ABSENT, Forbidden, Invalid, KeySnapshot, Known, Outcome, Present, Unknown
from agent.core.model.names import AppName
from tests.adapters.consul.suite import BOTH, hurried, new_app, server_of, watching
from tests.adapters.fakes.consul import FakeConsul
from tests.adapters.fakes.consul import running as fake_running
from tests.adapters.fakes.consul_faults import Fault

EMPTY = KeySnapshot()


@pytest.fixture
def app() -> AppName:
    """An app of the test's own."""
    return new_app()


@pytest.fixture
async def fake() -> AsyncIterator[FakeConsul]:
    """A fake to switch faults on."""
    async with fake_running() as made:
        yield made


@BOTH
async def test_a_change_is_told_and_nothing_else(kind: str, app: AppName) -> None:
    """From nothing recorded, through every key, to nothing again; equal values, reports and foreign keys are silent."""
    async with server_of(kind) as server, ConsulClient(server.url) as client, watching(client, app) as told:
        assert await told.snapshot() == EMPTY
        await client.put(f"{app}/active/image", b"cs90:1\n")
        snapshot = await told.snapshot(count=2)
        assert isinstance(snapshot.active, Present)
        assert snapshot.active.value == "cs90:1"

        await client.put(f"{app}/active/image", b"cs90:1\n")
        await client.put(f"{app}-status/nodes/web-1", b"{}")
        await client.put(f"{app}/port", b"80")
        await client.put(f"{app}/stage/image", b"cs90:2")
        snapshot = await told.snapshot(count=3)
        assert isinstance(snapshot.stage, Present)
        assert len(told.outcomes) == 3
        assert isinstance(snapshot.active, Present)
        assert snapshot.stage.modify_index > snapshot.active.modify_index

        await client.put(f"{app}/rollout", b'{"v": 1}')
        assert isinstance((await told.snapshot(count=4)).rollout, Present)
        await client.delete(f"{app}/stage/image")
        assert (await told.snapshot(count=5)).stage == ABSENT
        for key in ("active/image", "rollout", "port"):
            await client.delete(f"{app}/{key}")
        await told.hold(lambda: told.outcomes[-1] == Known(EMPTY))


@BOTH
async def test_junk_is_told_as_invalid_with_its_key(kind: str, app: AppName) -> None:
    """What an operator mistyped is neither absent nor followed, and does not hide the other keys."""
    async with server_of(kind) as server, ConsulClient(server.url) as client:
        await client.put(f"{app}/stage/image", b"cs90:2")
        await client.put(f"{app}/active/image", b"")
        await client.put(f"{app}/rollout", b"\xff")
        await client.put(f"{app}/stage/spec", b"x" * 70_000)
        async with watching(client, app) as told:
            snapshot = await told.snapshot()
            assert isinstance(snapshot.stage, Present)
            assert snapshot.active == Invalid(f"key {app}/active/image is empty")
            assert isinstance(snapshot.rollout, Invalid)
            assert isinstance(snapshot.stage_spec, Invalid)
            await client.put(f"{app}/active/image", b"two words")
            active = (await told.snapshot(count=2)).active
            assert isinstance(active, Invalid)
            assert f"{app}/active/image" in active.reason


@BOTH
async def test_a_server_that_dies_is_unknown_and_its_return_is_told(kind: str, app: AppName) -> None:
    """Unknown at once, with the reason; known again with what changed meanwhile or with the same as before."""
    async with server_of(kind) as server, ConsulClient(server.url) as client:
        await client.put(f"{app}/active/image", b"cs90:1")
        async with watching(client, app) as told:
            before = await told.snapshot()
            await server.kill()
            assert (await told.until(Unknown)).reason.startswith(f"Consul at {server.url}: ")
            await told.hold(lambda: told.outcomes[-1] == Unknown(f"Consul at {server.url}: connection refused"))
            await server.start()
            assert await told.snapshot() == before


@BOTH
async def test_a_server_that_hangs_is_unknown_after_our_own_timeout(kind: str, app: AppName) -> None:
    """A frozen agent keeps the connection open for ever: wait, its jitter and the grace bound what we believe."""
    async with server_of(kind) as server, ConsulClient(server.url) as client:
        await client.put(f"{app}/active/image", b"cs90:1")
        async with watching(client, app, hurried(wait_s=0.5, grace_s=0.5)) as told:
            before = await told.snapshot()
            await server.freeze()
            reason = (await told.until(Unknown)).reason
            assert reason == f"Consul at {server.url}: no answer within 1s"
            await server.thaw()
            assert await told.snapshot() == before


@BOTH
async def test_forbidden_is_told_apart_from_absent(kind: str, app: AppName) -> None:
    """A listing without permission looks empty; only a token that may read hears that nothing is there."""
    async with server_of(kind, acl=True) as server:
        stranger = await server.grant({"elsewhere/": "write"})
        partial = await server.grant({f"{app}/active/image": "read"})
        reader = await server.grant({f"{app}/": "read"})
        for token, key in ((stranger, "active/image"), (partial, "active/spec")):
            async with ConsulClient(server.url, token=TokenSource(token)) as client, watching(client, app) as told:
                assert (await told.until(Forbidden)).reason.startswith(f"key {app}/{key}: Consul at {server.url}: 403")
                assert not [outcome for outcome in told.outcomes if isinstance(outcome, Known)]
        async with ConsulClient(server.url, token=TokenSource(reader)) as client, watching(client, app) as told:
            assert await told.snapshot() == EMPTY
            await server.revoke(reader)
            # Only the next read is refused: let the blocked one end.
            writer = await server.grant({f"{app}/": "write"})
            async with ConsulClient(server.url, token=TokenSource(writer)) as other:
                await other.put(f"{app}/active/image", b"cs90:1")
            assert "403" in (await told.until(Forbidden)).reason


async def test_a_right_that_is_taken_away_does_not_look_like_absence(app: AppName) -> None:
    """While nothing is recorded, each empty listing is confirmed anew: 404 alone would say the same to a stranger."""
    async with fake_running(acl=True) as fake:
        token = await fake.grant({f"{app}/": "read"})
        async with (
            ConsulClient(fake.url, token=TokenSource(token)) as client,
            watching(client, app, hurried(wait_s=0.05)) as told,
        ):
            assert await told.snapshot() == EMPTY
            assert fake._tokens is not None
            fake._tokens[token] = {}
            assert f"key {app}/active/image" in (await told.until(Forbidden)).reason


@BOTH
async def test_a_restored_snapshot_is_told_as_it_is(kind: str, app: AppName) -> None:
    """The older value arrives with its older index, for the core to judge."""
    async with server_of(kind) as server, ConsulClient(server.url) as client:
        await client.put(f"{app}/active/image", b"cs90:1")
        saved = await server.snapshot()
        async with watching(client, app, hurried(wait_s=1.0)) as told:
            old = (await told.snapshot()).active
            for number in range(2, 6):
                await client.put(f"{app}/active/image", f"cs90:{number}".encode())
            await told.hold(lambda: "cs90:5" in repr(told.outcomes[-1]))
            await server.restore(saved)
            await told.hold(lambda: "cs90:1" in repr(told.outcomes[-1]))
            assert (await told.snapshot()).active == old


class TestFaults:
    """What a healthy server does not do on demand."""

    @pytest.mark.parametrize("fault", [Fault.ERROR, Fault.BUSY, Fault.DROP, Fault.JUNK, Fault.NO_INDEX, Fault.HUGE])
    async def test_no_usable_answer_is_unknown_and_passes(self, fake: FakeConsul, app: AppName, fault: Fault) -> None:
        """One Unknown for one reason, however often it is met; then what was known is told again."""
        async with ConsulClient(fake.url) as client, watching(client, app, hurried(wait_s=0.05)) as told:
            before = await told.snapshot()
            fake.fault = fault
            await told.until(Unknown)
            asked = len(fake.requests)
            async with asyncio.timeout(5):
                while len(fake.requests) < asked + 3:  # noqa: ASYNC110 - the fake sets no event
                    await asyncio.sleep(0.01)
            fake.fault = None
            assert await told.snapshot() == before
            assert [type(outcome) for outcome in told.outcomes] == [Known, Unknown, Known]

    async def test_a_filtered_answer_is_forbidden(self, fake: FakeConsul, app: AppName) -> None:
        """Newer versions say that they hid keys: nothing is concluded from the rest."""
        async with ConsulClient(fake.url) as client:
            await client.put(f"{app}/active/image", b"cs90:1")
            fake.fault = Fault.FILTERED
            async with watching(client, app) as told:
                assert f"may not read all keys under {app}/" in (await told.until(Forbidden)).reason

    async def test_a_key_that_only_a_single_read_sees_is_not_absent(self, fake: FakeConsul, app: AppName) -> None:
        """A listing that contradicts a single read is read again, and believed only when both agree."""
        async with ConsulClient(fake.url) as client:
            await client.put(f"{app}/active/image", b"cs90:1")
            fake.fault = Fault.HIDE
            async with watching(client, app) as told:
                assert f"keys under {app}/ changed between two reads" in (await told.until(Unknown)).reason
                fake.fault = None
                assert isinstance((await told.snapshot()).active, Present)
                assert not [outcome for outcome in told.outcomes if outcome == Known(EMPTY)]

    async def test_the_first_read_and_the_first_after_a_failure_do_not_block(
        self, fake: FakeConsul, app: AppName
    ) -> None:
        """State is re-read at once; only then is a change waited for, with an index of at least 1."""
        async with ConsulClient(fake.url) as client, watching(client, app, hurried(wait_s=0.05)) as told:
            await told.hold(lambda: told.contacts >= 2)
            fake.fault = Fault.ERROR
            await told.until(Unknown)
            fake.fault = None
            contacts = told.contacts
            await told.hold(lambda: told.contacts >= contacts + 2)
        reads = [query.get("index") for _, path, query in fake.requests if path == f"/v1/kv/{app}/"]
        assert reads[0] is None
        assert reads[1] == "10"
        failed = reads.index(None, 1)
        assert reads[failed - 1 : failed + 1] in (["10", None], [None, None])
        assert reads[-1] == "10"

    async def test_each_contact_is_told_though_nothing_changed(self, fake: FakeConsul, app: AppName) -> None:
        """Who keeps a journal learns that Consul confirmed it again."""
        async with ConsulClient(fake.url) as client, watching(client, app, hurried(wait_s=0.05)) as told:
            await told.hold(lambda: told.contacts >= 4)
            assert len(told.outcomes) == 1

    async def test_absence_is_confirmed_once_while_other_keys_are_there(self, fake: FakeConsul, app: AppName) -> None:
        """A converged fleet does not ask for its absent keys again and again."""
        async with ConsulClient(fake.url) as client:
            await client.put(f"{app}/active/image", b"cs90:1")
            async with watching(client, app, hurried(wait_s=0.05)) as told:
                await told.hold(lambda: told.contacts >= 4)
        singles = [path for method, path, _ in fake.requests if method == "GET" and not path.endswith("/")]
        assert len(singles) == len(set(singles)) == 4

    async def test_what_the_caller_raises_ends_the_watch(self, fake: FakeConsul, app: AppName) -> None:
        """A fault of ours is not Consul's: it is not swallowed."""

        def break_down(_outcome: Outcome) -> None:
            raise RuntimeError("broken")

        async with ConsulClient(fake.url) as client, asyncio.timeout(5):
            with pytest.raises(RuntimeError, match="broken"):
                await watch(client, app, break_down, pace=hurried())
