"""How long each host took in a rollout, and how far apart the hosts switched: from the audit entries."""

from dataclasses import dataclass

from agent.adapters.consul.history import Entry, Rollout
from agent.core.model.record import Phase

_SWITCHES = frozenset({Phase.CANARY, Phase.SWITCHING})


@dataclass(frozen=True, slots=True)
class HostTimes:
    """Seconds after what allowed them; by the host's clock against the coordinator's, so clocks must agree."""

    node: str
    staged_s: float | None = None
    """After staging began."""
    switched_s: float | None = None
    """After the change of the record that let it switch."""


@dataclass(frozen=True, slots=True)
class Step:
    """One part of the fleet that switched together."""

    hosts: int
    skew_s: float
    """From the first host that switched to the last one."""
    last_s: float
    """From the commit of the step to the last host."""


def host_times(rollout: Rollout) -> tuple[HostTimes, ...]:
    """Return each host's times, the one that switched last first."""
    staged = _times(rollout, Phase.READY)
    switched: dict[str, float] = {}
    for began, ended in _steps(rollout):
        switched |= {node: at - began.at.timestamp() for node, at in ended.hosts.items() if node not in switched}
    found = [HostTimes(node, staged.get(node), switched.get(node)) for node in {*staged, *switched}]
    return tuple(sorted(found, key=lambda each: (-(each.switched_s or 0.0), -(each.staged_s or 0.0), each.node)))


def steps(rollout: Rollout) -> tuple[Step, ...]:
    """Return how each step went, in order."""
    found: list[Step] = []
    known: set[str] = set()
    for began, ended in _steps(rollout):
        times = [at for node, at in ended.hosts.items() if node not in known]
        known |= set(ended.hosts)
        if times:
            found.append(Step(len(times), max(times) - min(times), max(times) - began.at.timestamp()))
    return tuple(found)


def _times(rollout: Rollout, phase: Phase) -> dict[str, float]:
    entry = next((entry for entry in rollout.entries if entry.phase is phase and entry.hosts), None)
    began = next((entry for entry in rollout.entries if entry.phase is Phase.STAGING), None)
    if entry is None or began is None:
        return {}
    return {node: at - began.at.timestamp() for node, at in entry.hosts.items()}


def _steps(rollout: Rollout) -> tuple[tuple[Entry, Entry], ...]:
    """Return for each step the change that began it, and the one that found its hosts switched."""
    pairs: list[tuple[Entry, Entry]] = []
    began: Entry | None = None
    for entry in rollout.entries:
        if began is not None and entry.hosts:
            pairs.append((began, entry))
            began = None
        if entry.phase in _SWITCHES and (entry.was is not entry.phase or entry.hosts):
            began = entry
    return tuple(pairs)
