"""
Accept a state of Consul that went back (a restored snapshot): what ``tidegate adopt`` writes.

A terminal record with a generation above all that any host has seen; hosts then follow what the keys say now.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from agent.core.model.documents import TolerantDocument
from agent.core.model.errors import PermanentError
from agent.core.model.keys import Invalid, KeySnapshot, Present
from agent.core.model.record import RECORD_VERSION, Phase


class _Seen(TolerantDocument):
    """What is read of a record or report, whatever its version."""

    generation: int = 0


@dataclass(frozen=True, slots=True)
class Adoption:
    """What is written in one transaction."""

    generation: int
    active: str
    record: str
    audit: str


def adopt(snapshot: KeySnapshot, reports: Iterable[str], *, author: str, reason: str, at: str) -> Adoption:
    """
    Say what to write so that the present ``active/image`` is followed.

    Args:
        snapshot: the keys as they are now.
        reports: texts of all hosts' reports; one that cannot be read counts as none.
        author: who asks.
        reason: why.
        at: time in ISO 8601.

    Raises:
        PermanentError: there is no usable ``active/image`` to adopt.
    """
    if not isinstance(snapshot.active, Present):
        why = snapshot.active.reason if isinstance(snapshot.active, Invalid) else "active/image is missing"
        raise PermanentError(f"{why}: set it first, then adopt")
    active = snapshot.active.value
    texts = [*reports, snapshot.rollout.value if isinstance(snapshot.rollout, Present) else "{}"]
    generation = max(_generation(text) for text in texts) + 1
    entry = {"author": author, "reason": reason, "at": at}
    record = {"v": RECORD_VERSION, "generation": generation, "seq": 0, "epoch": 0, "phase": Phase.SUCCESSFUL, **entry}
    audit = {"v": RECORD_VERSION, "what": "adopted", "from": None, "to": Phase.SUCCESSFUL, "active": active, **entry}
    return Adoption(generation, active, json.dumps(record), json.dumps(audit))


def _generation(text: str) -> int:
    try:
        return max(0, _Seen.model_validate_json(text).generation)
    except ValidationError:
        return 0
