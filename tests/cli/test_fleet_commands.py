"""The commands that move a fleet, as an operator meets them: over a Consul with hosts that obey and a coordinator."""

import json
import re
import signal
import threading
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web

from agent.core.model.names import parse_app
from agent.core.model.record import Phase
from tests.adapters.consul.suite import BOTH
from tests.adapters.fakes.consul import FakeConsul
from tests.cli.fake_fleet import FakeFleet, fake_fleet
from tests.cli.operator import Operator, code_of

pytestmark = pytest.mark.slow
QUICK = ("--bake-time", "0s", "--drain-idle", "1s")


@BOTH
def test_a_deploy_is_followed_until_every_host_has_switched(kind: str, fake_fleet: FakeFleet, op: Operator) -> None:
    """A line per change with its time, the spec it took, and how to take it back; exit code 0."""
    fake_fleet.coordinate()
    done = op("deploy", "registry.example/shop:b", "--reason", "new prices")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines[:-1]), done.stdout
    for words in (
        "rollout 1: registry.example/shop:b by ann@laptop; spec: empty",
        "pending: deploy, asked for",
        "taken up by core-1",
        "staging: staging began, on 3 host(s)",
        "ready: all hosts are staged, 3 host(s) staged",
        "switching: every host may switch, ",
        "baking: all hosts have switched, ",
        "web-1: ",
    ):
        assert words in done.stdout, words
    assert lines[-1].startswith("rollout 1: every host has switched; it is baking, at most ")
    assert lines[-1].endswith("`tidegate rollback` takes it back")
    record = fake_fleet.record
    assert record is not None
    assert (record.author, record.reason) == ("ann@laptop", "new prices")


def test_with_wait_done_it_ends_when_the_old_release_is_gone(fake_fleet: FakeFleet, op: Operator) -> None:
    """Successful; as JSON the outcome alone is on standard output."""
    fake_fleet.coordinate()
    done = op("deploy", "registry.example/shop:b", "--wait", "done", *QUICK, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["generation"], told["phase"], told["code"], told["outcome"]) == (1, "successful", 0, "done")
    assert "staging" in done.stderr
    assert fake_fleet.value("active/image") == f"registry.example/shop:b@sha256:{'b' * 64}"


def test_a_reason_that_is_no_text_is_cleaned_and_takes_back_the_rollout_all_the_same(
    fake_fleet: FakeFleet, op: Operator
) -> None:
    """As a shell passes on a byte that is no UTF-8, and a line break: no reader of the record could do with them."""
    fake_fleet.coordinate()
    done = op("deploy", "registry.example/shop:b", "--reason", "caf\udce9\nnoir")
    assert done.exit_code == 0, done.output
    assert fake_fleet.until(lambda record: record.phase is Phase.BAKING).reason == "caf? noir"
    done = op("rollback", "--reason", "tr\udce8s cher")
    assert done.exit_code == 0, done.output
    assert "tr?s cher" in fake_fleet.until(lambda record: record.phase.is_terminal).why


@BOTH
def test_a_host_that_cannot_stage_ends_it_with_the_reason_and_log_lines(
    kind: str, fake_fleet: FakeFleet, op: Operator
) -> None:
    """Exit code 3; nothing has moved."""
    fake_fleet.hosts.sick["web-2"] = "container exited with code 3"
    fake_fleet.coordinate()
    done = op("deploy", "registry.example/shop:b")
    assert done.exit_code == 3, done.output
    assert "rollout 1 ended aborted: web-2: container exited with code 3" in done.stderr
    assert "KeyError: 'DATABASE_URL'" in done.stderr
    assert (fake_fleet.value("active/image") or "").startswith("registry.example/shop:a")


def test_without_a_coordinator_it_says_at_once_that_nothing_will_advance(fake_fleet: FakeFleet, op: Operator) -> None:
    """And goes on waiting until --timeout: exit code 5, and the way back."""
    done = op("deploy", "registry.example/shop:b", "--timeout", "300ms")
    assert done.exit_code == 5, done.output
    assert "no coordinator is running; the rollout will not advance" in done.stdout
    assert "rollout 1 did not reach this point within --timeout: no coordinator is running" in done.stderr
    assert f"`tidegate abort --app {fake_fleet.app}` ends it" in done.stderr


@BOTH
def test_of_two_deploys_at_once_one_is_told_who_was_first_and_why(
    kind: str, fake_fleet: FakeFleet, op: Operator
) -> None:
    """Exit codes 0 and 4."""
    both = [
        op.begin("deploy", "registry.example/shop:b", "-d", "--reason", "new prices", TIDEGATE_AUTHOR="ann"),
        op.begin("deploy", "registry.example/shop:c", "-d", "--reason", "new shoes", TIDEGATE_AUTHOR="bob"),
    ]
    told = [each.communicate(timeout=30)[1] for each in both]
    assert sorted(each.returncode for each in both) == [0, 4], told
    loser = next(words for each, words in zip(both, told, strict=True) if each.returncode == 4)
    winner = "ann (new prices)" if "by ann" in loser else "bob (new shoes)"
    assert f"by {winner} is pending: " in loser
    assert "--queue waits for its end" in loser
    assert fake_fleet.record is not None
    assert fake_fleet.record.author == winner.partition(" ")[0]


def test_an_interrupted_deploy_leaves_the_rollout_running(fake_fleet: FakeFleet, op: Operator) -> None:
    """Exit code 130, and how to come back."""
    fake_fleet.coordinate()
    fake_fleet.hosts.deaf = {"web-2"}
    process = op.begin("deploy", "registry.example/shop:b")
    fake_fleet.until(lambda record: record.phase is Phase.STAGING)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 130, told
    ends = f"`tidegate status --app {fake_fleet.app} --watch` shows it, `tidegate abort --app {fake_fleet.app}` ends it"
    assert told == f"rollout 1 goes on: {ends}\n"
    fake_fleet.hosts.deaf.clear()
    fake_fleet.until(lambda record: record.phase is Phase.BAKING)


def test_queue_waits_for_the_end_of_the_rollout_in_progress(fake_fleet: FakeFleet, op: Operator) -> None:
    """Then deploys."""
    fake_fleet.coordinate()
    assert op("deploy", "registry.example/shop:b", "--detach", *QUICK).exit_code == 0
    done = op("deploy", "registry.example/shop:c", "--queue")
    assert done.exit_code == 0, done.output
    assert "is in progress: waits for its end" in done.stdout
    assert "rollout 1 ended successful" in done.stdout
    assert "rollout 2: every host has switched" in done.stdout


def test_supersede_aborts_first_what_nobody_has_seen(fake_fleet: FakeFleet, op: Operator) -> None:
    """And says so in the record of the one it ended."""
    fake_fleet.hosts.stops_at = Phase.STAGING
    fake_fleet.coordinate()
    assert op("deploy", "registry.example/shop:b", "--detach").exit_code == 0
    fake_fleet.until(lambda record: record.phase is Phase.STAGING)
    fake_fleet.hosts.stops_at = None
    fake_fleet.hosts.deaf = {"web-1", "web-2", "web-3"}
    threading.Timer(0.5, fake_fleet.hosts.deaf.clear).start()
    done = op("deploy", "registry.example/shop:c", "--supersede", "--reason", "the right one")
    assert done.exit_code == 0, done.output
    assert "is aborted first" in done.stdout
    assert "rollout 1 ended aborted: ann@laptop: superseded: the right one" in done.stdout


def test_supersede_is_refused_once_visitors_have_seen_it(fake_fleet: FakeFleet, op: Operator) -> None:
    """Exit code 4, and what can be done."""
    fake_fleet.coordinate()
    assert op("deploy", "registry.example/shop:b").exit_code == 0
    done = op("deploy", "registry.example/shop:c", "--supersede")
    assert code_of(done) == 4
    assert "is baking: --queue waits for its end, `tidegate rollback` takes it back" in str(done.exception)


def test_a_canary_waits_for_promote(fake_fleet: FakeFleet, op: Operator) -> None:
    """--wait promotion returns there; promote follows the rest."""
    fake_fleet.coordinate()
    done = op("deploy", "registry.example/shop:b", "--canary", "1", "--wait", "promotion")
    assert done.exit_code == 0, done.output
    assert "serves on its canary; `tidegate promote` goes on" in done.stdout
    serving = [row["node"] for row in op.json("status")["hosts"] if row["phase"] == "draining"]
    assert len(serving) == 1
    promoted = op("promote")
    assert promoted.exit_code == 0, promoted.output
    assert "every host has switched" in promoted.stdout


def test_a_manual_deploy_is_aborted_unseen(fake_fleet: FakeFleet, op: Operator) -> None:
    """Abort follows to the end; exit code 0 for what was asked."""
    fake_fleet.coordinate()
    assert (
        "is staged on every host" in op("deploy", "registry.example/shop:b", "--manual", "--wait", "promotion").stdout
    )
    done = op("abort", "--reason", "not today")
    assert done.exit_code == 0, done.output
    assert "rollout 1 ended aborted: ann@laptop: not today" in done.stdout
    assert (fake_fleet.value("active/image") or "").startswith("registry.example/shop:a")


def test_rollback_takes_back_what_is_baking_and_returns_after_success(fake_fleet: FakeFleet, op: Operator) -> None:
    """First the flag; later a new rollout to the release before, spec and digest included."""
    fake_fleet.coordinate()
    assert op("deploy", "registry.example/shop:b").exit_code == 0
    back = op("rollback", "--reason", "slow")
    assert back.exit_code == 0, back.output
    assert "rollout 1 ended rolled_back: ann@laptop: slow" in back.stdout
    assert op("deploy", "registry.example/shop:b", "--wait", "done", *QUICK).exit_code == 0
    again = op("rollback", "--wait", "done", *QUICK)
    assert again.exit_code == 0, again.output
    assert f"rollout 3 goes back to registry.example/shop:a@sha256:{'a' * 64}" in again.stdout
    assert (fake_fleet.value("active/image") or "").startswith("registry.example/shop:a@")


@pytest.mark.parametrize("word", ["#1", "1", "registry.example/shop:b", "release"])
def test_a_release_of_before_is_named_by_rollout_image_or_id(fake_fleet: FakeFleet, op: Operator, word: str) -> None:
    """What rollout 1 left serving."""
    fake_fleet.coordinate()
    assert op("deploy", "registry.example/shop:b", "--wait", "done", *QUICK).exit_code == 0
    first = fake_fleet.record
    assert first is not None
    assert first.target is not None
    assert op("deploy", "registry.example/shop:c", "--wait", "done", *QUICK).exit_code == 0
    done = op("rollback", first.target.release if word == "release" else word, "--detach")
    assert done.exit_code == 0, done.output
    fake_fleet.until(lambda record: record.generation == 3)
    assert fake_fleet.record is not None
    assert fake_fleet.record.request is not None
    assert fake_fleet.record.request.image == first.target.image


def test_a_release_that_never_served_is_not_gone_back_to(fake_fleet: FakeFleet, op: Operator) -> None:
    """It says how to deploy it all the same."""
    fake_fleet.hosts.sick["web-1"] = "exited"
    fake_fleet.coordinate()
    assert op("deploy", "registry.example/shop:b").exit_code == 3
    for word, said in (
        ("#1", "rollout 1 ended aborted: `tidegate deploy registry.example/shop:b` if you want it again"),
        ("#7", "the history has no rollout 7"),
        ("f" * 12, "no host and no record holds release ffffffffffff any more"),
        ("registry.example/shop:z", "the history has no successful rollout of"),
    ):
        assert said in str(op("rollback", word).exception), word
    assert "no release before this one is recorded" in str(op("rollback").exception)


def test_pause_and_resume(fake_fleet: FakeFleet, op: Operator) -> None:
    """Each says what is; a second one is refused."""
    assert op("deploy", "registry.example/shop:b", "--detach").exit_code == 0
    assert "rollout 1 is paused" in op("pause", "--reason", "lunch").stdout
    assert "is paused already (ann@laptop: lunch)" in str(op("pause").exception)
    assert "paused (ann@laptop: lunch)" in op("status").stdout
    assert "rollout 1 is resumed" in op("resume").stdout
    assert "is not paused" in str(op("resume").exception)


@pytest.mark.parametrize("command", ["promote", "abort", "rollback", "pause", "resume"])
def test_without_a_rollout_there_is_nothing_to_move(op: Operator, command: str) -> None:
    """One line, no traceback."""
    done = op(command)
    assert code_of(done) == 1
    assert "rollout in progress to" in str(done.exception) or "no release before this one" in str(done.exception)


def test_a_rollout_that_ended_before_it_was_looked_at_is_judged_by_its_history(
    fake_fleet: FakeFleet, op: Operator
) -> None:
    """Somebody deploys again within the same second: the first command still ends with the truth."""
    fake_fleet.coordinate()
    fake_fleet.hosts.sick["web-3"] = "exited"

    first = op.begin("deploy", "registry.example/shop:b")
    fake_fleet.until(lambda record: record.phase is Phase.ABORTED)
    fake_fleet.hosts.sick.clear()
    op("deploy", "registry.example/shop:c", "-d")
    _, told = first.communicate(timeout=30)
    assert first.returncode == 3
    assert "rollout 1 ended aborted: web-3: exited" in told


def test_what_cannot_be_meant_is_a_usage_error(op: Operator, tmp_path: Path) -> None:
    """Exit code 2, naming the option."""
    for arguments, said in (
        (("deploy", "no image"), "IMAGE"),
        (("deploy", "shop:b", "--steps", "50%,10%"), "must increase"),
        (("deploy", "shop:b", "--steps", "100%,10%"), "100% is the last step"),
        (("deploy", "shop:b", "--canary", "1", "--steps", "10%"), "exclude each other"),
        (("deploy", "shop:b", "--queue", "--supersede"), "exclude each other"),
        (("deploy", "shop:b", "--canary", "0"), "--canary"),
        (("deploy", "shop:b", "--bake-time", "soon"), "--bake-time"),
        (("deploy", "shop:b", "--timeout", "soon"), "--timeout"),
        (("deploy", "shop:b", "--bake-time", "2h"), "bake_time is longer than drain_timeout"),
        (("deploy", "shop:b", "--app", "Shop!"), "--app"),
    ):
        done = op(*arguments)
        assert done.exit_code == 2, (arguments, done.output)
        assert said in " ".join(done.stderr.replace("│", " ").split()), (arguments, done.stderr)
    spec = tmp_path / "spec.json"
    spec.write_text('{"memroy": "1g"}')
    done = op("deploy", "shop:b", "--spec", str(spec))
    assert (code_of(done), str(done.exception)) == (1, f"--spec {spec}: memroy: unknown key")


def test_the_spec_of_before_is_kept_and_another_may_be_given(
    fake_fleet: FakeFleet, op: Operator, tmp_path: Path
) -> None:
    """JSON or TOML; its secrets are shown nowhere."""
    fake_fleet.coordinate()
    spec = tmp_path / "spec.toml"
    spec.write_text('memory = "64m"\n[env]\nKEY = "hunter2"\n')
    done = op("deploy", "registry.example/shop:b", "--spec", str(spec), "--wait", "done", *QUICK)
    assert done.exit_code == 0, done.output
    done = op("deploy", "registry.example/shop:c", *QUICK)
    assert "spec: that of rollout 1" in done.stdout
    assert fake_fleet.record is not None
    assert fake_fleet.record.request is not None
    assert fake_fleet.record.request.spec.memory == "64m"
    for command in ("status", "history", "show", "nodes"):
        for result in (op(command), op(command, "--json")):
            assert result.exit_code == 0, result.output
            assert "hunter2" not in result.output


class Forgetful(FakeConsul):
    """Does the first transaction it is sent, and closes the connection in place of an answer."""

    forgets = True

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        response = await super()._handle(request)
        if request.path == "/v1/txn" and self.forgets:
            self.forgets = False
            assert request.transport is not None
            request.transport.close()
        return response


def test_a_command_whose_answer_was_lost_knows_its_own_write_again() -> None:
    """By its audit entry: nothing is written twice, and it does not lose against itself."""

    async def serve(stack: AsyncExitStack) -> str:
        consul = Forgetful()
        await consul.start()
        stack.push_async_callback(consul.kill)
        return consul.url

    with fake_fleet(serve, parse_app("shop")) as made:
        made.host("web-1")
        done = Operator(made)("deploy", "registry.example/shop:b", "--detach")
        assert done.exit_code == 0, done.output
        entries = made.do(made.client.list("shop-status/history/")).entries
        assert [entry.key for entry in entries] == ["shop-status/history/1/0"]
