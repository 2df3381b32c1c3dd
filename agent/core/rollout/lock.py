"""The value of an app's lock key: who coordinates, and the epoch."""

from pydantic import ValidationError

from agent.core.model.documents import TolerantDocument
from agent.core.model.keys import KeyValue
from agent.core.model.numbers import Count

LOCK_VERSION = 1


class LockValue(TolerantDocument):
    """Content of the lock's key: who coordinates, for people, and the epoch."""

    v: int = LOCK_VERSION
    node: str = ""
    instance: str = ""
    epoch: Count = 0


def read_lock(entry: KeyValue | None) -> LockValue:
    """Return what the lock's key says; what cannot be read counts as epoch 0 of nobody."""
    try:
        return LockValue.model_validate_json(entry.value) if entry is not None else LockValue()
    except ValidationError:
        return LockValue()


def holder_of(entry: KeyValue | None) -> LockValue | None:
    """Return who holds the lock now; None where nobody does."""
    return read_lock(entry) if entry is not None and entry.session else None
