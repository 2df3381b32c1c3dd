"""
The agent's settings: a TOML file, then the environment over it (``TIDEGATE_CONSUL__TOKEN_FILE=...``).

Unknown keys are refused; every error names the key. ``docs/configuration.md`` is generated from these models.
"""

import os
import re
import socket
import tomllib
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from agent.core.model.app import App
from agent.core.model.documents import StrictDocument
from agent.core.model.durations import Duration
from agent.core.model.errors import FatalError
from agent.core.model.field_problems import FieldProblem, field_problems
from agent.core.model.names import AppName, NodeName, parse_app, parse_node

DEFAULT_FILE = Path("/etc/tidegate/tidegate.toml")
PREFIX = "TIDEGATE_"
_OTHER_VARIABLES = frozenset({"TIDEGATE_APP", "TIDEGATE_AUTHOR", "TIDEGATE_CACHE", "TIDEGATE_CONFIG"})


class ConsulSettings(StrictDocument):
    """How to reach the local Consul agent."""

    address: Annotated[str, Field(pattern=r"^(https?://[A-Za-z0-9.\[\]:_-]+|unix:///.+)$")] = "http://127.0.0.1:8500"
    """``http://``, ``https://`` or ``unix:///path``."""
    token: SecretStr = SecretStr("")
    """ACL token; prefer ``token_file``."""
    token_file: Path | None = None
    """File with the ACL token; the agent reads it again when it changes."""
    ca_file: Path | None = None
    """CA certificate that signed Consul's certificate."""
    cert_file: Path | None = None
    """Client certificate."""
    key_file: Path | None = None
    """Key of the client certificate."""


class DockerSettings(StrictDocument):
    """How to reach the Docker Engine and its registries."""

    socket: Annotated[str, Field(pattern=r"^(unix:///.+|tcp://.+)$")] = "unix:///var/run/docker.sock"
    """The daemon's socket."""
    config_file: Path = Path("/etc/tidegate/docker/config.json")
    """Docker config file with registry credentials and credential helpers, read at each pull."""
    data_root: Path = Path("/var/lib/docker")
    """Directory of the daemon's images; the agent checks its free space before a pull."""
    insecure_registries: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+(:[0-9]{1,5})?$")], ...] = ()
    """Registries (``host[:port]``) that a coordinator asks by plain HTTP; registries on loopback always are."""
    disk_reserve: Annotated[str, Field(pattern=r"^[0-9]{1,6}[kmg]$")] = "1g"
    """Free space below which no pull starts; the pull waits with a reason, and pruning continues."""

    @property
    def disk_reserve_bytes(self) -> int:
        """The reserve in bytes."""
        return int(self.disk_reserve[:-1]) * {"k": 1024, "m": 1024**2, "g": 1024**3}[self.disk_reserve[-1]]


class HaproxySettings(StrictDocument):
    """How to reach HAProxy, and values of its rendered configuration."""

    socket: Path = Path("/run/haproxy/tidegate.sock")
    """Runtime socket, level admin."""
    master_socket: Path = Path("/run/haproxy-master.sock")
    """Master socket, which lists the workers from before a reload."""
    server_state_file: Path = Path("/run/haproxy/tidegate.state")
    """File that the agent writes after each change and HAProxy reads at a reload; on a tmpfs."""
    hard_stop_after: Duration | None = None
    """Maximum life of a worker after a reload; at most, and by default, the longest ``drain_timeout``."""
    maxconn: Annotated[int, Field(ge=10, le=1_000_000)] = 8000
    """Maximum number of connections; HAProxy needs twice as many file descriptors."""
    ops_port: Annotated[int, Field(ge=1, le=65535)] | None = 8404
    """Loopback port of HAProxy's own metrics and statistics."""
    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]*$")] | None = None
    """User that HAProxy switches to; leave it out when the unit sets ``User=``."""
    group: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]*$")] | None = None
    """Group that HAProxy switches to."""
    socket_group: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]*$")] | None = None
    """Group that may use the runtime socket: the group of the agent."""
    binary: str = "haproxy"
    """Program that checks a rendered configuration."""


class ApiSettings(StrictDocument):
    """The agent's own HTTP API."""

    port: Annotated[int, Field(ge=1, le=65535)] = 8405
    """Loopback port of health, status, plan and metrics."""


class Ec2Settings(StrictDocument):
    """Life cycle of the instance in an auto-scaling group of AWS; disabled by default."""

    enabled: bool = False
    """Whether this host is an EC2 instance that completes the hooks of its auto-scaling group."""
    launch_hook: str = "serving"
    """Name of the group's launch hook; completed when the host serves the right release or the holding page."""
    leave_hook: str = "leave"
    """Name of the group's termination hook; completed when no request is open any more."""
    launch_timeout: Duration = 840.0
    """Maximum time until a new host is ready; below the timeouts of the hook and the stack."""
    leave_timeout: Duration = 240.0
    """Maximum time for open requests before the instance terminates; below the timeout of the hook."""
    stack: str = ""
    """CloudFormation stack that waits for this host; none by default."""
    resource: str = ""
    """Logical name of the host's group in that stack."""
    metadata: Annotated[str, Field(pattern=r"^http://[A-Za-z0-9.\[\]:-]+$")] = "http://169.254.169.254"
    """URL of the instance's metadata service."""
    endpoint: Annotated[str, Field(pattern=r"^https?://.+$")] | None = None
    """URL for calls to AWS in place of the regional endpoints."""


def _at_most_one(apps: tuple[App, ...]) -> tuple[App, ...]:
    if len(apps) > 1:
        msg = f"a host has one app, for now; {len(apps)} are set"
        raise ValueError(msg)
    return apps


class Settings(BaseSettings):
    """Everything ``tidegate agent`` needs to know."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=PREFIX,
        env_nested_delimiter="__",
    )

    node: Annotated[NodeName, AfterValidator(parse_node)] = Field(
        default_factory=lambda: NodeName(socket.gethostname()), validate_default=True
    )
    """Name of this host; the same as the node name of its Consul agent."""
    state_dir: Path = Path("/var/lib/tidegate")
    """Directory of the journal and the map files; it must survive reboots."""
    consul: ConsulSettings = ConsulSettings()
    """How to reach the local Consul agent."""
    docker: DockerSettings = DockerSettings()
    """How to reach the Docker Engine."""
    haproxy: HaproxySettings = HaproxySettings()
    """How to reach HAProxy."""
    api: ApiSettings = ApiSettings()
    """The agent's own HTTP API."""
    ec2: Ec2Settings = Ec2Settings()
    """The instance's life in an auto-scaling group of AWS."""
    apps: Annotated[tuple[App, ...], AfterValidator(_at_most_one)] = ()
    """The app of this host; at most one, and none on a host that only coordinates."""
    coordinator: bool = False
    """Whether this agent may coordinate rollouts; its token then has the right to deploy."""
    coordinates: tuple[Annotated[AppName, AfterValidator(parse_app)], ...] = ()
    """Names of the apps that this agent coordinates; by default the host's own app."""
    boot_wait: Duration = 60.0
    """Time a host without running containers waits for Consul before it follows its journal."""
    journal_max_age: Duration = 86400.0
    """Maximum age of the journal: the time since Consul last confirmed its content."""

    @model_validator(mode="after")
    def _has_something_to_do(self) -> Self:
        if not self.apps and not self.coordinator:
            raise ValueError("apps: a host has exactly one app, unless it only coordinates (coordinator = true)")
        if self.coordinates and not self.coordinator:
            raise ValueError("coordinates: set coordinator = true, too")
        if self.coordinator and not self.coordinated:
            raise ValueError("coordinates: name the apps, as this host has none of its own")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the library's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file."""
        return (env_settings, init_settings)

    @property
    def app(self) -> App:
        """
        The one app.

        Raises:
            FatalError: this host only coordinates.
        """
        if not self.apps:
            raise FatalError("apps: this host has none; it only coordinates")
        return self.apps[0]

    @property
    def coordinated(self) -> tuple[AppName, ...]:
        """The apps whose rollouts this agent may coordinate."""
        if not self.coordinator:
            return ()
        return tuple(dict.fromkeys(self.coordinates)) or tuple(app.name for app in self.apps)

    @property
    def hard_stop_after_s(self) -> float:
        """Longest life of an old HAProxy worker: never more than ``drain_timeout``."""
        limit = max(app.knobs.drain_timeout for app in self.apps)
        return min(self.haproxy.hard_stop_after or limit, limit)


def load(path: Path | None = None) -> Settings:
    """
    Read the settings.

    Args:
        path: the TOML file; by default ``$TIDEGATE_CONFIG``, else ``/etc/tidegate/tidegate.toml``.

    Raises:
        FatalError: the file is missing or no TOML, or a key is unknown or does not fit; each is named, with the file
            or the variable it stands in.
    """
    chosen = path or Path(os.environ.get("TIDEGATE_CONFIG", DEFAULT_FILE))
    _refuse_unknown_variables()
    try:
        return Settings(**_table(chosen))
    except SettingsError as exc:
        raise FatalError(f"{_variable_in(exc)} must be JSON, as it holds a table or a list") from exc
    except ValidationError as exc:
        raise FatalError("\n".join(_problem(chosen, problem) for problem in field_problems(exc))) from exc


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        hint = "name another with --config or TIDEGATE_CONFIG"
        raise FatalError(f"settings file {path} does not exist ({hint})") from exc
    except OSError as exc:
        raise FatalError(f"settings file {path} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise FatalError(f"settings file {path} is no TOML: {exc}") from exc


def _refuse_unknown_variables() -> None:
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in _OTHER_VARIABLES:
            field = name.removeprefix(PREFIX).split("__")[0].lower()
            if field not in Settings.model_fields:
                raise FatalError(f"environment variable {name}: there is no setting '{field}'")


def _variable_in(error: SettingsError) -> str:
    found = re.search(r'field "(\w+)"', str(error))
    return f"environment variable {PREFIX}{found[1].upper()}" if found else str(error)


def _problem(path: Path, problem: FieldProblem) -> str:
    variable = PREFIX + "__".join(problem.path).upper()
    if variable in os.environ:
        return f"environment variable {variable}: {problem.what}"
    return f"{path}: {problem.text(whole='settings')}"
