"""
What a coordinator sees of the fleet: who lives, by the catalog, and what each of them reports.

A report counts only if the catalog shows the same agent instance alive: of a dead agent, or one of before a restart,
nothing is known (S12). Durations are measured by whoever watches (``runtime/fleet_watch.py``).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from agent.core.model.names import Digest, ImageReference, NodeName, SlotName
from agent.core.model.record import RecordedRelease
from agent.core.model.report import NodeReport, SlotReport
from agent.core.model.states import AdminState


@dataclass(frozen=True, slots=True)
class Resolution:
    """What the registry said of the image that was asked for."""

    digest: Digest | None = None
    error: str = ""
    is_final: bool = False
    """Asking again would not help: unknown tag, no right."""


@dataclass(frozen=True, slots=True)
class Host:
    """One host, as catalog and report show it."""

    node: NodeName
    instance: str = ""
    """Instance id of the agent the catalog calls alive; empty: none is."""
    report: NodeReport | None = None
    """The last report, of whichever instance."""
    gone_s: float | None = None
    """Seconds since its agent was last seen alive; None while it is."""
    unwell_s: float = 0.0
    """Seconds for which the release that gets its new visitors has not been up."""

    @property
    def now(self) -> NodeReport | None:
        """The report, where it is the live agent's."""
        if self.gone_s is not None or self.report is None or self.report.instance != self.instance:
            return None
        return self.report

    @property
    def is_leaving(self) -> bool:
        """Whether its last word was that it goes: not waited for, and no failure."""
        if self.report is None or not self.report.is_leaving:
            return False
        return self.gone_s is not None or self.report.instance == self.instance

    def slot_of(self, release: RecordedRelease | None) -> tuple[SlotName, SlotReport] | None:
        """Return the slot that holds *release*, where the live report shows one."""
        if self.now is None or release is None:
            return None
        found = ((name, slot) for name, slot in self.now.slots.items() if slot.release == release.release)
        return next(found, None)

    @property
    def serving(self) -> SlotReport | None:
        """The slot that gets new visitors, up or not."""
        if self.now is None:
            return None
        return next((slot for slot in self.now.slots.values() if slot.state is AdminState.READY and slot.release), None)


@dataclass(frozen=True, slots=True)
class Fleet:
    """All hosts of an app, and what else a step depends on."""

    hosts: Mapping[NodeName, Host] = field(default_factory=dict)
    members: tuple[NodeName, ...] = ()
    """Of the rollout's barrier, as recorded; empty before staging."""
    active: ImageReference | None = None
    """Value of ``active/image``; None where it is absent or cannot be read."""
    resolution: Resolution | None = None
    """None: not asked yet, or no answer yet."""
    is_consistent: bool = False
    """Read with Consul's consistent mode just now, after the record."""
    active_problem: str = ""
    """Why ``active/image`` cannot be read: no rollout begins beside it."""

    @property
    def present(self) -> tuple[Host, ...]:
        """Hosts whose agents live and which are not leaving, by name."""
        return tuple(host for host in self if host.gone_s is None and not host.is_leaving)

    def __iter__(self) -> Iterator[Host]:
        """Iterate over all hosts by name."""
        return iter(sorted(self.hosts.values(), key=lambda host: host.node))

    def member(self, node: NodeName) -> Host:
        """Return a member, gone for ever where neither catalog nor reports know it."""
        return self.hosts.get(node) or Host(node, gone_s=float("inf"))
