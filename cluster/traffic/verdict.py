"""
What a run of traffic proves about the deploys that happened during it: a pure function of the samples and the events.

A visitor is one cookie jar; their answers in the order in which they were asked for are the evidence. Silence of
`visit_idle_s` or more ends a visit, and the next one may begin on another release. Within a visit:

    saw                                            counts as
    one release                                    nothing
    a.. b.., the drain deadline of a in between    moved_at_deadline
    a.. b.., a was taken back in between           moved_by_rollback
    a.. b.., neither                               moved_unasked
    a.. b.. a..                                    moved_back_and_forth, whatever the reasons

"In between" is from sending the last request that a answered to the answer of the first that b answered, widened at
its end by `slack_s`, as an event's time is when somebody noticed it, and at its begin by `deed_s`, as hosts act later.
A visitor counts once in each class.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import pairwise

from cluster.traffic.record import Fault, Kind, Outcome, Sample


class EventKind(StrEnum):
    """What happened to a release."""

    ACTIVATED = "activated"
    """New visitors get it from here on; stamp it just before it is asked for, the first one before the traffic."""
    DEADLINE = "deadline"
    """Its drain was capped: who still holds it is moved."""
    CANARY = "canary"
    """Some hosts give it to new visitors from here on, the others the one before; until it is activated."""
    ROLLED_BACK = "rolled_back"
    """It was taken back: its holders go to the release before."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `at` is monotonic, in seconds."""

    kind: EventKind
    version: str
    at: float


@dataclass(frozen=True, slots=True)
class Rules:
    """
    How exact the evidence is, in seconds.

    A move may be seen `slack_s` before its event and `deed_s` after it: the time that hosts need to act on it.
    `settle_s` is how long after an activation newcomers may still get the release before: the time that all hosts need
    to switch, from the event on.
    """

    visit_idle_s: float
    slack_s: float = 1.0
    deed_s: float = 1.0
    settle_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    What the run proves; all counts.

    `failed` is by fault; `streams_cut` counts streams and WebSockets among them. The moved are visitors. `early` counts
    answers of a release that had not been activated yet, `stale` those that newcomers got from a release that was no
    longer the active one. `newcomers` counts visitors by the release that they got first.
    """

    requests: int
    failed: Mapping[Fault, int]
    streams_cut: int
    visitors: int
    moved_unasked: int
    moved_back_and_forth: int
    moved_at_deadline: int
    moved_by_rollback: int
    early: int
    stale: int
    newcomers: Mapping[str, int]

    @property
    def is_clean(self) -> bool:
        """Whether nobody lost anything. Moves at a deadline or by a rollback are as promised, and allowed."""
        return not (
            self.failed
            or self.streams_cut
            or self.moved_unasked
            or self.moved_back_and_forth
            or self.early
            or self.stale
        )

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Move:
    """From the last answer of one release to the first of another, in one visit."""

    before: Sample
    after: Sample


def judge(outcome: Outcome, events: Sequence[Event], rules: Rules) -> Verdict:
    """Judge a whole run. Events may come in any order and repeat, one for each host."""
    events = sorted(events, key=lambda event: event.at)
    visitors = _by_visitor(outcome.samples)
    moved: Counter[str] = Counter()
    for answers in visitors.values():
        classes: set[str] = set()
        for visit in _visits(answers, rules.visit_idle_s):
            classes |= _classes_of(visit, events, rules)
        moved.update(classes)
    return Verdict(
        requests=outcome.total,
        failed=outcome.failed_by_fault,
        streams_cut=sum(sum(outcome.failed.get(kind, {}).values()) for kind in (Kind.STREAM, Kind.WEBSOCKET)),
        visitors=len(visitors),
        moved_unasked=moved["unasked"],
        moved_back_and_forth=moved["back_and_forth"],
        moved_at_deadline=moved[EventKind.DEADLINE],
        moved_by_rollback=moved[EventKind.ROLLED_BACK],
        early=_count_early(outcome.samples, events),
        stale=_count_stale(_newcomers(outcome.samples, visitors), events, rules.settle_s),
        newcomers=dict(Counter(answers[0].version for answers in visitors.values())),
    )


def _by_visitor(samples: Iterable[Sample]) -> dict[int, list[Sample]]:
    visitors: defaultdict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.visitor is not None:
            visitors[sample.visitor].append(sample)
    for answers in visitors.values():
        answers.sort(key=lambda sample: sample.sent_at)
    return dict(visitors)


def _visits(answers: Sequence[Sample], visit_idle_s: float) -> list[list[Sample]]:
    visits = [[answers[0]]]
    for before, after in pairwise(answers):
        if after.sent_at - before.sent_at >= visit_idle_s:
            visits.append([])
        visits[-1].append(after)
    return visits


def _classes_of(visit: Sequence[Sample], events: Sequence[Event], rules: Rules) -> set[str]:
    moves = [_Move(before, after) for before, after in pairwise(visit) if before.version != after.version]
    if len({sample.version for sample in visit}) <= len(moves):
        return {"back_and_forth"}
    return {_reason_of(move, events, rules) for move in moves}


def _reason_of(move: _Move, events: Sequence[Event], rules: Rules) -> str:
    for event in events:
        is_in_between = move.before.sent_at - rules.deed_s <= event.at <= move.after.head_at + rules.slack_s
        moves = event.kind in (EventKind.DEADLINE, EventKind.ROLLED_BACK)
        if moves and event.version == move.before.version and is_in_between:
            return event.kind
    return "unasked"


def _count_early(samples: Iterable[Sample], events: Sequence[Event]) -> int:
    """Count by the head of the answer: what was routed after the activation cannot have been answered before it."""
    first: dict[str, float] = {}
    for event in events:
        if event.kind in (EventKind.ACTIVATED, EventKind.CANARY):
            first.setdefault(event.version, event.at)
    return sum(sample.head_at < first.get(sample.version, float("inf")) for sample in samples)


def _newcomers(samples: Iterable[Sample], visitors: Mapping[int, Sequence[Sample]]) -> list[Sample]:
    """Return the answers to requests without a cookie: all that are no visitor's, and each visitor's first."""
    return [sample for sample in samples if sample.visitor is None] + [answers[0] for answers in visitors.values()]


def _count_stale(newcomers: Iterable[Sample], events: Sequence[Event], settle_s: float) -> int:
    times, actives = _timeline(events)
    stale = 0
    for sample in newcomers:
        since, until = bisect_right(times, sample.sent_at - settle_s), bisect_right(times, sample.head_at)
        # Any release that was active at some time from `settle_s` before the request to its answer is right.
        allowed = actives[max(since - 1, 0) : until]
        stale += not any(sample.version in active for active in allowed)
    return stale


def _timeline(events: Sequence[Event]) -> tuple[list[float], list[frozenset[str]]]:
    """
    Return since when each release has been the active one; taking it back makes the one before it active again.

    A canary and the one before it are active together.
    """
    times: list[float] = []
    actives: list[frozenset[str]] = []
    stack: list[str] = []
    for event in events:
        if event.kind in (EventKind.ACTIVATED, EventKind.CANARY):
            stack = [version for version in stack if version != event.version] + [event.version]
        elif event.kind is EventKind.ROLLED_BACK and len(stack) > 1:
            stack = [version for version in stack if version != event.version]
        else:
            continue
        times.append(event.at)
        actives.append(frozenset(stack[-2:] if event.kind is EventKind.CANARY else stack[-1:]))
    return times, actives
