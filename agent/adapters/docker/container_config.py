"""From a release and its spec to the container Docker is asked for. Pure but for reading env files."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.core.model.app import App
from agent.core.model.errors import PermanentError
from agent.core.model.names import NodeName, SlotName, printable
from agent.core.model.release import Release
from agent.core.model.spec import ENV_NAME, LABEL_PREFIX, LogOptions, RunSpec

_ROTATING = ("json-file", "local")
ENV_FILE_MAX_BYTES = 1024**2


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A new occupant for a slot."""

    slot: SlotName
    release: Release
    occupancy: int
    """The number of :class:`agent.core.host.observed.Container`; higher than every other one on this host."""


def labels_filter(app: App, node: NodeName) -> tuple[str, ...]:
    """Return the labels that make a container this agent's own, as ``name=value``."""
    return (f"{LABEL_PREFIX}app={app.name}", f"{LABEL_PREFIX}node={node}")


def container_name(app: App, node: NodeName, request: RunRequest) -> str:
    """Return a name for people to read; node and occupancy make it unique on the daemon."""
    return f"tidegate-{app.name}-{request.slot}-{request.release.id}-{node}-{request.occupancy}"


def container_labels(app: App, node: NodeName, request: RunRequest) -> Mapping[str, str]:
    """Return the labels from which a container is adopted later, the spec's own beside them."""
    release = request.release
    own = {
        "app": app.name,
        "node": node,
        "release": release.id,
        "reference": release.reference,
        "digest": release.digest,
        "slot": request.slot.value,
        "generation": str(release.generation),
        "pin": release.pin,
        "tenancy": str(request.occupancy),  # the label's name is older than ours
    }
    return {**release.spec.labels, **{f"{LABEL_PREFIX}{name}": value for name, value in own.items()}}


def container_config(
    app: App, node: NodeName, request: RunRequest, *, image: str, file_env: Mapping[str, str]
) -> dict[str, Any]:
    """
    Build the body of Docker's ``containers/create``.

    Args:
        app: gives network, address and the default grace period.
        node: goes into the labels.
        request: what runs where.
        image: ``repository@sha256:...`` or an image id; never a tag, which may have moved.
        file_env: what the spec's env files hold; the spec's own ``env`` wins.
    """
    spec = request.release.spec
    grace_s = app.knobs.stop_grace_period if spec.stop_grace_period is None else spec.stop_grace_period
    env = {**file_env, **{name: secret.get_secret_value() for name, secret in spec.env.items()}}
    address = {"IPAMConfig": {"IPv4Address": str(app.address(request.slot))}}
    config: dict[str, Any] = {
        "Image": image,
        "Env": [f"{name}={value}" for name, value in env.items()],
        "Labels": dict(container_labels(app, node, request)),
        "StopTimeout": math.ceil(grace_s),
        "HostConfig": _host_config(app, spec),
        "NetworkingConfig": {"EndpointsConfig": {app.network_name: address}},
    }
    if spec.command is not None:
        config["Cmd"] = list(spec.command)
    if spec.stop_signal is not None:
        config["StopSignal"] = spec.stop_signal
    if spec.user is not None:
        config["User"] = spec.user
    return config


def _host_config(app: App, spec: RunSpec) -> dict[str, Any]:
    config: dict[str, Any] = {
        "NetworkMode": app.network_name,
        # Only the agent starts containers: Docker's own restarts would race it.
        "RestartPolicy": {"Name": "no"},
        "Binds": list(spec.volumes),
        "LogConfig": {"Type": spec.log.driver, "Config": _log_options(spec.log)},
        "ExtraHosts": list(spec.extra_hosts),
        "ReadonlyRootfs": spec.read_only,
        "CapAdd": list(spec.cap_add),
        "CapDrop": list(spec.cap_drop),
    }
    if spec.memory_bytes is not None:
        config["Memory"] = spec.memory_bytes
    if spec.cpus is not None:
        config["NanoCpus"] = round(spec.cpus * 1e9)
    return config


def _log_options(log: LogOptions) -> dict[str, str]:
    # The default options rotate files; a driver without files would refuse them.
    is_default = log.options == LogOptions().options
    return {} if is_default and log.driver not in _ROTATING else dict(log.options)


def read_env_files(paths: tuple[str, ...]) -> Mapping[str, str]:
    """
    Read files of ``NAME=value`` lines; of a name that occurs twice the last value counts.

    Empty lines and lines that begin with ``#`` are left out; values are taken as they are, quotes included.

    Raises:
        PermanentError: a file cannot be read or a line is malformed; names file and line, never its content.
    """
    env: dict[str, str] = {}
    for path in paths:
        env.update(_env_of(path, _read(path)))
    return env


def _read(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            data = file.read(ENV_FILE_MAX_BYTES + 1)
        if len(data) > ENV_FILE_MAX_BYTES:
            raise PermanentError(f"env file {printable(path, 200)}: larger than {ENV_FILE_MAX_BYTES} bytes")
        return data.decode("utf-8-sig")
    except OSError as exc:
        raise PermanentError(f"env file {printable(path, 200)}: {exc.strerror or exc}") from exc
    except UnicodeDecodeError:
        # The cause holds the file's bytes: it is not chained.
        raise PermanentError(f"env file {printable(path, 200)}: not UTF-8") from None


def _env_of(path: str, text: str) -> Mapping[str, str]:
    env: dict[str, str] = {}
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.removesuffix("\r").lstrip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not ENV_NAME.fullmatch(name) or "\0" in value:
            raise PermanentError(f"env file {printable(path, 200)}: line {number} is not of the form NAME=value")
        env[name] = value
    return env
