"""
Fleets in a few words: a rollout from app:a to app:b, and hosts that report this or that.

``fleet("web-1 staged", "web-2 pulling behind")``: a name, what it shows, and what is odd about it. A host is a member
of the barrier unless it is ``joined``.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest

from agent.core.model.errors import PermanentError
from agent.core.model.keys import ABSENT, KeySnapshot, Present, Reading
from agent.core.model.names import NodeName, SlotName
from agent.core.model.record import Phase, RecordedRelease
from agent.core.model.release import Release
from agent.core.model.report import FailureReport, NodeReport, SlotReport
from agent.core.model.spec import RunSpec
from agent.core.model.states import AdminState, ReadinessGate, SlotPhase
from agent.core.rollout.advance import Transition, advance
from agent.core.rollout.change import Change
from agent.core.rollout.commands import CommandAuthor
from agent.core.rollout.decision import Decision, Flags, Request, write_decision
from agent.core.rollout.fleet import Fleet, Host, Resolution
from agent.core.rollout.strategy import Strategy
from tests.sim.host.docker_model import digest_of

NOW = 1_000_000.0
"""When the phase of a scene began."""
GENERATION = 5
ALL_NODES = "f" * 64
NO_NODE = "0" * 64


def released(name: str, generation: int, spec: RunSpec | None = None) -> RecordedRelease:
    """Return a release as a coordinator records it."""
    whole = Release(f"{name}@{digest_of(name)}", digest_of(name), spec or RunSpec(), generation)  # type: ignore[arg-type]
    return RecordedRelease(image=whole.reference, spec=whole.spec, release=whole.id, pin=whole.pin)


A, B, C = released("app:a", 4), released("app:b", GENERATION), released("app:c", 3)
RESOLVED = Resolution(digest=digest_of("app:b"))
REQUEST = Request(image=B.image.partition("@")[0])


def slot(release: RecordedRelease, phase: SlotPhase, state: AdminState, **shown: object) -> SlotReport:
    """Return a slot that holds *release*."""
    digest = release.image.partition("@")[2]
    known = {"image": release.image, "release": release.release, "digest": digest, "pin": release.pin}
    return SlotReport.model_validate({"phase": phase, "state": state} | known | shown)


def served(release: RecordedRelease, *, is_up: bool = True) -> SlotReport:
    reason = "" if is_up else "HAProxy says DOWN"
    return slot(release, SlotPhase.SERVING, AdminState.READY, is_up=is_up, reason=reason)


def drained(release: RecordedRelease, *, count: int = 0, age_s: int = 0) -> SlotReport:
    seen = {"open_requests": count, "last_request_age_s": age_s, "reason": "12 visitors, at most 3m"}
    return slot(release, SlotPhase.DRAINING, AdminState.DRAIN, **seen)


EMPTY = SlotReport(phase=SlotPhase.EMPTY, state=AdminState.MAINT, open_requests=0)
STAGED_B = slot(B, SlotPhase.STAGED, AdminState.DRAIN, is_staged=True, open_requests=0, last_request_age_s=120)
LEAVING_B = slot(B, SlotPhase.LEAVING, AdminState.MAINT, reason="taken back", open_requests=0)
UNKNOWN = SlotReport(phase=SlotPhase.UNKNOWN, reason="HAProxy does not answer")

SHAPES: dict[str, tuple[SlotReport, SlotReport]] = {
    "nothing": (EMPTY, EMPTY),
    "serves": (served(A), EMPTY),
    "serves-c": (served(C), EMPTY),
    "down": (served(A, is_up=False), EMPTY),
    "busy": (served(A), drained(C, count=2)),
    "warm": (served(A), drained(B, age_s=30)),
    "cold": (served(A), drained(B, age_s=90)),
    "full": (served(A), served(C)),
    "pulling": (served(A), SlotReport(phase=SlotPhase.PULLING, reason="pulling app:b 62 %", state=AdminState.MAINT)),
    "checking": (served(A), slot(B, SlotPhase.CHECKING, AdminState.DRAIN, reason="healthy for 3s of 10s")),
    "staged": (served(A), STAGED_B),
    "first-staged": (EMPTY, STAGED_B),
    "other-digest": (served(A), STAGED_B.model_copy(update={"digest": f"sha256:{'0' * 64}"})),
    "failed": (served(A), EMPTY),
    "switched": (drained(A, age_s=0), served(B)),
    "streaming": (drained(A, count=3, age_s=300), served(B)),
    "idle": (drained(A, age_s=60), served(B)),
    "unclear": (slot(A, SlotPhase.UNKNOWN, AdminState.DRAIN), served(B)),
    "sick": (drained(A, age_s=60), served(B, is_up=False)),
    "stuck": (EMPTY, served(B)),
    "retired": (EMPTY, served(B)),
    "back": (served(A), LEAVING_B),
    "half-back": (served(A), drained(B)),
    "unknown": (UNKNOWN, UNKNOWN),
}
BOB = CommandAuthor("bob", "wrong prices", NOW)
LINES = ("starting", "no such table: prices")


def host(words: str) -> Host:
    """Return a host in words; see the module."""
    name, shape, *odd = words.split()
    node = NodeName(name)
    blue, green = SHAPES[shape]
    report = NodeReport(
        app="shop",
        node=node,
        instance=f"{name}-boot-1",
        agent="1",
        generation=GENERATION,
        seq=2,
        phase=green.phase,
        summary=f"blue {blue.phase}, green {green.phase}",
        is_ready=True,
        gate=ReadinessGate.OPEN,
        old_workers=None if shape == "unknown" else 0,
        slots={SlotName.BLUE: blue, SlotName.GREEN: green},
        failures=_failures(shape),
    )
    made = Host(node, f"{name}-boot-1", report, unwell_s=30.0 if shape in {"sick", "down"} else 0.0)
    for word in odd:
        made = _ODD[word](made)
    return made


def _failures(shape: str) -> dict[str, FailureReport]:
    key = {"failed": B, "stuck": A}.get(shape)
    failure = FailureReport(reason="exited with code 1", lines=LINES)
    return {f"{key.release}#{GENERATION}": failure} if key else {}


def _reporting(made: Host, **changes: object) -> Host:
    assert made.report is not None
    return replace(made, report=made.report.model_copy(update=changes))


def _tries_again(made: Host) -> Host:
    assert made.report is not None
    again = {key: known.model_copy(update={"is_final": False}) for key, known in made.report.failures.items()}
    return _reporting(made, failures=again)


_ODD: dict[str, Callable[[Host], Host]] = {
    "joined": lambda made: made,
    "lost": lambda made: replace(made, instance="", gone_s=60.0),
    "gone": lambda made: replace(made, instance="", gone_s=5.0),
    "silent": lambda made: replace(made, report=None),
    "restarted": lambda made: replace(made, instance="another boot"),
    "leaving": lambda made: _reporting(made, is_leaving=True),
    "unready": lambda made: _reporting(made, is_ready=False),
    "behind": lambda made: _reporting(made, generation=GENERATION - 1),
    "ahead": lambda made: _reporting(made, generation=GENERATION + 1),
    "old-workers": lambda made: _reporting(made, old_workers=2),
    "ill-just-now": lambda made: replace(made, unwell_s=3.0),
    "tries-again": _tries_again,
}


def fleet(*hosts: str, **rest: object) -> Fleet:
    """Return what a coordinator sees; members are all hosts but the joined ones."""
    made = {words.split()[0]: host(words) for words in hosts}
    members = tuple(sorted(words.split()[0] for words in hosts if "joined" not in words))
    given = {"members": members, "active": A.image, "resolution": RESOLVED, "is_consistent": True}
    return Fleet(hosts=made, **(given | rest))  # type: ignore[arg-type]


def record(phase: Phase, **changes: object) -> Decision:
    """Return a rollout from A to B that has just entered *phase*; flags by their names."""
    flags = {name: changes.pop(name) for name in ("paused", "promoted", "aborted", "note") if name in changes}
    is_seen = phase is not Phase.PENDING
    committed = {Phase.SWITCHING, Phase.BAKING, Phase.RETIRING}
    strategy = changes.pop("strategy", Strategy())
    assert isinstance(strategy, Strategy)
    given: dict[str, object] = {
        "generation": GENERATION,
        "seq": 7,
        "phase": phase,
        "source": A,
        "target": B if is_seen else None,
        "request": REQUEST,
        "strategy": strategy,
        "flags": Flags.model_validate(flags),
        "threshold": ALL_NODES if phase in committed else NO_NODE,
        "step": len(strategy.all_steps) - 1 if phase in committed else 0,
        "since": NOW,
        "deadline": NOW + 600,
        "author": "ann",
        "reason": "new prices",
        "why": "so it was",
    }
    return Decision.model_validate(given | changes)


def after(seconds: float, given: Decision, seen: Fleet) -> Transition:
    """Advance *seconds* after the phase began."""
    return advance(given, seen, NOW + seconds)


def changed(step: Transition) -> Change:
    """Return the change of a step that must have one."""
    assert step.change is not None, f"it waits: {[str(wait) for wait in step.waits]}"
    return step.change


def waits(step: Transition) -> str:
    """Return in words what a step waits for, that must change nothing."""
    assert step.change is None, f"{step.change.what}: {step.change.record.why}"
    return "; ".join(str(wait) for wait in step.waits)


def keys(given: Decision | None = None, *, active: Reading = ABSENT, stage: Reading = ABSENT) -> KeySnapshot:
    """Return the keys with a record at index 41."""
    rollout = ABSENT if given is None else Present(write_decision(given), 41)
    return KeySnapshot(active=active, stage=stage, rollout=rollout)


def refused(call: Callable[..., object], *given: object) -> str:
    """Return in which words *call* refuses what is *given*."""
    with pytest.raises(PermanentError) as caught:
        call(*given)
    return str(caught.value)
