"""
What was sent and what came back: every request of a run, none dropped.

The generator fills a `Record`, an `Outcome` is what remains of it: plain data that crosses to the test as JSON.
Nothing here talks to the network, and nothing here judges: that is the verdict's.

All times are seconds. `*_at` is the monotonic clock, which every process on the machine shares; `wall_at` is Unix time.
"""

import asyncio
import json
import resource
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import NamedTuple, Self

KEPT_FAILURES = 5000


class Kind(StrEnum):
    """The kinds of traffic."""

    NEW = "new"
    KEEPALIVE = "keepalive"
    SLOW = "slow"
    STREAM = "stream"
    WEBSOCKET = "websocket"
    VISITOR = "visitor"


class Fault(StrEnum):
    """How a request failed; each failed request has exactly one."""

    REFUSED = "refused"
    """No connection."""
    RESET = "reset"
    """Sent, and the connection ended without an answer."""
    CUT = "cut"
    """The answer began and ended short of what it promised."""
    TIMEOUT = "timeout"
    """No end of the answer in time."""
    STATUS_5XX = "status_5xx"
    BAD_REPLY = "bad_reply"
    """An answer, but not to what was asked: no HTTP, another status, no version, a POST executed twice."""


class RequestFailedError(Exception):
    """A request failed; raised by the clients, counted by the attempt around them."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault = fault
        self.detail = detail


class Sample(NamedTuple):
    """An answer whose head was read. A visitor's number says whose cookie jar the request carried."""

    sent_at: float
    head_at: float
    wall_at: float
    kind: Kind
    version: str
    visitor: int | None


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed request, kept for a person to read."""

    sent_at: float
    failed_at: float
    wall_at: float
    kind: Kind
    fault: Fault
    path: str
    detail: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    A whole run.

    `requests` counts every request begun; `failed` every one of them that failed, by kind and fault; `failures` keeps
    the first 5000. Sending stops `sending_s` after the start, the last answer is in after `duration_s`.
    `wall_offset_s` is Unix time minus monotonic time. `late_max_s` is how far the generator itself fell behind its
    schedule: large numbers mean a starved machine.
    """

    started_at: float
    sending_s: float
    duration_s: float
    wall_offset_s: float
    cpu_s: float
    late_max_s: float
    requests: Mapping[Kind, int]
    failed: Mapping[Kind, Mapping[Fault, int]]
    failures: tuple[Failure, ...]
    samples: tuple[Sample, ...]

    @property
    def total(self) -> int:
        return sum(self.requests.values())

    @property
    def rate(self) -> float:
        """Requests begun per second of sending."""
        return self.total / self.sending_s

    def at_wall(self, wall_at: float) -> float:
        """Return the monotonic time of a Unix time, for events that were stamped with the latter."""
        return wall_at - self.wall_offset_s

    @property
    def failed_by_fault(self) -> dict[Fault, int]:
        """Only faults that occurred."""
        total: Counter[Fault] = Counter()
        for faults in self.failed.values():
            total.update(faults)
        return dict(total)

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"samples": self.samples})

    @classmethod
    def from_json(cls, text: str) -> Self:
        fields = json.loads(text)
        fields["requests"] = {Kind(kind): count for kind, count in fields["requests"].items()}
        fields["failed"] = {
            Kind(kind): {Fault(fault): count for fault, count in faults.items()}
            for kind, faults in fields["failed"].items()
        }
        fields["failures"] = tuple(
            Failure(**failure | {"kind": Kind(failure["kind"]), "fault": Fault(failure["fault"])})
            for failure in fields["failures"]
        )
        fields["samples"] = tuple(
            Sample(sent, head, wall, Kind(kind), version, visitor)
            for sent, head, wall, kind, version, visitor in fields["samples"]
        )
        return cls(**fields)


@dataclass(slots=True)
class Record:
    """The books of a run in progress."""

    started_at: float = field(default_factory=time.monotonic)
    wall_offset_s: float = field(default_factory=lambda: time.time() - time.monotonic())
    sending_s: float = 0.0
    late_max_s: float = 0.0
    open: int = 0
    visitors: int = 0
    requests: Counter[Kind] = field(default_factory=Counter)
    failed: dict[Kind, Counter[Fault]] = field(default_factory=lambda: {kind: Counter() for kind in Kind})
    failures: list[Failure] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    _reported: int = 0

    def progress(self) -> dict[str, object]:
        """The counters so far; `versions` counts the answers since the call before."""
        versions: dict[Kind, Counter[str]] = {kind: Counter() for kind in Kind}
        for sample in self.samples[self._reported :]:
            versions[sample.kind][sample.version] += 1
        self._reported = len(self.samples)
        return {
            "elapsed_s": round(time.monotonic() - self.started_at, 3),
            "open": self.open,
            "visitors": self.visitors,
            "kinds": {
                kind: {
                    "requests": self.requests[kind],
                    "failed": dict(self.failed[kind]),
                    "versions": dict(versions[kind]),
                }
                for kind in Kind
            },
        }

    def outcome(self) -> Outcome:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return Outcome(
            started_at=self.started_at,
            sending_s=self.sending_s,
            duration_s=time.monotonic() - self.started_at,
            wall_offset_s=self.wall_offset_s,
            cpu_s=usage.ru_utime + usage.ru_stime,
            late_max_s=self.late_max_s,
            requests=dict(self.requests),
            failed={kind: dict(faults) for kind, faults in self.failed.items() if faults},
            failures=tuple(self.failures),
            samples=tuple(self.samples),
        )


class Attempt:
    """
    One request, from just before it is sent until its answer is complete: `with Attempt(...) as attempt`.

    The block says `answered` when it has the head. It fails by raising `RequestFailedError` or `TimeoutError`, which
    end here; a cancellation is the end of the run reaching a request that is still open, counted and passed on.
    """

    def __init__(self, record: Record, kind: Kind, path: str, visitor: int | None = None) -> None:
        self._record = record
        self._kind = kind
        self._path = path
        self._visitor = visitor
        self._sent_at = 0.0
        self.succeeded = False

    def __enter__(self) -> Self:
        self._record.requests[self._kind] += 1
        self._record.open += 1
        self._sent_at = time.monotonic()
        return self

    def answered(self, version: str) -> None:
        """Note that the head of a good answer by *version* is here."""
        sample = Sample(self._sent_at, time.monotonic(), time.time(), self._kind, version, self._visitor)
        self._record.samples.append(sample)

    def __exit__(self, _: type[BaseException] | None, exc: BaseException | None, __: TracebackType | None) -> bool:
        self._record.open -= 1
        match exc:
            case None:
                self.succeeded = True
                return True
            case RequestFailedError():
                self._fail(exc.fault, exc.detail)
                return True
            case TimeoutError():
                self._fail(Fault.TIMEOUT, "no complete answer in time")
                return True
            case asyncio.CancelledError():
                self._fail(Fault.TIMEOUT, "unfinished at the end of the run")
                return False
            case _:
                return False

    def _fail(self, fault: Fault, detail: str) -> None:
        self._record.failed[self._kind][fault] += 1
        if len(self._record.failures) < KEPT_FAILURES:
            now = time.monotonic()
            self._record.failures.append(
                Failure(self._sent_at, now, time.time(), self._kind, fault, self._path, detail)
            )
