"""The run spec: how a release's container is run. Unknown fields are refused by name."""

import hashlib
import json
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, field_serializer

from agent.core.model.documents import StrictDocument
from agent.core.model.durations import Duration
from agent.core.model.names import Digest, ReleaseId, printable

ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
"""Name of an environment variable, as Docker takes it."""
_SIGNAL = re.compile(r"SIG[A-Z0-9+-]{2,12}|[1-9][0-9]?")
_VOLUME = re.compile(r"[^:\0\n]+:/[^:\0\n]*(:(ro|rw|z|Z|ro,z|ro,Z))?")
_HOST_ENTRY = re.compile(r"[A-Za-z0-9._-]+:[0-9a-fA-F.:]+|[A-Za-z0-9._-]+:host-gateway")
_CAPABILITY = re.compile(r"(CAP_)?[A-Z_]+|ALL")
_SIZE = re.compile(r"(\d+)([bkmg]?)", re.IGNORECASE)
_SIZE_UNIT = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
LABEL_PREFIX = "tidegate."


def _matching(pattern: re.Pattern[str], what: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            msg = f"{printable(value)} is no {what}"
            raise ValueError(msg)
        return value

    return AfterValidator(check)


def _size_bytes(value: str) -> str:
    found = _SIZE.fullmatch(value)
    if not found or int(found[1]) * _SIZE_UNIT[found[2].lower()] < 6 * 1024**2:
        msg = f"{printable(value)} is no memory limit: write 64m or 2g, at least 6m"
        raise ValueError(msg)
    return value


def _own_label(value: str) -> str:
    if value.startswith(LABEL_PREFIX):
        msg = f"label {printable(value)} is reserved: '{LABEL_PREFIX}' labels belong to Tidegate"
        raise ValueError(msg)
    return value


EnvName = Annotated[str, _matching(ENV_NAME, "name of an environment variable")]
Volume = Annotated[str, _matching(_VOLUME, "volume of the form source:/target[:ro]")]


class Probe(StrictDocument):
    """How a container is checked before it is staged; HAProxy's own check path is a setting of the app."""

    path: Annotated[str, Field(pattern=r"^/[!-~]*$", max_length=1024)] | None = None
    """Path to GET; by default the app's health path."""
    status: Annotated[int, Field(ge=100, le=599)] = 200
    """Status that means healthy."""
    interval: Annotated[Duration, Field(gt=0, le=300)] = 1.0
    """Time between two probes."""
    timeout: Annotated[Duration, Field(gt=0, le=300)] = 2.0
    """Time after which a probe without an answer has failed."""


class LogOptions(StrictDocument):
    """Docker's logging driver and its options; by default rotated files of bounded size."""

    driver: Literal["json-file", "local", "journald", "syslog", "fluentd", "awslogs", "gelf", "none"] = "json-file"
    """Docker's logging driver."""
    options: dict[str, str] = Field(default_factory=lambda: {"max-size": "10m", "max-file": "3"})
    """Options of the driver; the default options go to drivers that write files only."""


class RunSpec(StrictDocument):
    """
    How to run a release's container.

    Values of ``env`` are secret: they appear in no log, report or label.

    A field's way: `cli/rollout/request.py`, the record, `core/host/desired.py`, `runtime/host/jobs.py`, and
    `adapters/docker/container_config.py`, which tells Docker.
    """

    env: dict[EnvName, SecretStr] = Field(default_factory=dict)
    """Environment variables; values are secret."""
    env_files: tuple[Annotated[str, Field(pattern=r"^/[^\x00\n]+$")], ...] = ()
    """Absolute paths on the host of files with NAME=value lines, read at each start of a container."""
    command: tuple[str, ...] | None = None
    """Arguments that replace those of the image."""
    volumes: tuple[Volume, ...] = ()
    """``source:/target[:ro]``: bind mounts or named volumes."""
    memory: Annotated[str, AfterValidator(_size_bytes)] | None = None
    """Memory limit such as ``512m``; none by default."""
    cpus: Annotated[float, Field(gt=0, le=1024)] | None = None
    """CPU limit in cores; none by default."""
    stop_signal: Annotated[str, _matching(_SIGNAL, "signal such as SIGTERM")] | None = None
    """Signal that stops the container; by default the signal that the image names."""
    stop_grace_period: Annotated[Duration, Field(ge=0, le=3600)] | None = None
    """Time between that signal and SIGKILL; by default the app's knob."""
    probe: Probe = Probe()
    """How the container is checked before it is staged."""
    log: LogOptions = LogOptions()
    """Where Docker sends the container's output."""
    labels: dict[Annotated[str, AfterValidator(_own_label)], str] = Field(default_factory=dict)
    """Further labels on the container."""
    extra_hosts: tuple[Annotated[str, _matching(_HOST_ENTRY, "entry of the form name:address")], ...] = ()
    """Entries for ``/etc/hosts``: ``name:address`` or ``name:host-gateway``."""
    user: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+(:[A-Za-z0-9._-]+)?$")] | None = None
    """User, or ``user:group``, in the container; by default the user of the image."""
    read_only: bool = False
    """Run with a read-only root file system."""
    cap_add: tuple[Annotated[str, _matching(_CAPABILITY, "capability")], ...] = ()
    """Linux capabilities to add to Docker's default ones."""
    cap_drop: tuple[Annotated[str, _matching(_CAPABILITY, "capability")], ...] = ()
    """Linux capabilities to drop; ``ALL`` drops every one."""

    @field_serializer("env", when_used="json")
    def _hide_env(self, value: dict[str, SecretStr]) -> dict[str, str]:
        return {name: str(secret) for name, secret in value.items()}

    @property
    def memory_bytes(self) -> int | None:
        """The memory limit in bytes."""
        found = _SIZE.fullmatch(self.memory) if self.memory else None
        return int(found[1]) * _SIZE_UNIT[found[2].lower()] if found else None

    def revealed(self) -> dict[str, object]:
        """Return the whole spec with its secret values, for the journal, the record and the hash."""
        data = self.model_dump(mode="json")
        data["env"] = {name: secret.get_secret_value() for name, secret in self.env.items()}
        return data


def release_id(digest: Digest, spec: RunSpec) -> ReleaseId:
    """Name a release by its content: the first 12 hex digits of sha256 over digest and canonical spec."""
    canonical = json.dumps(spec.revealed(), sort_keys=True, separators=(",", ":"))
    return ReleaseId(hashlib.sha256(f"{digest}\n{canonical}".encode()).hexdigest()[:12])
