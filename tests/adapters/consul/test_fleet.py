"""How a fleet is read from Consul and a rollout written to it, the same on the fake and on a real server."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from agent.adapters.consul.fleet import FleetReading, read_fleet, read_keys, write_change
from agent.adapters.consul.kv import Consistency, ConsulClient
from agent.adapters.consul.services import AGENT_SERVICE
from agent.adapters.consul.sessions import SessionSpec, create_session, destroy_session
from agent.adapters.consul.transport import TokenSource
from agent.adapters.consul.wire import Op, TxnConflict, TxnDone, Verb
from agent.core.model import keys
from agent.core.model.errors import ConsulForbiddenError, ConsulUnavailableError, PermanentError
from agent.core.model.keys import Present
from agent.core.model.names import AppName, ImageReference, parse_node
from agent.core.model.record import Phase
from agent.core.rollout.change import Change, Guard, Write
from agent.core.rollout.commands import InProgressError, deploy
from agent.core.rollout.decision import Request
from agent.core.rollout.strategy import Strategy
from tests.adapters.consul.fleet_rig import BY, FakeFleet, record, report
from tests.adapters.consul.suite import BOTH, Server, new_app, server_of
from tests.adapters.fakes.consul import FakeConsul
from tests.adapters.fakes.consul import running as fake_running
from tests.adapters.fakes.consul_faults import Fault

WEB_1, WEB_2 = parse_node("web-1"), parse_node("web-2")


@pytest.fixture
async def fake_fleet(kind: str) -> AsyncIterator[FakeFleet]:
    """A server without ACLs."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(server_of(kind))
        yield FakeFleet(server, await stack.enter_async_context(ConsulClient(server.url)), new_app())


def deployed(reading: FleetReading, image: str) -> Change:
    return deploy(reading.keys, reading.reports.values(), Request(image=ImageReference(image)), Strategy(), BY)


@BOTH
class TestReading:
    async def test_a_fleet_is_its_keys_reports_and_live_agents(self, fake_fleet: FakeFleet) -> None:
        """Hosts by their own names; who may coordinate; agents of other apps and dead ones are no hosts of it."""
        await fake_fleet.client.put(keys.active_image(fake_fleet.app), b"shop:a")
        await fake_fleet.host("web-1")
        await fake_fleet.agent_lives("web-2", status="critical")
        await fake_fleet.agent_lives("web-3", app="till")
        await fake_fleet.agent_lives("core-1", app="", coordinator="true")
        reading = await read_fleet(fake_fleet.client, fake_fleet.app)
        assert reading.live == {"web-1": "web-1-boot"}
        assert reading.coordinators == {"core-1": "core-1-boot"}
        assert set(reading.reports) == {"web-1"}
        assert isinstance(reading.keys.active, Present)
        assert (reading.record, reading.members, reading.notes) == (None, (), ())
        assert (reading.indexes.record, reading.indexes.active) == (0, reading.keys.active.modify_index)

    async def test_members_are_those_of_the_record_s_generation(self, fake_fleet: FakeFleet) -> None:
        """What an older rollout left behind does not count."""
        await fake_fleet.host("web-1")
        await fake_fleet.client.put(keys.rollout(fake_fleet.app), record(Phase.STAGING))
        for generation, node in ((2, "web-9"), (3, "web-1")):
            text = json.dumps({"v": 1, "members": [node]}).encode()
            await fake_fleet.client.put(keys.members(fake_fleet.app, generation), text)
        reading = await read_fleet(fake_fleet.client, fake_fleet.app)
        assert reading.members == ("web-1",)
        assert reading.record is not None
        assert reading.record.phase is Phase.STAGING

    async def test_without_the_list_of_members_every_host_is_one(self, fake_fleet: FakeFleet) -> None:
        """Unknown is never empty: a barrier of nobody would be passed at once."""
        await fake_fleet.host("web-1")
        await fake_fleet.client.put(keys.node_report(fake_fleet.app, WEB_2), report(fake_fleet.app, "web-2"))
        await fake_fleet.client.put(keys.rollout(fake_fleet.app), record(Phase.SWITCHING))
        reading = await read_fleet(fake_fleet.client, fake_fleet.app)
        assert reading.members == ("web-1", "web-2")
        assert "the list of the rollout's members is gone" in reading.notes[0]
        await fake_fleet.client.put(keys.rollout(fake_fleet.app), record(Phase.SUCCESSFUL))
        assert (await read_fleet(fake_fleet.client, fake_fleet.app)).members == ()

    async def test_a_list_of_members_that_is_none_is_an_error(self, fake_fleet: FakeFleet) -> None:
        """Somebody wrote there; nothing advances until it is mended."""
        await fake_fleet.host("web-1")
        await fake_fleet.client.put(keys.rollout(fake_fleet.app), record(Phase.STAGING))
        await fake_fleet.client.put(keys.members(fake_fleet.app, 3), b'{"v": 1, "members": ["a b"]}')
        with pytest.raises(PermanentError, match="rollouts/3/members holds no list of members"):
            await read_fleet(fake_fleet.client, fake_fleet.app)

    async def test_a_record_that_cannot_be_read_does_not_hide_the_hosts(self, fake_fleet: FakeFleet) -> None:
        """A newer version's, or nothing a person should write: asked for, it says so."""
        await fake_fleet.host("web-1")
        for text, said in ((b'{"v": 2}', "version 2"), (b"{}", "unreadable"), (b"", "is empty")):
            await fake_fleet.client.put(keys.rollout(fake_fleet.app), text)
            reading = await read_fleet(fake_fleet.client, fake_fleet.app)
            assert set(reading.live) == {"web-1"}
            with pytest.raises(PermanentError, match=said):
                _ = reading.record

    async def test_what_is_no_report_is_noted_and_counts_as_none(self, fake_fleet: FakeFleet) -> None:
        """Of a newer version, of another host or app, or no report at all; of an agent without a name."""
        await fake_fleet.host("web-1")
        junk = {
            "web-2": report(fake_fleet.app, "web-2", v=2, slots="of another form"),
            "web-3": report(fake_fleet.app, "web-9"),
            "web-4": report(AppName("till"), "web-4"),
            "web-5": b"\xff",
            "a/b": report(fake_fleet.app, "a"),
        }
        for name, text in junk.items():
            await fake_fleet.client.put(f"{keys.node_reports(fake_fleet.app)}{name}", text)
        await fake_fleet.agent_lives("web-6", node="")
        reading = await read_fleet(fake_fleet.client, fake_fleet.app)
        assert (set(reading.reports), set(reading.live)) == ({"web-1"}, {"web-1"})
        notes = "\n".join(reading.notes)
        for said in (
            "web-2: its report has version 2",
            "web-3 holds a report of web-9",
            "web-4 holds a report of web-4",
        ):
            assert said in notes
        for said in ("web-5 holds no report", "a/b holds no report", "web-6-agent on"):
            assert said in notes
        assert len(reading.notes) == 6

    async def test_a_fleet_without_any_agent_is_not_known(self, fake_fleet: FakeFleet) -> None:
        """A token that may not read services sees the same: Consul does not tell the two apart."""
        await fake_fleet.client.put(keys.node_report(fake_fleet.app, WEB_1), report(fake_fleet.app, "web-1"))
        with pytest.raises(ConsulForbiddenError, match="none is registered, or the token may not read"):
            await read_fleet(fake_fleet.client, fake_fleet.app)


@BOTH
class TestRights:
    """Under default deny a listing without the right looks empty; an empty fleet would pass every barrier."""

    @pytest.fixture
    async def guarded(self, kind: str) -> AsyncIterator[tuple[Server, AppName]]:
        """A server that denies by default, with a host that reports and lives."""
        async with server_of(kind, acl=True) as server:
            yield server, new_app()

    @pytest.mark.parametrize("lacking", ["keys", "the rollout alone", "reports", "services"])
    async def test_what_may_not_be_read_is_an_error_and_never_empty(
        self, guarded: tuple[Server, AppName], lacking: str
    ) -> None:
        """Each right that is missing, one at a time."""
        server, app = guarded
        rights = {
            "keys": {keys.app_prefix(app): "read"},
            "reports": {keys.status_prefix(app): "read"},
            "services": {f"service {AGENT_SERVICE}": "write"},
        }
        given: dict[str, str] = {}
        for name, rules in rights.items():
            given |= rules if name != lacking else {}
        if lacking == "the rollout alone":
            del given[keys.app_prefix(app)]
            given |= {keys.active_image(app): "write", keys.stage_image(app): "read"}
        async with ConsulClient(server.url, token=TokenSource(await server.grant(given))) as client:
            if lacking == "the rollout alone":
                await client.put(keys.active_image(app), b"shop:a")
            with pytest.raises(ConsulForbiddenError):
                await read_fleet(client, app)


@BOTH
class TestWriting:
    async def test_a_change_is_written_whole_with_its_audit_entry(self, fake_fleet: FakeFleet) -> None:
        """And read back as it was meant."""
        await fake_fleet.host("web-1")
        before = await read_fleet(fake_fleet.client, fake_fleet.app)
        change = deployed(before, "shop:b")
        assert isinstance(await fake_fleet.write(change, before), TxnDone)
        after = await read_fleet(fake_fleet.client, fake_fleet.app)
        assert after.record == change.record
        entry = await fake_fleet.client.get(keys.history(fake_fleet.app, 1, 0))
        assert entry is not None
        assert json.loads(entry.value)["author"] == "ann"

    async def test_of_two_deploys_at_once_one_wins_and_the_other_learns_of_it(self, fake_fleet: FakeFleet) -> None:
        """Both have read the same; who lost reads again and is told who, what and why."""
        await fake_fleet.host("web-1")
        before = await read_fleet(fake_fleet.client, fake_fleet.app)
        results = [await fake_fleet.write(deployed(before, image), before) for image in ("shop:b", "shop:c")]
        assert [type(result) for result in results] == [TxnDone, TxnConflict]
        with pytest.raises(InProgressError, match=r"rollout 1 \(shop:b\) by ann \(new prices\) is pending"):
            deployed(await read_fleet(fake_fleet.client, fake_fleet.app), "shop:c")

    async def test_s6_a_deposed_coordinator_s_write_fails(self, fake_fleet: FakeFleet) -> None:
        """Its session is gone, whether or not another one has the lock already; nothing of the write is there."""
        await fake_fleet.host("web-1")
        old = await fake_fleet.locked()
        reading = await read_fleet(fake_fleet.client, fake_fleet.app)
        await destroy_session(fake_fleet.client, old.session)
        assert isinstance(await fake_fleet.write(deployed(reading, "shop:b"), reading, old), TxnConflict)
        new = await fake_fleet.locked()
        assert isinstance(await fake_fleet.write(deployed(reading, "shop:b"), reading, old), TxnConflict)
        assert (await fake_fleet.client.list(f"{fake_fleet.app}/")).entries == ()
        assert isinstance(await fake_fleet.write(deployed(reading, "shop:b"), reading, new), TxnDone)

    async def test_the_lock_is_held_by_one_session(self, fake_fleet: FakeFleet) -> None:
        """And only a session that lives can take it."""
        holder = await fake_fleet.locked()
        other = await create_session(fake_fleet.client, SessionSpec("lab"))
        lock = Op(Verb.LOCK, keys.coordinator(fake_fleet.app), b"{}", session=other)
        assert isinstance(await fake_fleet.client.txn(lock), TxnConflict)
        entry = await fake_fleet.client.get(keys.coordinator(fake_fleet.app))
        assert entry is not None
        assert entry.session == holder.session
        await destroy_session(fake_fleet.client, other)
        await destroy_session(fake_fleet.client, holder.session)
        assert isinstance(await fake_fleet.client.txn(lock), TxnConflict)

    async def test_a_check_writes_nothing_and_guards_the_rest(self, fake_fleet: FakeFleet) -> None:
        """By index, or by absence, which Consul's own check of index 0 cannot tell."""
        key, other = keys.active_image(fake_fleet.app), Write(keys.stage_image(fake_fleet.app), b"shop:b")
        absent = Write(key, guard=Guard.CHECK)
        assert isinstance(await write_change(fake_fleet.client, fake_fleet.app, (absent, other)), TxnDone)
        await fake_fleet.client.put(key, b"shop:a")
        entry = await fake_fleet.client.get(key)
        assert entry is not None
        same = Write(key, guard=Guard.CHECK, index=entry.modify_index)
        assert isinstance(await write_change(fake_fleet.client, fake_fleet.app, (absent, other)), TxnConflict)
        assert isinstance(await write_change(fake_fleet.client, fake_fleet.app, (same, other)), TxnDone)
        await fake_fleet.client.put(key, b"shop:c")
        assert isinstance(await write_change(fake_fleet.client, fake_fleet.app, (same, other)), TxnConflict)


async def test_an_answer_that_was_lost_is_found_by_reading_again() -> None:
    """It may have happened: a repeat is refused, and the record says whose it is."""
    async with fake_running() as fake, ConsulClient(fake.url) as client:
        fake_fleet = FakeFleet(fake, client, new_app())
        await fake_fleet.host("web-1")
        before = await read_fleet(client, fake_fleet.app)
        change = deployed(before, "shop:b")
        fake.fault = Fault.DROP
        with pytest.raises(ConsulUnavailableError):
            await fake_fleet.write(change, before)
        fake.fault = None
        assert isinstance(await fake_fleet.write(change, before), TxnConflict)
        assert (await read_fleet(client, fake_fleet.app)).record == change.record


async def test_a_fleet_is_read_consistently_when_asked() -> None:
    """Every read of it: one that a deposed leader answers could pass the barrier."""
    async with fake_running() as fake, ConsulClient(fake.url) as client:
        fake_fleet = FakeFleet(fake, client, new_app())
        await fake_fleet.host("web-1")
        for mode, expected in ((Consistency.CONSISTENT, True), (Consistency.DEFAULT, False)):
            fake.requests.clear()
            await read_fleet(client, fake_fleet.app, mode)
            assert {"consistent" in query for _, _, query in fake.requests} == {expected}


@pytest.mark.parametrize("hidden", ["keys", "agents"])
async def test_a_consul_that_says_it_filtered_is_believed(hidden: str) -> None:
    """Consul from 1.11 on: something was left out, so nothing is known."""
    async with fake_running() as fake, ConsulClient(fake.url) as client:
        fake_fleet = FakeFleet(fake, client, new_app())
        await fake_fleet.host("web-1")
        fake.fault = Fault.FILTERED if hidden == "keys" else Fault.FILTERED_HEALTH
        with pytest.raises(ConsulForbiddenError, match="may not read"):
            await read_fleet(client, fake_fleet.app)


async def test_keys_that_a_listing_hides_are_not_absent() -> None:
    """The listing shows nothing though single keys can be read."""
    async with fake_running() as fake, ConsulClient(fake.url) as client:
        app = new_app()
        await client.put(keys.active_image(app), b"shop:a")
        fake.fault = Fault.HIDE
        assert isinstance(fake, FakeConsul)
        with pytest.raises(ConsulUnavailableError, match="changed between two reads"):
            await read_keys(client, app)
