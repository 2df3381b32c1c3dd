"""
Accept a state of Consul that went back (a restored snapshot): what ``tidegate adopt`` writes.

A terminal record with a generation above all that any host has seen; hosts then follow what the keys say now.
"""

from collections.abc import Iterable

from pydantic import ValidationError

from agent.core.model.documents import TolerantDocument
from agent.core.model.errors import PermanentError
from agent.core.model.keys import Invalid, KeySnapshot, Present
from agent.core.model.names import ImageReference
from agent.core.model.record import Phase
from agent.core.rollout.change import Change, Mirror
from agent.core.rollout.commands import CommandAuthor
from agent.core.rollout.decision import REASON_MAX_CHARS, Decision


class _Seen(TolerantDocument):
    """What is read of a record or report, whatever its version."""

    generation: int = 0


def adopt(keys: KeySnapshot, reports: Iterable[str], by: CommandAuthor) -> Change:
    """
    Accept the present ``active/image``.

    Args:
        keys: the app's keys, read consistently; the record may be unreadable.
        reports: texts of all hosts' reports; one that cannot be read counts as none.
        by: who asks.

    Raises:
        PermanentError: there is no usable ``active/image`` to adopt.
    """
    if not isinstance(keys.active, Present):
        why = keys.active.reason if isinstance(keys.active, Invalid) else "active/image is missing"
        raise PermanentError(f"{why}: set it first, then adopt")
    texts = [*reports, keys.rollout.value if isinstance(keys.rollout, Present) else "{}"]
    record = Decision(
        generation=max(_generation(text) for text in texts) + 1,
        seq=0,
        phase=Phase.SUCCESSFUL,
        author=by.author[:REASON_MAX_CHARS],
        reason=by.reason[:REASON_MAX_CHARS],
        why="adopted",
        created_at=by.at,
    )
    stage = Mirror(ImageReference(keys.active.value), None, keeps_spec=True)
    return Change(record, "adopted", why=by.note, stage=stage, checks_active=True)


def _generation(text: str) -> int:
    try:
        return max(0, _Seen.model_validate_json(text).generation)
    except ValidationError:
        return 0
