"""
Pure parsers of what HAProxy's runtime and master sockets answer. Columns are found by their header names.

All raise :class:`HaproxyRefusedError` with HAProxy's words when the answer is none of the expected kind.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass

from agent.core.host.observed import Server, Worker
from agent.core.model.errors import HaproxyRefusedError, HaproxyUnavailableError
from agent.core.model.names import printable
from agent.core.model.states import AdminState

# srv_admin_state is a mask (HAProxy, include/haproxy/server-t.h). Bit 4 only remembers that the configuration
# says `disabled`; it is set on servers that serve.
_MAINT_BITS = 0x01 | 0x02 | 0x20
_DRAIN_BITS = 0x08 | 0x10
ADMIN_BITS = _MAINT_BITS | _DRAIN_BITS

_MAP_LINE = re.compile(r"0x[0-9a-f]+ (\S+) (.*)")


@dataclass(frozen=True, slots=True)
class Info:
    """Who answered: one worker process."""

    worker: Worker
    uptime_s: float
    is_stopping: bool
    """Whether it is a worker of before a reload: its states are frozen and commands to it are lost."""
    version: str = ""


@dataclass(frozen=True, slots=True)
class SavedState:
    """One line of ``show servers state``."""

    admin_mask: int
    op_state: int
    """0 stopped, 1 starting, 2 running, 3 stopping."""
    target: tuple[str, int]
    """Address and port HAProxy connects to; those of the state file win over the configured port."""

    @property
    def admin(self) -> AdminState:
        """The administrative state the mask stands for."""
        return admin_state(self.admin_mask)

    @property
    def durable(self) -> tuple[int, int]:
        """What the server-state file must hold for a restart to bring this state back."""
        return self.admin_mask & ADMIN_BITS, self.op_state


@dataclass(frozen=True, slots=True)
class Processes:
    """``show proc`` of the master: process ids."""

    workers: tuple[int, ...]
    old_workers: tuple[int, ...]


def split_replies(text: str, count: int) -> tuple[str, ...]:
    """
    Split what *count* commands on one line answered; an empty line ends each reply.

    Raises:
        HaproxyUnavailableError: the answer is cut short, as by a worker that ends.
    """
    replies: list[str] = []
    lines: list[str] = []
    for line in text.splitlines():
        if line:
            lines.append(line)
        else:
            replies.append("\n".join(lines))
            lines = []
    if lines or len(replies) != count:
        raise HaproxyUnavailableError(f"HAProxy answered {len(replies)} of {count} commands completely")
    return tuple(replies)


def admin_state(mask: int) -> AdminState:
    """Decode the administrative state from its mask."""
    if mask & _MAINT_BITS:
        return AdminState.MAINT
    return AdminState.DRAIN if mask & _DRAIN_BITS else AdminState.READY


def parse_info(text: str) -> Info:
    """Read ``show info``."""
    values = dict(line.partition(": ")[::2] for line in text.splitlines())
    try:
        return Info(
            worker=Worker(pid=int(values["Pid"]), start_time_s=int(values["Start_time_sec"])),
            uptime_s=float(values["Uptime_sec"]),
            is_stopping=values["Stopping"] != "0",
            version=values.get("Version", ""),
        )
    except (KeyError, ValueError) as exc:
        raise _unexpected("show info", text) from exc


def parse_server_states(text: str) -> Mapping[tuple[str, str], SavedState]:
    """Read ``show servers state`` (format version 1), also from a file: by backend and server name."""
    lines = [line for line in text.splitlines() if line]
    if len(lines) < 2 or lines[0] != "1" or not lines[1].startswith("# "):
        raise _unexpected("show servers state", text)
    names = lines[1][2:].split()
    try:
        rows = [dict(zip(names, line.split(), strict=True)) for line in lines[2:]]
        return {
            (row["be_name"], row["srv_name"]): SavedState(
                admin_mask=int(row["srv_admin_state"]),
                op_state=int(row["srv_op_state"]),
                target=(row["srv_addr"], int(row["srv_port"])),
            )
            for row in rows
        }
    except (KeyError, ValueError) as exc:
        raise _unexpected("show servers state", text) from exc


def parse_stat(text: str) -> Mapping[str, Mapping[str, str]]:
    """Read the server rows of one backend in ``show stat`` (csv): columns by server name."""
    if not text.startswith("# pxname,svname,"):
        raise _unexpected("show stat", text)
    rows = csv.DictReader(text[2:].splitlines())
    return {row["svname"]: row for row in rows if row["svname"] not in ("FRONTEND", "BACKEND")}


def read_server(row: Mapping[str, str], state: SavedState, uptime_s: float) -> Server:
    """Join what ``show stat`` and ``show servers state`` say of one server, of a worker *uptime_s* old."""
    text = (row.get("check_desc", ""), row.get("last_chk", ""))
    code = row.get("check_code") or "0"
    try:
        last_session_s = float(row["lastsess"])
        return Server(
            admin=state.admin,
            status=row["status"],
            check=row["check_status"].removeprefix("* "),
            check_detail=": ".join(word for word in text if word) + (f" ({code})" if code != "0" else ""),
            open_requests=int(row["scur"]),
            queued=int(row["qcur"]),
            last_request_age_s=last_session_s if last_session_s >= 0 else uptime_s,
        )
    except (KeyError, ValueError) as exc:
        raise _unexpected("show stat", str(dict(row))) from exc


def parse_map(text: str) -> tuple[tuple[str, str], ...]:
    """Read ``show map``: entries in order, duplicates included."""
    found = [_MAP_LINE.fullmatch(line) for line in text.splitlines()]
    entries = tuple((match[1], match[2]) for match in found if match)
    if len(entries) != len(found):
        raise _unexpected("show map", text)
    return entries


def parse_proc(text: str) -> Processes:
    """Read ``show proc`` of the master."""
    sections: dict[str, list[int]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("#"):
            section = line.strip("# ").partition(" ")[0] if line.startswith("#<") else line.strip("# ")
            sections[section] = []
        elif line.split() and line.split()[0].isdecimal():
            sections.setdefault(section, []).append(int(line.split()[0]))
    if "workers" not in sections:
        raise _unexpected("show proc", text)
    return Processes(tuple(sections["workers"]), tuple(sections.get("old workers", ())))


def require_new_address(command: str, reply: str) -> None:
    """Take what HAProxy says to a changed address for what it is; the one success that has words."""
    if not re.search(r"changed from|nothing changed|no need to change", reply):
        require_empty(command, reply)


def require_empty(command: str, reply: str) -> None:
    """Take any words in reply to a command that changes something for what they are: a refusal."""
    if reply.strip():
        raise HaproxyRefusedError(f"HAProxy refused '{command}': {printable(reply.strip(), 300)}")


def _unexpected(command: str, text: str) -> HaproxyRefusedError:
    return HaproxyRefusedError(f"HAProxy answered '{command}' with {printable(text.strip(), 300)}")
