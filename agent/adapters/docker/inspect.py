"""From what Docker shows of a container, an image or itself to our own values. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.core.host.observed import Container, ContainerState
from agent.core.model.names import (
    ContainerId,
    Digest,
    Pin,
    ReleaseId,
    SlotName,
    parse_digest,
    parse_reference,
)
from agent.core.model.spec import LABEL_PREFIX

_SHORT_HASH = re.compile(r"[0-9a-f]{12}")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_NEVER = "0001-01-01T00:00:00Z"
_ENDED = (ContainerState.EXITED, ContainerState.DEAD)
# What runs on what without emulation.
_RUNS_ON = {"amd64": ("amd64", "386"), "arm64": ("arm64", "arm")}


@dataclass(frozen=True, slots=True)
class Listing:
    """This agent's containers on the daemon."""

    containers: tuple[Container, ...]
    strays: tuple[ContainerId, ...]
    """Containers with our app and node labels whose other labels make no sense; nothing else is known of them."""


@dataclass(frozen=True, slots=True)
class DaemonInfo:
    """What the daemon says of itself."""

    version: str
    api_version: str
    storage_driver: str
    live_restore: bool
    os: str
    architecture: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image on the host."""

    id: Digest
    references: tuple[str, ...]
    """Its tags and its digests (``repository@sha256:...``)."""
    size_bytes: int
    created_s: int
    """Unix time of its creation."""


def container(shown: Mapping[str, Any]) -> Container:
    """
    Read a container from Docker's inspect document.

    Raises:
        ValueError: a label is missing or malformed, or the state is none that we know.
    """
    labels = shown["Config"]["Labels"] or {}
    state = shown["State"]
    status = ContainerState(state["Status"])
    return Container(
        id=ContainerId(shown["Id"]),
        slot=SlotName(_label(labels, "slot")),
        reference=parse_reference(_label(labels, "reference")),
        digest=parse_digest(_label(labels, "digest")),
        release=ReleaseId(_short_hash(labels, "release")),
        pin=Pin(_short_hash(labels, "pin")),
        generation=_count(labels, "generation"),
        occupancy=_count(labels, "tenancy"),
        state=status,
        exit_code=state["ExitCode"] if status in _ENDED else None,
        started_at="" if state["StartedAt"] == _NEVER else state["StartedAt"],
        stop_grace_s=shown["Config"].get("StopTimeout"),
        error="killed: out of memory" if state.get("OOMKilled") and status in _ENDED else plain(state["Error"]),
    )


def image(shown: Mapping[str, Any]) -> Image:
    """Read an image from an entry of Docker's image list."""
    tags = (tag for tag in shown["RepoTags"] or () if not tag.startswith("<none>"))
    digests = (digest for digest in shown["RepoDigests"] or () if not digest.startswith("<none>"))
    return Image(Digest(shown["Id"]), (*tags, *digests), shown["Size"], shown["Created"])


def platform_mismatch(shown: Mapping[str, Any], daemon: DaemonInfo) -> str | None:
    """Say why an image cannot run here; None when it can or does not tell what it is for."""
    architecture, system = shown.get("Architecture") or "", shown.get("Os") or ""
    runs = _RUNS_ON.get(daemon.architecture, (daemon.architecture,))
    if architecture and architecture not in runs:
        return f"image is for {architecture}, this host is {daemon.architecture}"
    if system and system != daemon.os:
        return f"image is for {system}, this host is {daemon.os}"
    return None


def env_values(env: Iterable[str] | None) -> frozenset[str]:
    """Return the values of Docker's ``NAME=value`` list."""
    return frozenset(entry.partition("=")[2] for entry in env or ())


def plain(text: str) -> str:
    """Return *text* without terminal sequences and control characters, newlines included; tabs become spaces."""
    return _CONTROL.sub("", text.replace("\t", " ").replace("\n", " "))


def last_lines(text: str, lines: int, max_bytes: int) -> tuple[str, ...]:
    """Return the last *lines* lines of *text*, cleaned, at most *max_bytes* in all; the oldest go first."""
    kept: list[str] = []
    left = max_bytes
    for raw in reversed(text.rstrip("\n").split("\n")[-lines:]):
        data = plain(raw).encode("utf-8", "replace")
        if not data and not kept:
            continue
        if left <= 0:
            break
        kept.append(data[:left].decode("utf-8", "ignore"))
        left -= len(data)
    return tuple(reversed(kept))


def _label(labels: Mapping[str, str], name: str) -> str:
    value = labels.get(f"{LABEL_PREFIX}{name}")
    if value is None:
        raise ValueError(f"label {LABEL_PREFIX}{name} is missing")
    return value


def _short_hash(labels: Mapping[str, str], name: str) -> str:
    value = _label(labels, name)
    if not _SHORT_HASH.fullmatch(value):
        raise ValueError(f"label {LABEL_PREFIX}{name} is no short hash")
    return value


def _count(labels: Mapping[str, str], name: str) -> int:
    value = _label(labels, name)
    if not re.fullmatch(r"[0-9]{1,18}", value):
        raise ValueError(f"label {LABEL_PREFIX}{name} is no count")
    return int(value)
