"""The audit entries of an app's rollouts: reading them, one line per rollout, and one rollout whole."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from pydantic import ConfigDict, Field, ValidationError, field_validator

from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.visibility import list_keys
from agent.core.model import keys
from agent.core.model.documents import TolerantDocument
from agent.core.model.keys import KeyValue
from agent.core.model.names import AppName
from agent.core.model.record import Phase


class Entry(TolerantDocument):
    """One change of a record, as its author wrote it down."""

    model_config = ConfigDict(populate_by_name=True)

    generation: int = 0
    seq: int = 0
    at: datetime
    by: str = ""
    what: str = ""
    why: str = ""
    was: Phase | None = Field(default=None, alias="from")
    phase: Phase | None = Field(default=None, alias="to")
    epoch: int = 0
    source: str = ""
    target: str = ""
    image: str = ""
    author: str = ""
    reason: str = ""
    active: str = ""
    """In the entry of ``adopt``."""
    lines: tuple[str, ...] = ()
    hosts: dict[str, float] = Field(default_factory=dict)
    """Since when each host had done what the change waited for: Unix seconds of its own clock."""

    @field_validator("was", "phase", mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        """Read a phase of a later version as none."""
        return value if value in set(Phase) else None


@dataclass(frozen=True, slots=True)
class Rollout:
    """One rollout, from its entries in the order of their writing; at least one."""

    generation: int
    entries: tuple[Entry, ...]

    @property
    def first(self) -> Entry:
        """How it began."""
        return self.entries[0]

    @property
    def last(self) -> Entry:
        """How it stands."""
        return self.entries[-1]

    @property
    def has_ended(self) -> bool:
        """Whether it is over."""
        return self.last.phase is not None and self.last.phase.is_terminal

    @property
    def image(self) -> str:
        """What it was about."""
        return self.last.image or self.first.image or self.last.target or self.last.active or "adopted"

    @property
    def author(self) -> str:
        """Who began it."""
        return self.first.author or self.first.by

    @property
    def took_s(self) -> float:
        """Seconds from its begin to its last entry."""
        return (self.last.at - self.first.at).total_seconds()

    @property
    def phases(self) -> tuple[tuple[Phase, float | None], ...]:
        """Each phase it was in, and for how many seconds; None for the last one."""
        entered = [(entry.phase, entry.at) for entry in self.entries if entry.phase and entry.phase is not entry.was]
        ends = [*(at for _, at in entered[1:]), None]
        return tuple(
            (phase, None if end is None else (end - at).total_seconds())
            for (phase, at), end in zip(entered, ends, strict=True)
        )

    @property
    def lines(self) -> tuple[str, ...]:
        """Last log lines of what failed in it."""
        return next((entry.lines for entry in reversed(self.entries) if entry.lines), ())


async def read_history(client: ConsulClient, app: AppName) -> tuple[Rollout, ...]:
    """
    Read all rollouts, the oldest first; entries that cannot be read are left out.

    Raises:
        ConsulForbiddenError: the token may not read all of it.
        ConsulUnavailableError: no usable answer.
    """
    listing = (await list_keys(client, keys.histories(app))).whole()
    return rollouts_of(app, listing.entries)


async def read_rollout(client: ConsulClient, app: AppName, generation: int) -> Rollout | None:
    """Read one rollout; None where nothing is written of it. Raises as :func:`read_history`."""
    listing = (await list_keys(client, f"{keys.histories(app)}{generation}/")).whole()
    return next(iter(rollouts_of(app, listing.entries)), None)


def rollouts_of(app: AppName, listing: Iterable[KeyValue]) -> tuple[Rollout, ...]:
    """Group raw entries by rollout."""
    found: Mapping[int, list[Entry]] = defaultdict(list)
    for item in listing:
        entry = _entry(app, item)
        if entry is not None:
            found[entry.generation].append(entry)
    return tuple(
        Rollout(generation, tuple(sorted(entries, key=lambda entry: entry.seq)))
        for generation, entries in sorted(found.items())
    )


def _entry(app: AppName, item: KeyValue) -> Entry | None:
    generation, _, seq = item.key.removeprefix(keys.histories(app)).partition("/")
    if not (generation.isdecimal() and seq.isdecimal()):
        return None
    try:
        return Entry.model_validate_json(item.value).replace(generation=int(generation), seq=int(seq))
    except ValidationError:
        return None
