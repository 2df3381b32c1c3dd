"""What an agent may find when it starts, and what is missing then: nobody is moved, and it says why it waits."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.model.names import SlotName
from agent.core.model.report import NodeReport
from agent.core.model.states import SlotPhase
from cluster.scenarios.host import Scenario, phase_of, slot_of
from cluster.servers.consul import ConsulServer
from cluster.servers.dockerd import DockerDaemon
from cluster.servers.host import TEST_KNOBS, Host, Plan
from cluster.servers.process import eventually
from tests.e2e.host.conftest import MakeHost, PushedImages
from tests.e2e.host.visitor import Visitor, ask

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

KNOBS = {**TEST_KNOBS, "min_healthy_time": "200ms", "bake_time": "1s", "visit_idle": "3s"}


async def test_an_agent_without_its_state_directory_moves_nobody(scenario: Scenario, test_images: PushedImages) -> None:
    """Journal and map files are gone in mid-drain: holders keep the old release, and the files come back."""
    (host,) = scenario.hosts
    holder = Visitor(host.target)
    assert await holder.ask() == "a"
    await scenario.stage(test_images.b)
    await scenario.activate(test_images.b)
    before = await host.until(lambda report: phase_of(report, test_images.a) is SlotPhase.DRAINING)
    await host.stop_agent()
    files = sorted(path.name for path in _state(host))
    for path in _state(host):
        path.unlink()
    assert await holder.ask() == "a"
    await host.start_agent()
    after = await host.until(lambda report: phase_of(report, test_images.a) is SlotPhase.DRAINING)
    assert _containers(after) == _containers(before)
    assert [await holder.ask(), await Visitor(host.target).ask()] == ["a", "b"]
    assert sorted(path.name for path in _state(host)) == files
    await host.haproxy.reload()
    assert [await holder.ask(), await Visitor(host.target).ask()] == ["a", "b"]
    await scenario.retired(test_images.a)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(lambda text: text[: len(text) // 2], "is damaged", id="truncated"),
        pytest.param(lambda text: json.dumps(json.loads(text) | {"v": 99}), "has version 99", id="of-a-newer-agent"),
    ],
)
async def test_a_journal_that_cannot_be_used_is_kept_aside(
    scenario: Scenario, test_images: PushedImages, damage: Callable[[str], str], said: str
) -> None:
    """The agent says so and goes by Consul, HAProxy and Docker; the file is not lost."""
    (host,) = scenario.hosts
    before = await host.until(lambda report: phase_of(report, test_images.a) is SlotPhase.SERVING)
    await host.stop_agent()
    journal = host.home / "state" / f"{scenario.app}.journal.json"
    damaged = damage(journal.read_text())
    journal.write_text(damaged)
    await host.start_agent()
    after = await host.until(lambda report: phase_of(report, test_images.a) is SlotPhase.SERVING and report.is_ready)
    assert _containers(after) == _containers(before)
    assert said in host.agent.log_tail(20)
    (aside,) = journal.parent.glob("*.unreadable-*")
    assert aside.read_text() == damaged
    await scenario.stage(test_images.b)
    await scenario.activate(test_images.b)


async def test_a_host_that_boots_without_consul_goes_by_its_journal_and_follows_consul_later(
    app_name: str, make_host: MakeHost, own_consul: ConsulServer, test_images: PushedImages
) -> None:
    """Not ready while it waits for Consul, then the release it last knew; the one recorded meanwhile comes after."""
    settings = {"boot_wait": "2s", "consul": {"address": own_consul.address}}
    host = await make_host(Plan(app_name, knobs=KNOBS, settings=settings))
    scenario = Scenario(app_name, own_consul, [host])
    await own_consul.put(f"{app_name}/active/image", test_images.a)
    await host.start_agent()
    await scenario.activate(test_images.a)
    own_consul.kill()
    await host.until(lambda report: "going by what was last read" in _words(report))
    await host.reboot()
    report = await host.until(lambda report: "waits for Consul, at most" in _words(report))
    assert not report.is_ready
    report = await host.until(lambda report: phase_of(report, test_images.a) is SlotPhase.SERVING and report.is_ready)
    assert "going by the journal" in _words(report)
    await own_consul.restart()
    await scenario.activate(test_images.b)
    await host.until(lambda report: not report.notes)
    assert await Visitor(host.target).ask() == "b"


async def test_a_host_that_boots_with_an_old_journal_waits_for_consul(
    app_name: str, make_host: MakeHost, own_consul: ConsulServer, test_images: PushedImages
) -> None:
    """Two deploys may have passed since: it serves nothing on an old word, and says so."""
    settings = {"boot_wait": "1s", "journal_max_age": "1s", "consul": {"address": own_consul.address}}
    host = await make_host(Plan(app_name, knobs=KNOBS, settings=settings))
    scenario = Scenario(app_name, own_consul, [host])
    await own_consul.put(f"{app_name}/active/image", test_images.a)
    await host.start_agent()
    await scenario.activate(test_images.a)
    own_consul.kill()
    await host.reboot()
    report = await host.until(lambda report: "journal_max_age" in _words(report))
    assert not report.is_ready
    assert (await ask(host.target, f"/_lb/{app_name}")).status == 503
    await own_consul.restart()
    await scenario.activate(test_images.a)
    await host.until(lambda report: report.is_ready)


async def test_a_token_that_is_revoked_changes_nothing_and_a_new_one_is_taken_up(
    app_name: str, make_host: MakeHost, acl_consul: ConsulServer, test_images: PushedImages, tmp_path: Path
) -> None:
    """Running it keeps what it knew; booting it is not ready; each time the file's new token is enough."""
    rules = f'key_prefix "{app_name}" {{ policy = "write" }} service_prefix "" {{ policy = "write" }}'
    tokens, file = [await acl_consul.create_token(rules) for _ in range(3)], tmp_path / "token"
    file.write_text(tokens[0])
    settings = {"boot_wait": "1s", "consul": {"address": acl_consul.address, "token_file": str(file)}}
    host = await make_host(Plan(app_name, knobs=KNOBS, settings=settings))
    scenario = Scenario(app_name, acl_consul, [host])
    await acl_consul.put(f"{app_name}/active/image", test_images.a)
    await host.start_agent()
    await scenario.activate(test_images.a)

    await acl_consul.revoke(tokens[0])
    # The query under way still gets an answer; only what is written after the refusal cannot be read.
    await acl_consul.put(f"{app_name}/unrelated", "ends the query")
    await host.until(lambda report: "going by what was last read" in _words(report) and _says_forbidden(report))
    await acl_consul.put(f"{app_name}/stage/image", test_images.b)
    await asyncio.sleep(1)
    report = await host.until(_says_forbidden)
    assert _says_forbidden(report)
    assert (phase_of(report, test_images.a), phase_of(report, test_images.b)) == (SlotPhase.SERVING, None)
    file.write_text(tokens[1])
    await scenario.stage(test_images.b)

    await acl_consul.revoke(tokens[1])
    (host.home / "state" / f"{app_name}.journal.json").unlink()
    await host.reboot()
    report = await host.until(lambda report: "the host is not ready" in _words(report))
    assert _says_forbidden(report)
    assert not report.is_ready
    file.write_text(tokens[2])
    await host.until(lambda report: phase_of(report, test_images.a) is SlotPhase.SERVING and report.is_ready)


async def test_containers_of_others_are_left_alone_and_our_own_strays_removed(
    scenario: Scenario, test_images: PushedImages, docker: DockerDaemon
) -> None:
    """Another tool's container on our network and one of another app stay; a release nobody wants any more goes."""
    (host,) = scenario.hosts
    await scenario.stage(test_images.b)
    await host.stop_agent()
    (host.home / "state" / f"{scenario.app}.journal.json").unlink()
    await scenario.consul.put(f"{scenario.app}/stage/image", test_images.a)
    network = f"--network={host.settings.app.network_name}"
    foreign = (await docker.cli("run", "-d", network, "--label=tool=other", test_images.b)).strip()
    other = (await docker.cli("run", "-d", network, "--label=tidegate.app=other", test_images.b)).strip()
    try:
        await host.start_agent()
        await scenario.retired(test_images.b)
        report = await host.until(lambda report: phase_of(report, test_images.a) is SlotPhase.SERVING)
        assert report.is_ready
        running = (await docker.cli("ps", "-q", "--no-trunc")).split()
        assert {foreign, other} <= set(running)
        label = f"label=tidegate.app={scenario.app}"
        assert len((await docker.cli("ps", "-aq", "--filter", label)).split()) == 1
    finally:
        await docker.cli("rm", "-f", foreign, other)


async def test_a_foreign_container_at_a_slots_address_is_named(
    scenario: Scenario, test_images: PushedImages, docker: DockerDaemon
) -> None:
    """The new release cannot be staged and the report says why; once the address is free it is staged."""
    (host,) = scenario.hosts
    app = host.settings.app
    report = await host.until(lambda report: phase_of(report, test_images.a) is SlotPhase.SERVING)
    free = next(slot for slot in SlotName if slot is not slot_of(report, test_images.a))
    at = [f"--network={app.network_name}", f"--ip={app.address(free)}"]
    foreign = (await docker.cli("run", "-d", *at, test_images.b)).strip()
    try:
        await scenario.consul.put(f"{scenario.app}/stage/image", test_images.b)
        report = await host.until(lambda report: f"address {app.address(free)} of slot {free}" in _words(report))
        assert "attempt 2" in _words(report)
        assert await Visitor(host.target).ask() == "a"
    finally:
        await docker.cli("rm", "-f", foreign)
    await scenario.stage(test_images.b)


async def test_a_report_that_may_not_be_written_is_told_and_written_later(
    app_name: str, make_host: MakeHost, acl_consul: ConsulServer, test_images: PushedImages, tmp_path: Path
) -> None:
    """Reading is allowed, writing is not: the deploy goes on, the log says what is missing."""
    reads = f'key_prefix "{app_name}" {{ policy = "read" }} service_prefix "" {{ policy = "write" }}'
    writes = f'key_prefix "{app_name}" {{ policy = "write" }} service_prefix "" {{ policy = "write" }}'
    file = tmp_path / "token"
    file.write_text(await acl_consul.create_token(reads))
    settings = {"consul": {"address": acl_consul.address, "token_file": str(file)}}
    host = await make_host(Plan(app_name, knobs=KNOBS, settings=settings))
    scenario = Scenario(app_name, acl_consul, [host])
    await acl_consul.put(f"{app_name}/active/image", test_images.a)
    await host.start_agent()
    await scenario.activate(test_images.a)
    key = f"{app_name}-status/nodes/web-1"

    async def is_told() -> bool:
        return "report.failed" in host.agent.log.read_text()

    assert await eventually(is_told, deadline_s=10)
    assert await acl_consul.get(key) is None
    file.write_text(await acl_consul.create_token(writes))
    await scenario.stage(test_images.b)

    async def is_written() -> bool:
        return test_images.b in (await acl_consul.get(key) or "")

    assert await eventually(is_written, deadline_s=30)


def _state(host: Host) -> list[Path]:
    return [path for path in (host.home / "state").iterdir() if path.is_file()]


def _containers(report: NodeReport) -> dict[SlotName, str]:
    return {slot: shown.container for slot, shown in report.slots.items()}


def _words(report: NodeReport) -> str:
    return " ".join([report.error, *report.notes, *(slot.reason for slot in report.slots.values())])


def _says_forbidden(report: NodeReport) -> bool:
    words = _words(report)
    return "Permission denied" in words or "ACL not found" in words
