"""The journal on a real file system: whole or not at all, over agent restarts, reboots, damage and full disks."""

import json
import os
import stat
import time
from pathlib import Path

import pytest

from agent.adapters.host.journal import JOURNAL_VERSION, Journal
from agent.core.host.memory import Failure, KeyMemory, LastApplied, Memory, SlotMemory
from agent.core.host.observed import Worker
from agent.core.model.errors import TransientError
from agent.core.model.names import ContainerId, SlotName
from agent.core.model.states import AdminState, ReadinessGate

TIMES = {name for name, field in SlotMemory.model_fields.items() if field.annotation == float | None}
NO_TIME = {"running_since", "checking_since", "restart_at"}
"""Times that end with the boot: what visitors have reached is started and checked anew."""


@pytest.fixture(name="file")
def _file(tmp_path: Path) -> Path:
    return tmp_path / "shop.journal.json"


@pytest.fixture(name="boot")
def _boot(tmp_path: Path) -> Path:
    """Stands for the kernel's boot id; write to it to reboot."""
    boot = tmp_path / "boot_id"
    boot.write_text("one\n")
    return boot


def a_memory(at: float) -> Memory:
    slot = SlotMemory(container=ContainerId("f" * 64), served=True, admin=AdminState.DRAIN, **dict.fromkeys(TIMES, at))
    return Memory(
        slots={SlotName.BLUE: slot},
        worker=Worker(7, 1),
        gate=ReadinessGate.OPEN,
        ready_for=4,
        leaving=True,
        failures={"wish": Failure(reason="refused", at=at, attempts=2)},
        occupancy=3,
        last_applied=LastApplied(active=KeyMemory(value="shop:1", modify_index=9), confirmed_at_wall=1.5),
    )


def aside(file: Path) -> list[Path]:
    return sorted(file.parent.glob(f"{file.name}.unreadable-*"))


def test_the_file_keeps_its_field_names(file: Path) -> None:
    """Other versions of the agent read and write them: a field that is renamed keeps its old name on disk."""
    content = {"slots": {"blue": {"cut": True}}, "tenancy": 3, "baseline": {"confirmed_at_wall": 1.5}}
    assert Journal(file).save(Memory.model_validate(content))
    assert json.loads(file.read_text())["memory"] == content


def test_what_was_saved_is_loaded(file: Path) -> None:
    """By another process of the same boot: everything, unchanged."""
    memory = a_memory(time.monotonic() - 60)
    assert Journal(file).save(memory)
    loaded = Journal(file).load()
    assert (loaded.memory, loaded.problem) == (memory, "")


def test_the_same_again_is_not_written(file: Path) -> None:
    """A converged host does not wear its disk out."""
    journal = Journal(file)
    assert journal.save(a_memory(1.0))
    before = file.stat().st_ino
    assert not journal.save(a_memory(1.0))
    assert file.stat().st_ino == before
    assert journal.save(a_memory(2.0))


def test_only_its_owner_may_read_it(file: Path) -> None:
    """It holds specs with their secrets, also where the umask would allow more and the file was there before."""
    file.write_text("{}")
    file.chmod(0o644)
    before = os.umask(0)
    try:
        Journal(file).save(Memory())
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_without_a_file_there_is_an_empty_memory(file: Path) -> None:
    """A new host is no problem."""
    loaded = Journal(file).load()
    assert (loaded.memory, loaded.problem) == (Memory(), "")


def test_a_crash_between_write_and_rename_keeps_the_old_one(file: Path) -> None:
    """A half-written temporary file is never read, and does not hinder the next write."""
    Journal(file).save(a_memory(1.0))
    file.with_name(f".{file.name}.new").write_text('{"v": 1, "mem')
    assert Journal(file).load().memory.occupancy == 3
    assert Journal(file).save(Memory(occupancy=4))
    assert Journal(file).load().memory.occupancy == 4


def test_a_write_that_fails_keeps_the_old_one_and_is_made_again(file: Path) -> None:
    """The directory is gone, then back: an error in words, and the content is not taken for written."""
    journal = Journal(file.parent / "later" / file.name)
    with pytest.raises(TransientError, match=r"journal .* cannot be written: No such file"):
        journal.save(Memory(occupancy=1))
    (file.parent / "later").mkdir()
    assert journal.save(Memory(occupancy=1))


def test_times_are_carried_over_a_reboot(file: Path, boot: Path) -> None:
    """The clock begins anew; what had lasted ten minutes when it was saved has still lasted ten."""
    began = time.monotonic() - 600
    Journal(file, boot).save(a_memory(began))
    document = json.loads(file.read_text())
    document["saved_at"] += 1e6
    for name in TIMES:
        document["memory"]["slots"]["blue"][name] += 1e6
    document["memory"]["failures"]["wish"]["at"] += 1e6
    file.write_text(json.dumps(document))
    boot.write_text("two\n")
    loaded = Journal(file, boot).load().memory
    slot = loaded.slot(SlotName.BLUE)
    for name in TIMES - NO_TIME:
        assert getattr(slot, name) == pytest.approx(began, abs=5), name
    assert {getattr(slot, name) for name in NO_TIME} == {None}
    assert loaded.failures["wish"].at == pytest.approx(began, abs=5)


def test_what_belongs_to_a_boot_is_forgotten_after_it(file: Path, boot: Path) -> None:
    """HAProxy's worker, states and gate, and that the host was leaving; not what Consul said."""
    Journal(file, boot).save(a_memory(1.0))
    boot.write_text("two\n")
    memory = Journal(file, boot).load().memory
    slot = memory.slot(SlotName.BLUE)
    assert (memory.worker, memory.gate, memory.leaving, slot.admin) == (None, None, False, None)
    assert (slot.served, memory.occupancy) == (True, 3)
    assert memory.last_applied == a_memory(1.0).last_applied


def test_a_container_that_boots_anew_on_the_same_kernel_has_rebooted(file: Path, boot: Path, tmp_path: Path) -> None:
    """Its /run is empty then; an agent that only starts again finds its mark there."""
    run = tmp_path / "run"
    run.mkdir()
    mark = run / "haproxy.boot"
    Journal(file, boot, mark).save(a_memory(1.0))
    assert Journal(file, boot, mark).load().memory == a_memory(1.0)
    mark.unlink()
    memory = Journal(file, boot, mark).load().memory
    assert (memory.worker, memory.gate, memory.ready_for) == (None, None, None)
    assert memory.slot(SlotName.BLUE).served


@pytest.mark.parametrize("older", [True, False])
def test_without_a_mark_the_kernels_word_is_all(file: Path, boot: Path, tmp_path: Path, older: bool) -> None:
    """The journal is of a version that wrote none, or there is no place for one: no agent forgets for that."""
    mark = tmp_path / "haproxy.boot"
    Journal(file, boot, None if older else mark).save(a_memory(1.0))
    place = mark if older else tmp_path / "nowhere" / "haproxy.boot"
    assert Journal(file, boot, place).load().memory == a_memory(1.0)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is damaged"),
        (b'{"v": 1, "mem', "is damaged"),
        (b"[]", "is damaged"),
        (b'{"v": "x"}', "is damaged"),
        (b'{"v": 1, "boot": "b", "saved_at": 1, "memory": {"no such": 1}}', "is damaged"),
        (b'{"v": 1, "boot": "b", "saved_at": "x", "memory": {}}', "is damaged"),
        (b"\xff\xfe", "cannot be read"),
        (json.dumps({"v": JOURNAL_VERSION + 1}).encode(), f"has version {JOURNAL_VERSION + 1}"),
    ],
)
def test_what_cannot_be_used_is_put_aside_whole(file: Path, content: bytes, problem: str) -> None:
    """Never deleted: it is kept under another name, which the problem tells."""
    file.write_bytes(content)
    loaded = Journal(file).load()
    (kept,) = aside(file)
    assert loaded.memory == Memory()
    assert problem in loaded.problem
    assert kept.name in loaded.problem
    assert kept.read_bytes() == content
    assert not file.exists()


def test_each_unusable_journal_is_kept(file: Path) -> None:
    """Two in the same second do not overwrite each other."""
    for content in ("first", "second"):
        file.write_text(content)
        Journal(file).load()
    assert {kept.read_text() for kept in aside(file)} == {"first", "second"}


def test_something_else_in_its_place_is_put_aside(file: Path) -> None:
    """A directory with the journal's name."""
    file.mkdir()
    assert "cannot be read" in Journal(file).load().problem
    assert Journal(file).save(Memory(occupancy=1))
