"""A record that went back (a restored snapshot of Consul) is held by the coordinator, too."""

from dataclasses import replace

import pytest

from agent.core.model.record import Phase
from agent.core.rollout.decision import Decision
from agent.core.rollout.fleet import Fleet
from tests.core.rollout.fixtures import NOW, after, changed, fleet, host, record, waits


def seen(seq: int, given: Decision, words: str = "web-1 staged") -> Fleet:
    """Return a fleet whose first host has acted on that version of the record."""
    first = host(words)
    assert first.report is not None
    report = first.report.model_copy(update={"generation": given.generation, "seq": seq})
    others = fleet("web-1 staged", "web-2 staged")
    return replace(others, hosts={**others.hosts, first.node: replace(first, report=report)})


@pytest.mark.parametrize("phase", [phase for phase in Phase if not phase.is_terminal])
def test_nothing_is_written_behind_what_a_host_has_acted_on(phase: Phase) -> None:
    """Whatever is due or asked for: hosts would hold against it, until a version follows that contradicts theirs."""
    given = record(phase)
    for asked in (given, given.replace(flags={"aborted": True}), given.replace(since=None, deadline=None)):
        step = after(100_000, asked, seen(given.seq + 1, given))
        assert step.change is None
        assert step.look_again_at == NOW + 100_000 + 5
        said = "the record went back: web-1 acted on a later one; `tidegate adopt` accepts it"
        assert waits(step) == said


def test_a_host_that_acted_on_this_version_or_an_earlier_one_holds_nothing() -> None:
    """Nor does the last word of one that is dead, or of another instance."""
    given = record(Phase.STAGING)
    assert changed(after(1, given, seen(given.seq, given))).record.phase is Phase.READY
    later = seen(given.seq + 1, given)
    first = next(iter(later))
    for dead in (replace(first, gone_s=1.0), replace(first, instance="another")):
        step = after(1, given, replace(later, hosts={**later.hosts, first.node: dead}))
        assert "went back" not in waits(step)
