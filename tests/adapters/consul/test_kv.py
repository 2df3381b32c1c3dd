"""Consul's KV and transactions through our client, the same on the fake and on a real server."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from agent.adapters.consul.kv import Block, Consistency, ConsulClient
from agent.adapters.consul.transport import TokenSource
from agent.adapters.consul.wire import Op, TxnConflict, TxnDenied, TxnDone, Verb
from agent.core.model.errors import ConsulForbiddenError, ConsulUnavailableError, PermanentError
from agent.core.model.keys import KeyValue
from agent.core.model.names import AppName
from cluster.servers.consul import consul_server
from tests.adapters.consul.real import RealConsul
from tests.adapters.consul.suite import BOTH, Server, new_app, server_of
from tests.adapters.fakes.consul import running as fake_running


@pytest.fixture(scope="module")
def shared_real() -> Iterator[RealConsul]:
    """One real server without ACLs; every test uses keys of its own."""
    with asyncio.Runner() as runner:
        context = consul_server()
        server = runner.run(context.__aenter__())
        try:
            yield RealConsul(server)
        finally:
            runner.run(context.__aexit__(None, None, None))


@pytest.fixture
def real_url(kind: str, request: pytest.FixtureRequest) -> str | None:
    """The address of the shared real server; None where the fake is asked for. Not async: it runs a loop itself."""
    return request.getfixturevalue("shared_real").url if kind == "real" else None


@pytest.fixture
async def client(real_url: str | None) -> AsyncIterator[ConsulClient]:
    """A client of a server without ACLs."""
    async with AsyncExitStack() as stack:
        url = real_url or (await stack.enter_async_context(fake_running())).url
        yield await stack.enter_async_context(ConsulClient(url))


@pytest.fixture
def app() -> AppName:
    """An app of the test's own."""
    return new_app()


@BOTH
class TestKeys:
    async def test_a_missing_key_reads_as_none(self, client: ConsulClient, app: AppName) -> None:
        """Absence is a value, not an error."""
        assert await client.get(f"{app}/active/image") is None
        assert (await client.list(f"{app}/")).entries == ()

    @pytest.mark.parametrize(
        "value", [b"cs90:1", b"", b"\xff\x00\n", b"x" * 300_000], ids=["text", "empty", "raw", "big"]
    )
    async def test_what_was_written_is_read(self, client: ConsulClient, app: AppName, value: bytes) -> None:
        """Any bytes survive, by single key, consistently, and in a listing."""
        assert await client.put(f"{app}/x", value)
        read = await client.get(f"{app}/x", consistency=Consistency.CONSISTENT)
        assert read is not None
        assert read == KeyValue(f"{app}/x", value, read.modify_index)
        listing = await client.list(f"{app}/")
        assert listing.entries == (read,)
        assert listing.index >= read.modify_index

    async def test_cas_zero_creates_once(self, client: ConsulClient, app: AppName) -> None:
        """Of two creators one wins."""
        assert await client.put(f"{app}/x", b"1", cas=0)
        assert not await client.put(f"{app}/x", b"2", cas=0)

    async def test_cas_writes_only_over_what_was_read(self, client: ConsulClient, app: AppName) -> None:
        """An index that is no longer the key's writes and deletes nothing."""
        await client.put(f"{app}/x", b"1")
        first = await client.get(f"{app}/x")
        assert first is not None
        assert await client.put(f"{app}/x", b"2", cas=first.modify_index)
        assert not await client.put(f"{app}/x", b"3", cas=first.modify_index)
        assert not await client.delete(f"{app}/x", cas=first.modify_index)
        second = await client.get(f"{app}/x")
        assert second is not None
        assert second.value == b"2"
        assert await client.delete(f"{app}/x", cas=second.modify_index)
        assert await client.get(f"{app}/x") is None

    async def test_deleting_what_is_gone_is_fine(self, client: ConsulClient, app: AppName) -> None:
        """Delete is idempotent."""
        assert await client.delete(f"{app}/x")

    async def test_an_equal_value_keeps_its_index(self, client: ConsulClient, app: AppName) -> None:
        """Writing what is there changes nothing: wishing the same thing again needs another value between."""
        await client.put(f"{app}/x", b"1")
        before = await client.get(f"{app}/x")
        await client.put(f"{app}/x", b"1")
        assert await client.get(f"{app}/x") == before

    async def test_a_listing_is_by_prefix(self, client: ConsulClient, app: AppName) -> None:
        """The app's own keys, not those of its status root."""
        await client.put(f"{app}/x", b"1")
        await client.put(f"{app}-status/nodes/web-1", b"1")
        assert [entry.key for entry in (await client.list(f"{app}/")).entries] == [f"{app}/x"]

    @pytest.mark.parametrize("key", ["a b", "a//b", "../v1/agent/leave", "a?recurse", "é", ""])
    async def test_junk_keys_never_leave(self, client: ConsulClient, key: str) -> None:
        """A key that would become another URL is refused before it is sent."""
        for call in (client.get(key), client.list(key), client.put(key, b""), client.delete(key)):
            with pytest.raises(PermanentError, match="is no key"):
                await call
        with pytest.raises(PermanentError, match="is no key"):
            await client.txn(Op(Verb.GET, key))

    async def test_a_value_over_the_limit_is_refused(self, client: ConsulClient, app: AppName) -> None:
        """512 KiB pass, one byte more is refused before it is sent."""
        assert await client.put(f"{app}/x", b"x" * 524_288)
        with pytest.raises(PermanentError, match="524289 bytes"):
            await client.put(f"{app}/x", b"x" * 524_289)


@BOTH
class TestBlocking:
    async def test_a_write_wakes_a_blocked_read(self, client: ConsulClient, app: AppName) -> None:
        """The new value arrives with the answer, long before the wait is over."""
        await client.put(f"{app}/x", b"1")
        start = await client.list(f"{app}/")
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
            blocked = tasks.create_task(client.list(f"{app}/", block=Block(start.index, 30)), name="blocked")
            await asyncio.sleep(0.05)
            assert not blocked.done()
            await client.put(f"{app}/x", b"2")
        listing = blocked.result()
        assert listing.entries[0].value == b"2"
        assert listing.index > start.index

    async def test_an_unchanged_key_answers_after_the_wait(self, client: ConsulClient, app: AppName) -> None:
        """Neither an equal value nor a write elsewhere wakes; the answer comes with the same index."""
        await client.put(f"{app}/x", b"1")
        start = await client.list(f"{app}/")
        async with asyncio.TaskGroup() as tasks:
            blocked = tasks.create_task(client.get_blocking(f"{app}/x", Block(start.index, 0.2)), name="blocked")
            await client.put(f"{app}/x", b"1")
            await client.put(f"{app}-status/nodes/web-1", b"1")
        assert blocked.result() == start

    async def test_an_index_below_one_is_asked_as_one(self, client: ConsulClient, app: AppName) -> None:
        """Index 0 would not block at all, a negative one is an error."""
        await client.put(f"{app}/x", b"1")
        async with asyncio.timeout(5):
            assert (await client.list(f"{app}/", block=Block(-3, 30))).entries


@BOTH
class TestTransactions:
    async def test_all_of_it_happens_with_new_indexes(self, client: ConsulClient, app: AppName) -> None:
        """The indexes come back, so that the next guard needs no read."""
        result = await client.txn(
            Op(Verb.CHECK_NOT_EXISTS, f"{app}/b"), Op(Verb.CAS, f"{app}/a", b"1"), Op(Verb.SET, f"{app}/b", b"2")
        )
        assert isinstance(result, TxnDone)
        a, b = await client.get(f"{app}/a"), await client.get(f"{app}/b")
        assert a is not None
        assert b is not None
        assert a.modify_index == b.modify_index
        assert [(entry.key, entry.modify_index) for entry in result.results] == [
            (a.key, a.modify_index),
            (b.key, b.modify_index),
        ]

    async def test_a_guard_that_does_not_hold_stops_all_of_it(self, client: ConsulClient, app: AppName) -> None:
        """Nothing of a refused transaction is visible; the answer says which guard it was."""
        await client.put(f"{app}/a", b"1")
        result = await client.txn(Op(Verb.SET, f"{app}/b", b"2"), Op(Verb.CAS, f"{app}/a", b"2", index=1))
        assert isinstance(result, TxnConflict)
        assert result.op_index == 1
        assert result.what
        assert await client.get(f"{app}/b") is None

    async def test_check_index_fails_on_a_missing_key(self, client: ConsulClient, app: AppName) -> None:
        """Also with 0: absence is guarded by check-not-exists or cas 0."""
        assert isinstance(await client.txn(Op(Verb.CHECK_INDEX, f"{app}/a", index=0)), TxnConflict)

    async def test_reads_in_a_transaction_carry_values(self, client: ConsulClient, app: AppName) -> None:
        """Several keys are read at one moment."""
        await client.put(f"{app}/a", b"1")
        result = await client.txn(Op(Verb.GET, f"{app}/a"))
        assert isinstance(result, TxnDone)
        assert result.results[0].value == b"1"

    async def test_deletes_are_guarded(self, client: ConsulClient, app: AppName) -> None:
        """delete-cas with a stale index conflicts; delete does not ask."""
        await client.put(f"{app}/a", b"1")
        assert isinstance(await client.txn(Op(Verb.DELETE_CAS, f"{app}/a", index=1)), TxnConflict)
        assert isinstance(await client.txn(Op(Verb.DELETE, f"{app}/a")), TxnDone)
        assert await client.get(f"{app}/a") is None

    async def test_a_tree_is_deleted_whole(self, client: ConsulClient, app: AppName) -> None:
        """Everything under the prefix, in one operation; also where there is nothing."""
        for name in ("t/1/a", "t/1/b", "t/10/a"):
            await client.put(f"{app}/{name}", b"1")
        for _ in range(2):
            assert isinstance(await client.txn(Op(Verb.DELETE_TREE, f"{app}/t/1/")), TxnDone)
            left = await client.list(f"{app}/t/")
            assert [entry.key for entry in left.entries] == [f"{app}/t/10/a"]

    async def test_64_operations_pass_and_65_are_refused_here(self, client: ConsulClient, app: AppName) -> None:
        """The oldest supported version takes no more."""
        ops = [Op(Verb.SET, f"{app}/{number}", b"1") for number in range(65)]
        assert isinstance(await client.txn(*ops[:64]), TxnDone)
        with pytest.raises(PermanentError, match="65 operations"):
            await client.txn(*ops)
        with pytest.raises(PermanentError, match="0 operations"):
            await client.txn()

    async def test_a_body_over_the_limit_is_refused_here(self, client: ConsulClient, app: AppName) -> None:
        """Base64 counts."""
        with pytest.raises(PermanentError, match="bytes"):
            await client.txn(Op(Verb.SET, f"{app}/a", b"x" * 400_000))


@BOTH
async def test_rights_are_told_apart(kind: str, app: AppName, tmp_path: Path) -> None:
    """With ACLs: missing right, unknown token, anonymous, and a token file that is replaced."""
    async with server_of(kind, acl=True) as server:
        reader = await server.grant({f"{app}/": "read", f"{app}-status/nodes/": "write"})
        async with ConsulClient(server.url, token=TokenSource(reader)) as client:
            await _check_a_node_token(client, app)
        async with ConsulClient(server.url, token=TokenSource("11111111-2222-3333-4444-555555555555")) as client:
            with pytest.raises(ConsulForbiddenError, match=r"^Consul at http://127.0.0.1:\d+: 403 '.*ACL not found"):
                await client.list(f"{app}/")
        async with ConsulClient(server.url) as client:
            with pytest.raises(ConsulForbiddenError, match="Permission denied"):
                await client.get(f"{app}/active/image")
        await _check_a_replaced_token_file(server, app, tmp_path / "token")


async def _check_a_node_token(client: ConsulClient, app: AppName) -> None:
    assert await client.get(f"{app}/active/image") is None
    assert await client.put(f"{app}-status/nodes/web-1", b"1")
    with pytest.raises(ConsulForbiddenError, match="Permission denied"):
        await client.put(f"{app}/active/image", b"cs90:1")
    with pytest.raises(ConsulForbiddenError, match="Permission denied"):
        await client.get("elsewhere/x")
    # The trap: without permission a listing looks empty.
    assert (await client.list("elsewhere/")).entries == ()
    denied = await client.txn(Op(Verb.SET, f"{app}-status/nodes/web-1", b"2"), Op(Verb.SET, f"{app}/rollout", b"{}"))
    assert isinstance(denied, TxnDenied)
    assert denied.op_index == 1
    kept = await client.get(f"{app}-status/nodes/web-1")
    assert kept is None or kept.value == b"1"


def replace_token(file: Path, token: str | None) -> None:
    """Write the token file anew, or take it away."""
    file.unlink(missing_ok=True)
    if token is not None:
        file.write_text(f"{token}\n")


async def _check_a_replaced_token_file(server: Server, app: AppName, file: Path) -> None:
    first = await server.grant({f"{app}/": "write"})
    second = await server.grant({f"{app}/": "write"})
    replace_token(file, first)
    async with ConsulClient(server.url, token=TokenSource(file=file)) as client:
        assert await client.put(f"{app}/x", b"1")
        replace_token(file, second)
        await server.revoke(first)
        assert await client.put(f"{app}/x", b"2")
        replace_token(file, None)
        assert await client.put(f"{app}/x", b"3"), "a file that is away for a moment leaves the last token in use"


@BOTH
async def test_a_server_that_died_is_named(kind: str, app: AppName) -> None:
    """The operator reads which Consul, and that nobody listens."""
    async with server_of(kind) as server, ConsulClient(server.url) as client:
        await client.put(f"{app}/x", b"1")
        await server.kill()
        with pytest.raises(ConsulUnavailableError, match=rf"^Consul at {server.url}: connection (refused|closed)"):
            await client.get(f"{app}/x")
        with pytest.raises(ConsulUnavailableError, match=rf"^Consul at {server.url}: connection refused$"):
            await client.get(f"{app}/x")
        await server.start()
        read = await client.get(f"{app}/x")
        assert read is not None
        assert read.value == b"1"
