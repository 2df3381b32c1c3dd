"""Replacing a file: whole, with its mode and owner, and never through a link that somebody put there."""

import grp
import os
import pwd
import stat
from pathlib import Path

import pytest

from agent.adapters.host.atomic_file import write_atomically


def test_a_file_is_written_whole_with_its_mode_and_nothing_else_stays(tmp_path: Path) -> None:
    for content in ("one", "two"):
        write_atomically(tmp_path / "secret", content)
    assert (tmp_path / "secret").read_text() == "two"
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]


def test_an_owner_gets_the_file(tmp_path: Path) -> None:
    """The user and the group of the same name."""
    user = next((each for each in pwd.getpwall() if each.pw_uid and each.pw_name in _groups()), None)
    if os.getuid() != 0 or user is None:
        pytest.skip("only root gives files away, to a user with a group of its own name")
    write_atomically(tmp_path / "secret", "text", mode=0o640, owner=user.pw_name)
    seen = (tmp_path / "secret").stat()
    assert (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (user.pw_uid, _groups()[user.pw_name], 0o640)


def test_a_link_that_lies_where_the_new_text_is_written_is_not_followed(tmp_path: Path) -> None:
    """Whoever may write in the directory cannot choose which file is overwritten."""
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / ".secret.new").symlink_to(target)
    write_atomically(tmp_path / "secret", "text")
    assert (target.read_text(), (tmp_path / "secret").read_text()) == ("mine", "text")


def test_an_atomic_write_replaces_a_link_not_its_target(tmp_path: Path) -> None:
    """What a link points to is left alone."""
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("mine")
    link.symlink_to(target)
    write_atomically(link, "new")
    assert (target.read_text(), link.read_text(), link.is_symlink()) == ("mine", "new", False)


def _groups() -> dict[str, int]:
    return {each.gr_name: each.gr_gid for each in grp.getgrall()}
