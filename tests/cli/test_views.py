"""The commands that look at a fleet: words for operators, JSON for programs, and what is said when little is known."""

import json
import time

import pytest
from typer.testing import CliRunner

from agent.adapters.consul.fleet_snapshot import FleetSnapshot
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.transport import TokenSource
from agent.cli.main import cli
from agent.cli.options import complete_app
from agent.cli.views.fleet import view_of
from agent.cli.views.fleet_table import console, render
from agent.core.model.record import Phase
from cluster.servers.ports import free_port
from tests.adapters.fakes.consul import FakeConsul
from tests.cli.fake_fleet import FakeFleet, fake_fleet
from tests.cli.operator import Operator, code_of
from tests.fake_hosts import first_report

pytestmark = pytest.mark.slow
QUICK = ("--bake-time", "0s", "--drain-idle", "1s")


def begun(fake_fleet: FakeFleet, op: Operator, phase: Phase, *options: str) -> None:
    """Let a rollout come to *phase* and stay there."""
    fake_fleet.hosts.stops_at = phase
    fake_fleet.coordinate()
    assert op("deploy", "registry.example/shop:b", "--detach", "--reason", "new prices", *options).exit_code == 0
    fake_fleet.until(lambda record: record.phase is phase)


def test_status_shows_the_rollout_its_waits_and_every_host(fake_fleet: FakeFleet, op: Operator) -> None:
    """Who, why, how far, how long at most, and what each host does in both slots."""
    fake_fleet.hosts.deaf = {"web-2"}
    fake_fleet.coordinate()
    assert op("deploy", "registry.example/shop:b", "--detach", "--reason", "new prices").exit_code == 0
    fake_fleet.until(lambda record: record.phase is Phase.STAGING)
    time.sleep(0.3)
    shown = op("status").stdout
    for words in (
        f"{fake_fleet.app} · rollout 1 · staging · registry.example/shop:b from shop:a",
        "by ann@laptop: new prices",
        "pending > staging > ready > switching > baking > retiring > successful",
        "2/3",
        "coordinator: core-1 (epoch 1)",
        "waiting: web-2: has not read rollout 1 yet",
        "serving shop:a",
        "staged shop:b",
        "left",
    ):
        assert words in shown, f"{words}\n{shown}"


def test_a_pipe_with_another_encoding_gets_question_marks_and_no_traceback(fake_fleet: FakeFleet, op: Operator) -> None:
    """As in a cron job whose locale is of the last century."""
    process = op.begin("status", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    shown, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (0, "")
    assert f"{fake_fleet.app} ? " in shown


def test_status_as_json_holds_the_same_and_no_spec(fake_fleet: FakeFleet, op: Operator) -> None:
    """For programs."""
    begun(fake_fleet, op, Phase.BAKING)
    told = op.json("status")
    assert (told["app"], told["rollout"]["phase"], told["rollout"]["author"]) == (
        fake_fleet.app,
        "baking",
        "ann@laptop",
    )
    assert told["rollout"]["target"]["image"].startswith("registry.example/shop:b@sha256:bbb")
    assert "spec" not in json.dumps(told)
    assert [host["node"] for host in told["hosts"]] == ["web-1", "web-2", "web-3"]
    assert told["coordinator"] == {"holder": "core-1", "epoch": 1, "able": ["core-1"], "words": "core-1 (epoch 1)"}
    assert told["progress"]["switched"] == {"done": 3, "total": 3}


def test_a_host_that_leaves_is_shown_and_holds_no_bar_up(fake_fleet: FakeFleet, op: Operator) -> None:
    """Nobody waits for it, so a bar can be full without it."""
    begun(fake_fleet, op, Phase.BAKING)
    fake_fleet.host("web-3")
    fake_fleet.leave("web-3")
    told = op.json("status")
    assert told["progress"]["switched"] == {"done": 2, "total": 2}
    assert {row["node"]: row["phase"] for row in told["hosts"]}["web-3"] == "leaving"


def test_a_foreign_edit_in_mid_rollout_is_shown_as_ignored(fake_fleet: FakeFleet, op: Operator) -> None:
    """In status and by the doctor."""
    begun(fake_fleet, op, Phase.BAKING)
    fake_fleet.put("active/image", "registry.example/shop:x")
    words = "active/image was changed to registry.example/shop:x by hand in mid-rollout: it is ignored"
    assert f"! {words}" in op("status").stdout
    assert words in op("doctor", "--fleet").stdout


def test_status_without_a_rollout_says_what_is_active(fake_fleet: FakeFleet, op: Operator) -> None:
    """And that nobody coordinates."""
    shown = op("status").stdout
    assert "no rollout is recorded · active registry.example/shop:a" in shown
    assert "no coordinator is running; the rollout will not advance" in shown
    fake_fleet.put("stage/image", "registry.example/shop:x")
    assert "stage/image registry.example/shop:x by hand" in op("status").stdout


def test_hosts_that_are_gone_or_silent_are_named(fake_fleet: FakeFleet, op: Operator) -> None:
    """By the catalog and by the report's instance; never taken for well."""
    fake_fleet.agent("web-2", app=fake_fleet.app, status="critical")
    fake_fleet.agent("web-3", app=fake_fleet.app, instance="another boot")
    fake_fleet.agent("web-4", app=fake_fleet.app)
    rows = {row["node"]: row for row in op.json("status")["hosts"]}
    assert rows["web-2"]["phase"] == "gone"
    assert rows["web-3"]["reason"].startswith("the last report is of an agent before this one")
    assert rows["web-4"]["reason"].startswith("its agent has not reported yet")
    assert [rows[node]["is_well"] for node in ("web-1", "web-2", "web-3", "web-4")] == [True, False, False, False]
    nodes = {row["node"]: row for row in op.json("nodes")}
    assert [nodes[f"web-{number}"]["report"] for number in (1, 2, 3, 4)] == [
        "current",
        "current",
        "from a previous boot of its agent",
        "missing",
    ]
    assert nodes["web-2"]["agent"] == "critical"


def test_nodes_lists_coordinators_and_what_is_left_of_hosts(fake_fleet: FakeFleet, op: Operator) -> None:
    """Who leads; a report without an agent."""
    fake_fleet.coordinate()
    fake_fleet.put(f"{fake_fleet.app}-status/nodes/old-1", first_report(fake_fleet.app, "old-1").model_dump_json())
    shown = op("nodes").stdout
    assert "coordinator (leads)" in shown
    assert "not registered" in shown
    assert "of no live agent" in shown


def test_plan_of_an_image_says_what_would_happen_where(fake_fleet: FakeFleet, op: Operator) -> None:
    """Steps per host, slots, source, times; and writes nothing."""
    before = fake_fleet.do(fake_fleet.client.list(f"{fake_fleet.app}/")).index
    done = op("plan", "registry.example/shop:b", "--canary", "1")
    assert done.exit_code == 0, done.output
    for words in (
        f"rollout 1: registry.example/shop:b from registry.example/shop:a@sha256:{'a' * 64}",
        "steps: 1 > 100% (the first waits for `promote`)",
        "pulls registry.example/shop:b, starts and checks it in green, beside blue (serving shop:a)",
        "nothing was changed",
    ):
        assert words in done.stdout, f"{words}\n{done.stdout}"
    plan = op.json("plan", "registry.example/shop:b", "--canary", "1")
    assert sorted(host["step"] for host in plan["hosts"]) == ["1", "100%", "100%"]
    assert fake_fleet.do(fake_fleet.client.list(f"{fake_fleet.app}/")).index == before
    assert fake_fleet.record is None


def test_plan_says_what_would_keep_a_deploy_from_beginning(fake_fleet: FakeFleet, op: Operator) -> None:
    """A busy slot, two sources, a change by hand, another rollout: in the words of those who would refuse."""
    busy = first_report(fake_fleet.app, "web-1")
    fake_fleet.hosts.reports["web-1"] = busy.replace(old_workers=2)
    fake_fleet.do(fake_fleet.hosts.report("web-1"))
    assert "2 old HAProxy worker(s) still serve open connections" in op("plan", "shop:b").stdout
    fake_fleet.put("stage/image", "registry.example/shop:x")
    refused = op("plan", "shop:b")
    assert refused.exit_code == 1
    assert "would be refused: registry.example/shop:x is staged by hand" in refused.stdout


def test_plan_of_what_serves_already_says_so(fake_fleet: FakeFleet, op: Operator) -> None:
    """It would end at once."""
    fake_fleet.coordinate()
    assert op("deploy", "registry.example/shop:b", "--wait", "done", *QUICK).exit_code == 0
    done = op("plan", f"registry.example/shop:b@sha256:{'b' * 64}")
    assert done.exit_code == 1
    assert "is what serves already" in done.stdout


def test_history_and_show_tell_of_every_rollout(fake_fleet: FakeFleet, op: Operator) -> None:
    """Newest first; each change with its author, how long phases took, and log lines of what failed."""
    assert op("history").stdout == "no rollout is recorded\n"
    fake_fleet.coordinate()
    assert op("deploy", "registry.example/shop:b", "--wait", "done", "--reason", "new prices", *QUICK).exit_code == 0
    fake_fleet.hosts.sick["web-2"] = "container exited with code 3"
    assert op("deploy", "registry.example/shop:c").exit_code == 3
    listed = op("history").stdout.splitlines()
    assert listed[1].startswith("#2")
    assert "aborted" in listed[1]
    assert "web-2: container exited with code 3" in listed[1]
    assert listed[2].startswith("#1")
    assert "new prices" in listed[2]
    whole = op("show").stdout
    for words in ("rollout 2 · registry.example/shop:c · aborted after ", "abort began", "KeyError: 'DATABASE_URL'"):
        assert words in whole, f"{words}\n{whole}"
    first = op.json("show", "#1")
    assert [each["phase"] for each in first["phases"]] == [
        "pending",
        "staging",
        "ready",
        "switching",
        "baking",
        "retiring",
        "successful",
    ]
    assert first["members"] == ["web-1", "web-2", "web-3"]
    assert first["entries"][0]["by"] == "ann@laptop"
    assert [each["generation"] for each in op.json("history", "--limit", "1")] == [2]
    assert "has no rollout 9" in str(op("show", "9").exception)
    assert "is no number of a rollout" in str(op("show", "last").exception)


def test_the_doctor_of_the_fleet_names_what_is_wrong(fake_fleet: FakeFleet, op: Operator) -> None:
    """Exit code 1 where something must be mended; else 0."""
    fake_fleet.coordinate()
    well = op("doctor", "--fleet")
    assert well.exit_code == 0, well.output
    for words in ("core-1 holds the lock", "3 of 3 live hosts report", "all agents are 1.2.3", "may be written"):
        assert words in well.stdout, words
    fake_fleet.agent("web-1", app=fake_fleet.app, version="1.3.0")
    fake_fleet.agent("web-2", app=fake_fleet.app, instance="another boot")
    fake_fleet.agent("web-4", app=fake_fleet.app)
    fake_fleet.put(f"{fake_fleet.app}-status/nodes/web-5", '{"v": 99, "node": "web-5"}')
    fake_fleet.put("stage/image", "registry.example/shop:x")
    ill = op("doctor", "--fleet")
    assert ill.exit_code == 1
    for words in (
        "missing: web-4",
        "stale: web-2",
        "its report has version 99",
        "1.3.0: web-1",
        "registry.example/shop:x is staged by hand",
    ):
        assert words in ill.stdout, f"{words}\n{ill.stdout}"


def test_without_consul_there_is_one_line_and_this_host_if_it_has_an_agent(op: Operator) -> None:
    """Exit code 1, no traceback."""
    nobody = f"127.0.0.1:{free_port()}"
    for command in ("status", "nodes", "history", "show"):
        done = op(command, CONSUL_HTTP_ADDR=nobody)
        assert code_of(done) == 1
        assert str(done.exception) == f"Consul at http://{nobody}: connection refused", command
    done = op("doctor", "--fleet", CONSUL_HTTP_ADDR=nobody)
    assert (done.exit_code, "connection refused" in done.stdout) == (1, True)


def test_an_app_is_found_where_there_is_only_one(fake_fleet: FakeFleet, op: Operator) -> None:
    """Otherwise it must be named, and those that are known are."""
    assert fake_fleet.app in op("status", TIDEGATE_APP="").stdout
    fake_fleet.agent("till-1", app="till")
    done = op("status", TIDEGATE_APP="")
    assert "name the app with --app or TIDEGATE_APP" in str(done.exception)
    assert f"{fake_fleet.app}, till" in str(done.exception)
    assert op("status", "--app", fake_fleet.app, TIDEGATE_APP="till").exit_code == 0


def test_a_token_that_may_not_look_is_told_so() -> None:
    """What is hidden is not taken for absent."""

    async def serve(stack: object) -> str:
        consul = FakeConsul(acl=True)
        await consul.start()
        stack.push_async_callback(consul.kill)  # type: ignore[attr-defined]
        tokens.append(await consul.grant({"shop/": "read"}))
        return consul.url

    tokens: list[str] = []
    with fake_fleet(serve, "shop") as made:  # type: ignore[arg-type]
        op = Operator(made)
        assert "Permission denied" in str(op("status").exception)
        half = op("status", CONSUL_HTTP_TOKEN=tokens[0])
        assert half.exit_code == 0, half.output
        for words in (
            "the token may not read all keys under shop-status/nodes/",
            "who coordinates is not known",
            "shows no tidegate-agent: none is registered, or the token may not read services and nodes",
        ):
            assert words in half.stdout, f"{words}\n{half.stdout}"
        refused = op("deploy", "shop:b", CONSUL_HTTP_TOKEN=tokens[0])
        assert "may not read all keys under shop-status/nodes/" in str(refused.exception)


def test_what_rests_on_all_of_a_list_is_refused_where_some_of_it_is_hidden() -> None:
    """`adopt` writes a generation above every report's, and `rollback` goes by the history."""

    async def serve(stack: object) -> str:
        consul = FakeConsul(acl=True)
        await consul.start()
        stack.push_async_callback(consul.kill)  # type: ignore[attr-defined]
        tokens.append(await consul.grant({"shop/": "read"}))
        tokens.append(await consul.grant({"shop/": "write", "shop-status/history/": "write"}))
        tokens.append(await consul.grant({"shop/": "write", "shop-status/": "write"}))
        return consul.url

    tokens: list[str] = []
    with fake_fleet(serve, "shop") as made:  # type: ignore[arg-type]
        reader, writer, operator = tokens
        made.do(_put(made, operator, "shop/active/image", b"registry.example/shop:a"))
        op = Operator(made)
        adopted = op("adopt", "--yes", "--reason", "restored", CONSUL_HTTP_TOKEN=writer)
        assert "may not read all keys under shop-status/nodes/" in str(adopted.exception)
        shown = op("history", CONSUL_HTTP_TOKEN=reader)
        assert "may not read all keys under shop-status/history/" in str(shown.exception)
        assert op("adopt", "--yes", "--reason", "restored", CONSUL_HTTP_TOKEN=operator).exit_code == 0


async def _put(made: FakeFleet, token: str, key: str, value: bytes) -> None:
    async with ConsulClient(made.url, token=TokenSource(token)) as client:
        assert await client.put(key, value)


def test_a_thousand_hosts_are_laid_out_in_no_time(fake_fleet: FakeFleet) -> None:
    """All of them, uncut; a terminal shows those that need a look first."""
    snapshot = fake_fleet.do(_large_fleet(fake_fleet, 1000))
    screen = console()
    began = time.process_time()
    view, _ = view_of(snapshot)
    with screen.capture() as captured:
        screen.print(render(view), crop=False)
    took = time.process_time() - began
    assert len(captured.get().splitlines()) > 1000
    assert took < 0.5, f"{took:.2f} s"
    with screen.capture() as captured:
        screen.print(render(view, rows_max=10))
    assert "... and 993 more hosts" in captured.get()


async def _large_fleet(fake_fleet: FakeFleet, count: int) -> FleetSnapshot:
    from dataclasses import replace

    from agent.adapters.consul.fleet_snapshot import snapshot

    seen = await snapshot(fake_fleet.client, fake_fleet.app)
    reports = {f"crowd-{number:04}": first_report(fake_fleet.app, f"crowd-{number:04}") for number in range(count)}
    live = {node: f"{node}-boot" for node in reports}
    reading = replace(seen.reading, reports=seen.reading.reports | reports, live=seen.reading.live | live)  # type: ignore[operator]
    return replace(seen, reading=reading)


def test_init_shows_the_policies_without_a_consul() -> None:
    """With --print; a name that is none is a usage error."""
    shown = CliRunner().invoke(cli, ["init", "shop", "--print"])
    assert shown.exit_code == 0, shown.output
    assert [line for line in shown.stdout.splitlines() if line.startswith("# policy ")] == [
        f"# policy tidegate-shop-{role}" for role in ("node", "coordinator", "operator", "read-only")
    ]
    assert 'key "shop/rollout" {' in shown.stdout
    assert CliRunner().invoke(cli, ["init", "Shop!", "--print"]).exit_code == 2


def test_the_shell_is_offered_the_apps_that_consul_knows(
    fake_fleet: FakeFleet, op: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing where Consul does not answer."""
    for name, value in op.env.items():
        monkeypatch.setenv(name, value)
    assert complete_app("sh") == [fake_fleet.app]
    assert complete_app("x") == []
    monkeypatch.setenv("CONSUL_HTTP_ADDR", f"127.0.0.1:{free_port()}")
    assert complete_app("") == []
