"""Pure: which commands make a map of HAProxy's runtime hold what is wanted."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.core.model.errors import HaproxyRefusedError

# No blanks, no control characters, none of the socket's own separators.
_ARGUMENT = re.compile(r"[A-Za-z0-9_./+-]+")


def argument(text: str) -> str:
    """
    Return *text*, known to be safe in a command.

    Raises:
        HaproxyRefusedError: it holds a blank, a separator or the like; we never wrote it.
    """
    if not _ARGUMENT.fullmatch(text):
        raise HaproxyRefusedError(
            f"an HAProxy map of this app holds the key {text!r:.60}, which Tidegate did not write; remove it by hand"
        )
    return text


def difference(found: Sequence[tuple[str, str]], wanted: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the keys to delete (wrong, surplus, or there twice) and those to add."""
    keys = [key for key, _ in found]
    wrong = {key for key, value in found if wanted.get(key) != value or keys.count(key) > 1}
    return sorted(wrong), sorted(key for key in wanted if key not in keys or key in wrong)


def map_commands(path: Path, found: Sequence[tuple[str, str]], wanted: Mapping[str, str]) -> list[str]:
    """Return commands that change values in place where they can: the key is never missing in between."""
    keys = [key for key, _ in found]
    once = {key: value for key, value in found if keys.count(key) == 1}
    surplus = sorted({key for key in keys if key not in wanted or key not in once})
    changed = sorted(key for key in wanted if key in once and once[key] != wanted[key])
    return [
        *(f"del map {path} {argument(key)}" for key in surplus),
        *(f"set map {path} {key} {wanted[key]}" for key in changed),
        *(f"add map {path} {key} {wanted[key]}" for key in sorted(wanted) if key not in once),
    ]
