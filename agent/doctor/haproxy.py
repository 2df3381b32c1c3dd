"""HAProxy: do both sockets answer, is it our configuration, is the version one that was tried."""

from agent.adapters.haproxy.runtime_api import HaproxySocket
from agent.config import Settings
from agent.core.host.observed import Proxy
from agent.core.model.errors import HaproxyRefusedError, HaproxyUnavailableError, TidegateError
from agent.doctor.finding import Finding, fail, ok, warn

RENDER = "tidegate haproxy-config --out /etc/haproxy/haproxy.cfg, then reload HAProxy"


async def check_haproxy(proxy: HaproxySocket, settings: Settings) -> list[Finding]:
    """Check the runtime socket, the configuration behind it, and the master socket."""
    socket = settings.haproxy.socket
    try:
        version = await proxy.version()
        seen = await proxy.observe()
    except HaproxyUnavailableError as exc:
        advice = f"start HAProxy; the agent's user must be in the group that owns {socket}"
        return [fail("HAProxy", str(exc), advice)]
    except HaproxyRefusedError as exc:
        if "denied" in str(exc).lower():
            return [fail("HAProxy", str(exc), f"the runtime socket needs 'level admin': {RENDER}")]
        return [fail("HAProxy", str(exc), f"HAProxy runs another configuration: {RENDER}")]
    except TidegateError as exc:
        return [fail("HAProxy", str(exc), f"look at {settings.state_dir}")]
    return [
        judge_version(version),
        ok("HAProxy runtime socket", f"{socket} answers"),
        _master(seen, settings),
        _saved(seen),
    ]


def judge_version(version: str) -> Finding:
    """Say whether this is a version Tidegate was tried with."""
    numbers = tuple(int(part) for part in version.split("-", maxsplit=1)[0].split(".")[:2] if part.isdecimal())
    if numbers < (2, 4):
        return fail("HAProxy version", version, "install 2.4 or newer: older ones were never tried")
    return ok("HAProxy version", version)


def _master(seen: Proxy, settings: Settings) -> Finding:
    socket = settings.haproxy.master_socket
    if seen.old_workers is None:
        advice = "start HAProxy with -S (Debian's unit does) and let the agent's group use that socket"
        return fail(
            "HAProxy master socket", f"{socket} does not answer: no slot gets a new occupant without it", advice
        )
    return ok("HAProxy master socket", f"{socket} answers; {seen.old_workers} old workers")


def _saved(seen: Proxy) -> Finding:
    if seen.pins_saved and seen.gate_saved and seen.state_saved:
        return ok("HAProxy files", "maps and server states on disk are those of the running worker")
    return warn("HAProxy files", "they differ from the running worker", "start the agent: it writes them")
