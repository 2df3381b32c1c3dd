"""Whatever is written or pushed: a message that names it, visitors notice nothing, the next good input works."""

import json
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

import pytest
import pytest_asyncio

from agent.core.model.report import NodeReport
from agent.core.model.states import SlotPhase
from cluster.scenarios.host import Scenario, phase_of
from cluster.servers.consul import ConsulServer
from cluster.servers.dockerd import DockerDaemon
from cluster.servers.host import TEST_KNOBS, Plan, host
from cluster.servers.images import Images
from cluster.servers.process import eventually
from cluster.servers.registry import Login, registry
from tests.e2e.host.conftest import MakeHost, PushedImages
from tests.e2e.host.visitor import Visitor

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

KNOBS = {**TEST_KNOBS, "healthy_deadline": "3s", "min_healthy_time": "1s", "bake_time": "200ms", "visit_idle": "1s"}
HOSTILE = "\x1b[31mred\x1b[0m [bold]loud[/bold] <script>alert(1)</script>; show stat\x07\x9b2J"
RELEASE = {"image": "app:b", "release": "0" * 12, "pin": "1" * 12}
RECORD = {"v": 1, "generation": 3, "seq": 7, "phase": "staging", "target": RELEASE}
JUNK = "x" * 500_000
"""Consul takes 512 KiB in a value at most."""


@dataclass(frozen=True, slots=True)
class Bad:
    """A value for a key of the app, and what the report has to say about it."""

    key: str
    value: str
    said: str


BAD_KEYS = [
    pytest.param(Bad("stage/image", "", "stage/image"), id="empty-image"),
    pytest.param(Bad("stage/image", "Shop:B B", "stage/image"), id="no-reference"),
    pytest.param(Bad("stage/image", f"app:b{HOSTILE}", "stage/image"), id="hostile-reference"),
    pytest.param(Bad("stage/image", "app:b; disable server app/blue", "stage/image"), id="command-in-reference"),
    pytest.param(Bad("stage/image", "app:b\nset server app/blue state maint", "stage/image"), id="line-in-reference"),
    pytest.param(Bad("stage/image", JUNK, "stage/image"), id="junk-as-reference"),
    pytest.param(Bad("active/image", "", "active/image"), id="empty-active"),
    pytest.param(Bad("active/image", "../../etc/passwd", "active/image"), id="path-as-active"),
    pytest.param(Bad("rollout", "{", "rollout record"), id="no-json"),
    pytest.param(Bad("rollout", JUNK, "holds 500000 bytes"), id="junk-as-record"),
    pytest.param(Bad("rollout", json.dumps(RECORD | {"v": 2}), "version 2"), id="newer-record"),
    pytest.param(Bad("rollout", json.dumps(RECORD | {"phase": HOSTILE}), "phase"), id="unknown-phase"),
    pytest.param(
        Bad("rollout", json.dumps(RECORD | {"target": RELEASE | {"spec": {"volume": []}}}), "target.spec.volume"),
        id="unknown-field-in-spec",
    ),
    pytest.param(
        Bad("rollout", json.dumps(RECORD | {"target": RELEASE | {"spec": {"env": "A=1"}}}), "target.spec.env"),
        id="bad-type-in-spec",
    ),
    pytest.param(
        Bad("rollout", json.dumps(RECORD | {"target": RELEASE | {"image": HOSTILE}}), "target.image"),
        id="hostile-image-in-record",
    ),
]


@pytest_asyncio.fixture(scope="module", loop_scope="session", name="served")
async def _served(docker: DockerDaemon, consul: ConsulServer, test_images: PushedImages) -> AsyncIterator[Scenario]:
    """One host for all bad values; whatever they were, it deploys b in the end."""
    app = f"lab-{uuid.uuid4().hex[:8]}"
    async with host(Plan(app, knobs=KNOBS), docker, consul) as one:
        scenario = Scenario(app, consul, [one])
        await consul.put(f"{app}/active/image", test_images.a)
        await one.start_agent()
        await scenario.activate(test_images.a)
        yield scenario
        await scenario.stage(test_images.b)
        await scenario.activate(test_images.b)


@pytest.mark.parametrize("bad", BAD_KEYS)
async def test_a_bad_value_is_named_and_changes_nothing(served: Scenario, test_images: PushedImages, bad: Bad) -> None:
    """The report names key or field, shows nothing raw, and the release that serves goes on."""
    (one,) = served.hosts
    key = f"{served.app}/{bad.key}"
    before = await served.consul.get(key)
    try:
        await served.consul.put(key, bad.value)
        report = await one.until(lambda report: any(bad.said in note for note in report.notes))
        assert phase_of(report, test_images.a) is SlotPhase.SERVING
        assert report.is_ready
        assert await Visitor(one.target).ask() == "a"
        assert_harmless(report.model_dump_json(), await one.cli("status", "--local"), one.agent.log.read_text())
        assert len(max(report.notes, key=len)) < 500, "a note is as long as the junk"
    finally:
        await _put_back(served, key, before)
    await one.until(lambda report: not report.notes)


async def test_a_megabyte_of_junk_under_the_app_changes_nothing(served: Scenario, test_images: PushedImages) -> None:
    """In one answer of Consul, also under a key that nobody reads."""
    (one,) = served.hosts
    keys = [f"{served.app}/{name}" for name in ("stage/image", "rollout", "junk")]
    before = {key: await served.consul.get(key) for key in keys}
    try:
        for key in keys:
            await served.consul.put(key, JUNK)
        report = await one.until(lambda report: "holds 500000 bytes" in " ".join(report.notes))
        assert len(report.model_dump_json()) < 20_000
        assert phase_of(report, test_images.a) is SlotPhase.SERVING
        assert await Visitor(one.target).ask() == "a"
    finally:
        for key, value in before.items():
            await _put_back(served, key, value)
    await one.until(lambda report: not report.notes)


@pytest.mark.parametrize("key", ["active/image", "stage/image"])
async def test_a_deleted_key_is_no_command(served: Scenario, test_images: PushedImages, key: str) -> None:
    """The last good value is kept, and the report says so for as long as the key is missing."""
    (one,) = served.hosts
    await _put_and_read(served, "stage/image", test_images.a)
    await served.consul.delete(f"{served.app}/{key}")
    report = await one.until(lambda report: any(key in note for note in report.notes))
    assert phase_of(report, test_images.a) is SlotPhase.SERVING
    await served.consul.put(f"{served.app}/{key}", test_images.a)
    await one.until(lambda report: not report.notes)


@pytest.mark.full
@pytest.mark.timeout(180)
async def test_a_snapshot_that_is_restored_is_held_until_somebody_adopts_it(
    app_name: str, make_host: MakeHost, own_consul: ConsulServer, test_images: PushedImages
) -> None:
    """
    Consul goes back to the release before: shown, not followed; `tidegate adopt` makes it the desired state.

    Consul does not always wake a waiting query then: it is noticed within the watch's wait of a minute.
    """
    one = await make_host(Plan(app_name, knobs=KNOBS, settings={"consul": {"address": own_consul.address}}))
    scenario = Scenario(app_name, own_consul, [one])
    await own_consul.put(f"{app_name}/active/image", test_images.a)
    await one.start_agent()
    await scenario.activate(test_images.a)
    snapshot = own_consul.home / "snapshot"
    await own_consul.save(snapshot)
    await scenario.activate(test_images.b)
    await scenario.retired(test_images.a)
    await own_consul.restore(snapshot)
    report = await one.until(
        lambda report: any("active/image went back" in each for each in report.notes), deadline_s=75
    )
    assert phase_of(report, test_images.b) is SlotPhase.SERVING
    assert await Visitor(one.target).ask() == "b"
    await one.cli("adopt", "--reason", f"restored {HOSTILE}", "--yes")
    await one.until(lambda report: phase_of(report, test_images.a) is SlotPhase.SERVING and not report.notes)
    history = " ".join((await own_consul.tree(f"{app_name}-status/history/")).values())
    assert "restored" in history
    assert_harmless(history)


async def test_releases_that_are_no_good_are_refused_one_after_another(
    served: Scenario, test_images: PushedImages, images: Images
) -> None:
    """Health that flaps within min_healthy_time, another port, log lines that would write on the terminal."""
    (one,) = served.hosts
    for name, env, said in (
        ("flaps", {"FLAP_MS": "700"}, "not healthy within healthy_deadline of 3s"),
        ("elsewhere", {"PORT": "8081"}, "connection refused"),
        ("shouts", {"UNHEALTHY": "1", "SAY": HOSTILE}, "GET /health answered 500"),
    ):
        image = await images.testapp(name, env=env)
        await served.consul.put(f"{served.app}/stage/image", image)
        report = await one.until(partial(_has_failed, said=said))
        assert await Visitor(one.target).ask() == "a"
        assert_harmless(report.model_dump_json(), await one.cli("status", "--local"), one.agent.log.read_text())
    report = await one.until(lambda report: "<script>" in " ".join(_lines(report)))
    assert any("[bold]loud[/bold]" in line and "<script>" in line for line in _lines(report)), "shown as it is written"
    assert "[bold]loud[/bold]" in " ".join((await one.cli("status", "--local")).split())
    await served.consul.put(f"{served.app}/stage/image", test_images.a)
    await one.until(lambda report: phase_of(report, test_images.a) is SlotPhase.SERVING and len(_images(report)) == 1)


async def test_healthy_to_the_agent_is_not_enough(
    app_name: str, consul: ConsulServer, make_host: MakeHost, test_images: PushedImages
) -> None:
    """The agent's probe of its own path is content, HAProxy's check is not: no visitor may get it."""
    spec = {"default_spec": {"probe": {"path": "/"}}}
    one = await make_host(Plan(app_name, knobs=KNOBS, app_settings=spec))
    scenario = Scenario(app_name, consul, [one])
    await consul.put(f"{app_name}/active/image", test_images.a)
    await one.start_agent()
    await scenario.activate(test_images.a)
    await consul.put(f"{app_name}/stage/image", test_images.sick)
    report = await one.until(partial(_has_failed, said="HAProxy says"))
    assert "not healthy within healthy_deadline" in _words(report)
    assert await Visitor(one.target).ask() == "a"


async def test_a_registry_that_asks_for_a_login_gets_it_from_the_docker_config_file(
    app_name: str, consul: ConsulServer, make_host: MakeHost, docker: DockerDaemon, test_images: PushedImages
) -> None:
    """Without it the registry's words; the file is read at the next pull, no restart needed."""
    one = await make_host(Plan(app_name, knobs=KNOBS))
    scenario = Scenario(app_name, consul, [one])
    file = one.settings.docker.config_file
    await consul.put(f"{app_name}/active/image", test_images.a)
    await one.start_agent()
    await scenario.activate(test_images.a)
    async with registry(Login("ci", "correct-horse")) as private:
        image = await Images(docker, private).testapp("b")
        await consul.put(f"{app_name}/stage/image", image)
        report = await one.until(partial(_has_failed, said="no basic auth credentials"))
        assert await Visitor(one.target).ask() == "a"
        file.write_bytes((private.docker_config / "config.json").read_bytes())
        await consul.put(f"{app_name}/stage/image", test_images.a)
        await one.until(lambda report: image not in report.model_dump_json())
        await scenario.stage(image)
        await scenario.activate(image)
    assert report.is_ready


def assert_harmless(*texts: str) -> None:
    """Fail for a character that a terminal or a log would act on."""
    for text in texts:
        found = re.search(r"[^\n\t\x20-\x7e\u00a0-\uffff]", text)
        assert found is None, f"{found[0]!r} in {text[max(found.start() - 60, 0) : found.end() + 20]!r}"


async def _put_and_read(scenario: Scenario, key: str, value: str) -> None:
    """Write a key unless it has that value, and wait for the agent to have read it."""
    (one,) = scenario.hosts

    async def has_read() -> bool:
        return one.agent.log.read_text().count('"desired.read"') > before

    before = one.agent.log.read_text().count('"desired.read"')
    if await scenario.consul.get(f"{scenario.app}/{key}") != value:
        await scenario.consul.put(f"{scenario.app}/{key}", value)
        assert await eventually(has_read, deadline_s=10)


async def _put_back(scenario: Scenario, key: str, value: str | None) -> None:
    if value is None:
        await scenario.consul.delete(key)
    else:
        await scenario.consul.put(key, value)


def _has_failed(report: NodeReport, *, said: str) -> bool:
    is_over = any(slot.phase is SlotPhase.FAILED and not slot.container for slot in report.slots.values())
    return is_over and said in _words(report) and (bool(_lines(report)) or "basic auth" in said)


def _lines(report: NodeReport) -> list[str]:
    return [line for slot in report.slots.values() for line in slot.lines]


def _images(report: NodeReport) -> set[str]:
    return {slot.image for slot in report.slots.values() if slot.image}


def _words(report: NodeReport) -> str:
    return " ".join([report.error, *report.notes, *(slot.reason for slot in report.slots.values())])
