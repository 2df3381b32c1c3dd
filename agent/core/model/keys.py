"""
Names of the Consul keys (design.md, section 3) and the reading of their raw content into values.

Pure: the Consul adapter hands in what it read, whole; what comes out is one atomic snapshot in which each key is
present, absent or invalid. Whether a value may be followed (went back, vanished) is judged elsewhere.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from agent.core.model.errors import PermanentError
from agent.core.model.names import AppName, NodeName, parse_reference, printable

VALUE_MAX_BYTES = 64 * 1024
KEY_MAX_CHARS = 512
_KEY = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*/?")


def check_key(key: str) -> str:
    """
    Check a key or prefix before it goes into a URL; return it.

    Newer Consul refuses most other characters, and ``..`` or ``//`` would be rewritten on the way.

    Raises:
        PermanentError: empty, over 512 characters, outside ``[A-Za-z0-9._/-]``, or with an empty or dotted segment.
    """
    dotted = any(segment in {".", ".."} for segment in key.split("/"))
    if dotted or len(key) > KEY_MAX_CHARS or not _KEY.fullmatch(key):
        raise PermanentError(f"{printable(key)} is no key: write letters, digits, '.', '_', '-' between single '/'")
    return key


def app_prefix(app: AppName) -> str:
    """Return the root of the desired state; the one prefix nodes watch."""
    return f"{app}/"


def active_image(app: AppName) -> str:
    """Return the key of the image new visitors get."""
    return f"{app}/active/image"


def stage_image(app: AppName) -> str:
    """Return the key of the image to hold beside it."""
    return f"{app}/stage/image"


def active_spec(app: AppName) -> str:
    """Return the key of the active release's run spec."""
    return f"{app}/active/spec"


def stage_spec(app: AppName) -> str:
    """Return the key of the staged release's run spec."""
    return f"{app}/stage/spec"


def rollout(app: AppName) -> str:
    """Return the key of the decision record."""
    return f"{app}/rollout"


def status_prefix(app: AppName) -> str:
    """Return the root of all that agents write."""
    return f"{app}-status/"


def coordinator(app: AppName) -> str:
    """Return the key of the coordinators' lock."""
    return f"{app}-status/coordinator"


def members(app: AppName, generation: int) -> str:
    """Return the key of the node names of a rollout's barrier."""
    return f"{app}-status/rollouts/{generation}/members"


def rollouts(app: AppName) -> str:
    """Return the prefix of what belongs to single rollouts."""
    return f"{app}-status/rollouts/"


def node_reports(app: AppName) -> str:
    """Return the prefix of all nodes' reports."""
    return f"{app}-status/nodes/"


def node_report(app: AppName, node: NodeName) -> str:
    """Return the key of one node's report."""
    return f"{app}-status/nodes/{node}"


def histories(app: AppName) -> str:
    """Return the prefix of all audit entries."""
    return f"{app}-status/history/"


def history_of(app: AppName, generation: int) -> str:
    """Return the prefix of one rollout's audit entries."""
    return f"{app}-status/history/{generation}/"


def history(app: AppName, generation: int, seq: int) -> str:
    """Return the key of one audit entry."""
    return f"{app}-status/history/{generation}/{seq}"


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key as Consul holds it."""

    key: str
    value: bytes
    modify_index: int
    session: str = ""
    """Id of the session that holds it as a lock; empty when none does."""


@dataclass(frozen=True, slots=True)
class Present:
    """A key with a usable value."""

    value: str
    modify_index: int


@dataclass(frozen=True, slots=True)
class Absent:
    """A key that Consul confirmed does not exist."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """A key whose value cannot be used; the reason names the key."""

    reason: str


Reading = Present | Absent | Invalid
ABSENT = Absent()


def index_of(reading: Reading) -> int:
    """Return the ModifyIndex that a guard of a write needs; 0 for a key without a usable value."""
    return reading.modify_index if isinstance(reading, Present) else 0


@dataclass(frozen=True, slots=True)
class KeySnapshot:
    """The desired state of one app, read in one atomic query. Specs and record are raw text."""

    active: Reading = ABSENT
    stage: Reading = ABSENT
    active_spec: Reading = ABSENT
    stage_spec: Reading = ABSENT
    rollout: Reading = ABSENT
    index: int = field(default=0, compare=False)
    """Consul's index of the query; moves for keys that do not concern us, so it does not count in equality."""


@dataclass(frozen=True, slots=True)
class Known:
    """Consul answered, and what is absent was confirmed to be absent."""

    snapshot: KeySnapshot


@dataclass(frozen=True, slots=True)
class Forbidden:
    """Consul refuses to show the keys, or hides some: nothing is known of them."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Consul gave no usable answer."""

    reason: str


Outcome = Known | Forbidden | Unknown


def desired_keys(app: AppName) -> tuple[str, ...]:
    """Return the keys a snapshot is made of; all others under the prefix (``port``, ...) are ignored."""
    return active_image(app), stage_image(app), active_spec(app), stage_spec(app), rollout(app)


def read_snapshot(app: AppName, entries: Iterable[KeyValue], index: int) -> KeySnapshot:
    """
    Read what one recursive read of the app's prefix returned (any order) and its index into a snapshot.

    Keys that are not ours are ignored. Values are stripped: ``echo`` leaves a newline behind.
    """
    found = {entry.key: entry for entry in entries}

    def read(key: str, parse: Callable[[str], str]) -> Reading:
        entry = found.get(key)
        return ABSENT if entry is None else _read(entry, parse)

    return KeySnapshot(
        active=read(active_image(app), parse_reference),
        stage=read(stage_image(app), parse_reference),
        active_spec=read(active_spec(app), str),
        stage_spec=read(stage_spec(app), str),
        rollout=read(rollout(app), str),
        index=index,
    )


def _read(entry: KeyValue, parse: Callable[[str], str]) -> Present | Invalid:
    if len(entry.value) > VALUE_MAX_BYTES:
        return Invalid(f"key {entry.key} holds {len(entry.value)} bytes, at most {VALUE_MAX_BYTES} are read")
    try:
        text = entry.value.decode().strip()
    except UnicodeDecodeError as exc:
        return Invalid(f"key {entry.key} is not UTF-8 text: byte {exc.start} is {entry.value[exc.start]:#04x}")
    if not text:
        return Invalid(f"key {entry.key} is empty")
    try:
        return Present(parse(text), entry.modify_index)
    except ValueError as exc:
        return Invalid(f"key {entry.key}: {exc}")
