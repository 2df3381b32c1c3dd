"""What `deploy` begins, and why it refuses to, in the words an operator reads."""

import pytest
from pydantic import SecretStr

from agent.core.model.keys import ABSENT, Invalid, KeySnapshot, Present, Reading
from agent.core.model.names import ImageReference
from agent.core.model.record import Phase
from agent.core.model.spec import RunSpec
from agent.core.rollout.change import Change
from agent.core.rollout.commands import (
    SPEC_MAX_BYTES,
    InProgressError,
    abort,
    deploy,
    pause,
    promote,
    resume,
    roll_back,
)
from agent.core.rollout.decision import Decision, Request, write_decision
from agent.core.rollout.strategy import Strategy
from tests.core.rollout.fixtures import BOB, NOW, REQUEST, A, B, host, keys, record, refused

ANY_COMMAND = (promote, abort, roll_back, pause, resume)


def deployed(snapshot: KeySnapshot, *hosts: str, request: Request = REQUEST) -> Change:
    reports = [seen.report for seen in map(host, hosts) if seen.report is not None]
    return deploy(snapshot, reports, request, Strategy(), BOB)


def deployed_with(spec: RunSpec) -> Change:
    return deployed(keys(), request=Request(image=ImageReference("app:b"), spec=spec))


class TestDeploy:
    def test_a_rollout_begins_as_durations_and_no_deadline(self) -> None:
        """By whom and why; only a coordinator's clock sets the rest."""
        change = deployed(keys())
        begun = change.record
        assert (begun.phase, begun.generation, begun.seq, begun.epoch) == (Phase.PENDING, 1, 0, 0)
        assert (begun.since, begun.deadline, begun.paused_at) == (None, None, None)
        assert (begun.author, begun.reason, begun.created_at) == ("bob", "wrong prices", NOW)
        assert (begun.source, begun.target, begun.request) == (None, None, REQUEST)
        assert (change.was, change.active, change.stage, change.members) == (None, None, None, None)

    @pytest.mark.parametrize(
        ("before", "hosts", "generation"),
        [
            (record(Phase.SUCCESSFUL), [], 6),
            (record(Phase.SUCCESSFUL), ["web-1 serves behind"], 6),
            (record(Phase.SUCCESSFUL), ["web-1 serves ahead lost"], 7),
            (None, ["web-1 serves"], 6),
        ],
    )
    def test_a_generation_is_above_all_that_anybody_has_seen(
        self, before: Decision | None, hosts: list[str], generation: int
    ) -> None:
        """Also where Consul went back, or the record is gone: hosts follow no lower one."""
        change = deployed(keys(before), *hosts)
        assert change.record.generation == generation
        assert change.was == (before.phase if before else None)

    @pytest.mark.parametrize(
        ("before", "active", "source"),
        [
            (record(Phase.SUCCESSFUL), B.image, B),
            (record(Phase.ABORTED), A.image, A),
            (record(Phase.ROLLED_BACK), A.image, A),
            (record(Phase.SUCCESSFUL), None, B),
            (record(Phase.SUCCESSFUL), "app:x", None),
            (record(Phase.ABORTED, source=None), None, None),
            (record(Phase.SUCCESSFUL, target=None), A.image, None),
            (record(Phase.ROLLBACK_FAILED), A.image, A),
            (record(Phase.ROLLBACK_FAILED), B.image, B),
            (record(Phase.ROLLBACK_FAILED), None, None),
            (record(Phase.ROLLBACK_FAILED, source=None), B.image, B),
            (None, A.image, None),
        ],
    )
    def test_what_stands_is_recorded_with_its_spec_and_pin(
        self, before: Decision | None, active: str | None, source: object
    ) -> None:
        """Where `active/image` still is it, or is gone: absence is not a command."""
        reading = ABSENT if active is None else Present(active, 17)
        assert deployed(keys(before, active=reading)).record.source == source

    @pytest.mark.parametrize(
        ("phase", "rest", "ways"),
        [
            (Phase.PENDING, {}, "--queue waits for its end, --supersede aborts it first, `tidegate abort` ends it"),
            (Phase.READY, {}, "--queue waits for its end, --supersede aborts it first, `tidegate abort` ends it"),
            (Phase.CANARY, {}, "--queue waits for its end, `tidegate rollback` takes it back"),
            (Phase.BAKING, {}, "--queue waits for its end, `tidegate rollback` takes it back"),
            (Phase.BAKING, {"source": None}, "--queue waits for its end"),
            (Phase.RETIRING, {}, "--queue waits for its end"),
            (Phase.ABORTING, {}, "--queue waits for its end"),
            (Phase.ROLLING_BACK, {}, "--queue waits for its end"),
        ],
    )
    def test_s5_one_rollout_at_a_time(self, phase: Phase, rest: dict[str, object], ways: str) -> None:
        """Who began it, why, where it is, and what can be done: nothing that would be refused."""
        given = record(phase, **rest)
        said = refused(deployed, keys(given))
        assert said == f"rollout 5 (app:b) by ann (new prices) is {phase}: {ways}"

    def test_s5_a_rollout_in_progress_is_named_with_what_is_known(self) -> None:
        """Without author, reason or request."""
        bare = {"author": "", "reason": "", "request": None}
        assert str(InProgressError(record(Phase.STAGING, **bare))).startswith(
            f"rollout 5 ({B.image}) by nobody named is staging"
        )
        assert "(adopted)" in str(InProgressError(record(Phase.ABORTING, target=None, **bare)))

    @pytest.mark.parametrize(
        ("active", "stage", "said"),
        [
            (Present("app:a", 5), Present("app:x", 9), "app:x is staged by hand beside app:a: activate it"),
            (ABSENT, Present("app:x", 9), "app:x is staged by hand and nothing is active: activate it, or delete"),
            (Invalid("key shop/active/image is empty"), ABSENT, "key shop/active/image is empty: mend it first"),
            (ABSENT, Invalid("key shop/stage/image is empty"), "key shop/stage/image is empty: mend it first"),
        ],
    )
    def test_a_change_by_hand_that_is_under_way_comes_first(self, active: Reading, stage: Reading, said: str) -> None:
        """Two ways at once to say what should serve are one too many."""
        assert refused(deployed, keys(active=active, stage=stage)).startswith(said)

    @pytest.mark.parametrize(
        ("active", "stage"),
        [
            (Present("app:a", 5), ABSENT),
            (Present("app:a", 5), Present("app:a", 9)),
            (Present("app:a", 9), Present("app:x", 5)),
        ],
    )
    def test_what_was_taken_back_or_done_by_hand_is_no_hindrance(self, active: Reading, stage: Reading) -> None:
        """A stage key that is older, or the same."""
        assert deployed(keys(active=active, stage=stage)).record.phase is Phase.PENDING

    def test_what_an_aborted_first_deploy_left_staged_is_no_hindrance(self) -> None:
        """Also where one more was aborted before it staged anything; what was staged after it is."""
        for before in (record(Phase.ABORTED, source=None), record(Phase.ABORTED, source=None, target=None)):
            assert deployed(keys(before, stage=Present(B.image, 40))).record.generation == 6
            assert "staged by hand" in refused(deployed, keys(before, stage=Present("app:x", 42)))

    def test_a_spec_that_hosts_could_not_read_is_refused(self) -> None:
        """The record holds it up to three times."""
        large = RunSpec(env={"A": SecretStr("x" * SPEC_MAX_BYTES)})
        said = refused(deployed_with, large)
        assert said.endswith(f"bytes long, at most {SPEC_MAX_BYTES} go into the record")
        most = RunSpec(env={"A": SecretStr("\u20ac" * (SPEC_MAX_BYTES // 6 - 200))})
        release = B.model_copy(update={"spec": most})
        begun = deployed_with(most).record
        whole = begun.replace(phase=Phase.STAGING, source=release, target=release, why="x" * 500, author="x" * 500)
        assert len(write_decision(whole)) < 64 * 1024

    @pytest.mark.parametrize(
        ("rollout", "said"),
        [
            (Invalid("key shop/rollout is empty"), "key shop/rollout is empty"),
            (Present("{}", 1), "rollout record is unreadable"),
            (Present('{"v": 2}', 1), "version 2"),
        ],
    )
    def test_a_record_that_cannot_be_read_is_not_written_over(self, rollout: Reading, said: str) -> None:
        """By no command."""
        assert said in refused(deployed, KeySnapshot(rollout=rollout))
        for command in ANY_COMMAND:
            assert said in refused(command, KeySnapshot(rollout=rollout), BOB)
