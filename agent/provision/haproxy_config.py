"""
Renders HAProxy's configuration for an app from the template in ``haproxy/``, and lets HAProxy check it.

Called by ``tidegate haproxy-config`` and by provisioning. It installs and reloads nothing.
"""

import asyncio
import math
import os
import shutil
import string
import tempfile
from dataclasses import dataclass
from pathlib import Path

from agent.adapters.haproxy.files import ProxyPaths, is_plain
from agent.adapters.host.subprocess import run_command
from agent.core.model.app import App
from agent.core.model.errors import PermanentError, TransientError
from agent.core.model.names import SlotName

_CHECK_TIMEOUT_S = 20.0
# Evaluated at each attempt of a request to connect; what for: see the template.
_POOL_KEY = "rand(2000000000),add(1),mul(txn.tg_key),mod(2147483647),add(1),set-var(txn.tg_key)"


class _Template(string.Template):
    """``@{name}`` is filled in; ``$`` and ``%`` are HAProxy's."""

    delimiter = "@"


@dataclass(frozen=True, slots=True)
class ProxyOptions:
    """What an operator may choose about HAProxy itself."""

    ops_port: int | None = None
    """Port on 127.0.0.1 for the statistics page and Prometheus metrics; none by default."""
    hard_stop_after_s: float | None = None
    """Longest life of a worker after a reload; at most, and by default, the app's ``drain_timeout``."""
    maxconn: int = 8000
    """Most client connections at once; the unit's LimitNOFILE must be at least twice this plus 100."""
    user: str | None = None
    """User to become after the start as root; left out where the unit sets ``User=``."""
    group: str | None = None
    """Group to become, likewise."""
    socket_group: str | None = None
    """Group that may use the runtime socket (the agent's)."""


def data_dir() -> Path:
    """Return the directory of the templates: of the installed package, else of the checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_data" / "haproxy"
    return packaged if packaged.is_dir() else package.parent / "haproxy"


def render(app: App, paths: ProxyPaths, options: ProxyOptions | None = None) -> str:
    """
    Render the configuration for *app*. Reads the templates and nothing else.

    Raises:
        PermanentError: the settings make no sensible configuration; the message names the setting.
    """
    chosen = options or ProxyOptions()
    _refuse_nonsense(app, chosen)
    values = {
        **_global_values(app, paths, chosen),
        **_frontend_values(app, paths),
        **_pinning_values(app, paths),
        "health_path": app.health_path,
        "health_host": app.hosts[0] if app.hosts else app.name,
        "blue": app.address(SlotName.BLUE),
        "green": app.address(SlotName.GREEN),
        "container_port": app.container_port,
        "pool_key": _POOL_KEY,
        "ops": _part("ops.cfg", ops_port=chosen.ops_port) if chosen.ops_port else "",
    }
    return _part("haproxy.cfg", **values)


def _refuse_nonsense(app: App, options: ProxyOptions) -> None:
    if app.name == "alive":
        raise PermanentError("app name 'alive' is taken by HAProxy's own health path /_lb/alive")
    if options.ops_port == app.port:
        raise PermanentError(f"ops_port: {options.ops_port} is the app's public port")
    if options.hard_stop_after_s is not None and not 0 < options.hard_stop_after_s <= app.knobs.drain_timeout:
        raise PermanentError(
            f"hard_stop_after: {options.hard_stop_after_s:g} s must be above 0 and at most drain_timeout "
            f"({app.knobs.drain_timeout:g} s): no slot gets a new release while an old worker lives",
        )
    for name in ("user", "group", "socket_group"):
        value = getattr(options, name)
        if value is not None and not value.replace("-", "").replace("_", "").isalnum():
            raise PermanentError(f"{name}: {value!r:.60} is no user or group name")


def _global_values(app: App, paths: ProxyPaths, options: ProxyOptions) -> dict[str, object]:
    hard_stop_s = app.knobs.drain_timeout if options.hard_stop_after_s is None else options.hard_stop_after_s
    identity = (("user", options.user), ("group", options.group))
    return {
        "identity": "".join(f"    {word} {name}\n" for word, name in identity if name),
        "runtime_socket": paths.runtime_socket,
        "socket_group": f" group {options.socket_group}" if options.socket_group else "",
        "state_file": paths.state_file,
        "hard_stop_after_ms": max(1, int(hard_stop_s * 1000)),
        "maxconn": options.maxconn,
    }


def _frontend_values(app: App, paths: ProxyPaths) -> dict[str, object]:
    holding_page = data_dir() / "holding.html"
    if not is_plain(holding_page):
        raise PermanentError(f"HAProxy cannot read {holding_page}: install Tidegate under a path without blanks")
    return {
        "app": app.name,
        "bind": app.bind,
        "port": app.port,
        "gate_map": paths.gate(app.name),
        "hosts": _part("hosts.cfg", hosts=" ".join(host.lower() for host in app.hosts)) if app.hosts else "",
        "holding_page": holding_page,
    }


def _pinning_values(app: App, paths: ProxyPaths) -> dict[str, object]:
    visit_idle_s = math.ceil(app.knobs.visit_idle)
    restamp_s = max(1, visit_idle_s // 10)
    # A stamp may be restamp_s old when the visitor falls silent; only then visit_idle begins.
    oldest_s = visit_idle_s + restamp_s + 1
    return {
        "cookie": app.cookie,
        "restamp_s": restamp_s,
        "oldest_s": oldest_s,
        "oldest_shifted_s": oldest_s + 60,
        "pin_to_slot_map": paths.pin_to_slot(app.name),
        "slot_to_pin_map": paths.slot_to_pin(app.name),
    }


def _part(name: str, **values: object) -> str:
    template = _Template((data_dir() / name).read_text(encoding="utf-8"))
    return template.substitute({key: str(value) for key, value in values.items()})


async def check(text: str, binary: str = "haproxy") -> str:
    """
    Let HAProxy check a configuration. The map files must exist (:meth:`HaproxySocket.ensure_maps`).

    Returns: HAProxy's own words, warnings among them.

    Raises:
        PermanentError: HAProxy refuses it, in its own words; or there is no such program.
        TransientError: no verdict within 20 s.
    """
    with tempfile.NamedTemporaryFile("w", prefix="tidegate-", suffix=".cfg", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        try:
            process = await asyncio.create_subprocess_exec(
                shutil.which(binary, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin") or binary,
                "-c",
                "-f",
                file.name,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        except OSError as exc:
            raise PermanentError(f"cannot run {binary}: {exc.strerror}") from exc
        words = await _words_of(process, file.name)
    if process.returncode != 0:
        raise PermanentError(f"HAProxy refuses the configuration:\n{words}")
    return words


async def _words_of(process: asyncio.subprocess.Process, file_name: str) -> str:
    try:
        output = await run_command(process, _CHECK_TIMEOUT_S)
    except TimeoutError as exc:
        raise TransientError(f"haproxy -c gave no verdict within {_CHECK_TIMEOUT_S:g} s") from exc
    return output.decode(errors="replace").replace(file_name, "haproxy.cfg").strip()
