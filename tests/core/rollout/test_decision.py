"""The whole record as it is written and read: nothing is lost, secrets reach the hosts and nobody else."""

import json

import pytest
from pydantic import SecretStr

from agent.core.model.errors import PermanentError
from agent.core.model.names import AppName
from agent.core.model.record import Phase, read_record
from agent.core.model.spec import Probe, RunSpec
from agent.core.rollout.change import Change, Indexes, audit_of, mirror_of, writes_of
from agent.core.rollout.decision import Decision, Request, read_decision, write_decision
from agent.core.rollout.phases_forward import start_or_wait
from agent.core.rollout.strategy import Strategy
from agent.core.rollout.transition import TransitionContext
from tests.core.rollout.fixtures import NOW, B, fleet, record, released

SECRET = "hunter2"
SPEC = RunSpec(env={"PASSWORD": SecretStr(SECRET)}, probe=Probe(interval=9.97, timeout=0.9996))
HIDDEN = released("app:b", 5, SPEC)


def secretive() -> Decision:
    """Return a record with a secret in each place that can hold one."""
    request = Request(image=B.image, spec=SPEC)
    return record(Phase.STAGING, source=released("app:a", 4, SPEC), target=HIDDEN, request=request)


@pytest.mark.parametrize("phase", Phase)
def test_what_is_written_is_read_as_it_was(phase: Phase) -> None:
    """Of each phase, with odd durations and secrets."""
    odd = Strategy(bake_time=0.0004, drain_idle=61.5, drain_timeout=90061, steps=("1", "10%"), waits_for_promote=True)
    paused = record(phase, strategy=odd, paused=True, note="bob: lunch", paused_at=NOW)
    for given in (paused, paused.replace(request=None), secretive()):
        assert read_decision(write_decision(given)) == given


def test_hosts_read_the_part_they_act_on() -> None:
    """Without the rest, and the spec with its secrets: they run it."""
    read = read_record(write_decision(secretive()))
    assert read.target == HIDDEN
    assert read.version == (5, 7)


def test_a_release_keeps_its_name_through_the_record() -> None:
    """A copy of the spec names the same release, however its durations are written."""
    target = read_decision(write_decision(secretive())).target
    assert target is not None
    assert target.spec is not None
    assert released("app:b", 5, target.spec).release == HIDDEN.release


def test_secrets_are_in_no_repr_dump_or_audit_entry() -> None:
    """Only what goes to the keys of the record and the mirrors has them."""
    given = secretive()
    pending = given.replace(phase=Phase.PENDING, target=None)
    change = start_or_wait(TransitionContext(pending, fleet("web-1 serves", active=None), NOW))
    assert isinstance(change, Change)
    writes = writes_of(AppName("shop"), change, Indexes(record=1), by="web-1", now=NOW)
    shown = [repr(given), str(given), repr(change), repr(writes), repr(mirror_of(HIDDEN)), given.model_dump_json()]
    shown += [json.dumps(audit_of(change, by="web-1", now=NOW)), repr(given.model_dump())]
    for text in shown:
        assert SECRET not in text
    holding = {write.key for write in writes if SECRET.encode() in write.value}
    assert holding == {"shop/rollout", "shop/stage/spec"}


def test_unknown_fields_of_the_same_version_are_ignored() -> None:
    """In each part that Tidegate writes; a spec's fields say how a release runs, so an unknown one is refused."""
    document = json.loads(write_decision(record(Phase.STAGING)))
    for part in (document, document["flags"], document["strategy"], document["request"], document["target"]):
        part["colour"] = "blue"
    assert read_decision(json.dumps(document)) == record(Phase.STAGING)
    document["target"]["spec"]["gpu"] = 1
    with pytest.raises(PermanentError, match=r"target\.spec\.gpu"):
        read_decision(json.dumps(document))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"v": 2}, "has version 2, this agent reads up to 1"),
        ({"v": 2, "phase": "dancing"}, "has version 2"),
        ({"phase": "dancing"}, "unreadable: phase: "),
        ({"strategy": {"lost_after": "never"}}, r"unreadable: strategy\.lost_after: "),
        ({"flags": {"paused": "maybe"}}, r"unreadable: flags\.paused: "),
        ({"request": {"image": "a b"}}, r"unreadable: request\.image: "),
        ({"generation": 2**53}, "unreadable: generation: "),
        ({"seq": 10**400}, "unreadable: seq: "),
        ({"deadline": 10**400}, "unreadable: deadline: "),
        ({"since": float("nan")}, "unreadable: since: "),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(changes: dict[str, object], said: str) -> None:
    """A newer version is held, whatever else is in it."""
    document = json.loads(write_decision(record(Phase.STAGING)))
    with pytest.raises(PermanentError, match=said):
        read_decision(json.dumps(document | changes))


def test_what_adopt_writes_is_a_whole_record() -> None:
    """Terminal, with neither target nor request."""
    text = '{"v": 1, "generation": 9, "seq": 0, "epoch": 0, "phase": "successful", "author": "ann", "at": "now"}'
    read = read_decision(text)
    assert (read.phase, read.target, read.request, read.final) == (Phase.SUCCESSFUL, None, None, None)


def test_what_nobody_could_read_is_not_written() -> None:
    """A string that is no Unicode text, wherever it came from."""
    given = record(Phase.STAGING)
    with pytest.raises(PermanentError, match="unreadable"):
        write_decision(given.model_copy(update={"author": "caf\udce9"}))
