"""Replacing a file: whoever reads it, also after a crash, finds the old text or the new, whole."""

import os
import shutil
from pathlib import Path


def write_atomically(path: Path, text: str, *, mode: int = 0o600, owner: str | None = None) -> None:
    """
    Replace *path* by a file that holds *text*.

    Args:
        path: in a directory that is there; a link there is replaced, not followed.
        text: the whole content.
        mode: of the new file; nobody else may read it before it has it.
        owner: user, and group of the same name; needs root. None: whoever writes it.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
        if owner is not None:
            shutil.chown(temporary, owner, owner)
        os.fchmod(file.fileno(), mode)
    temporary.replace(path)
