"""What each phase of a rollout reads and returns, and how it makes a change of the record."""

from dataclasses import dataclass, replace

from agent.core.model.names import NodeName
from agent.core.model.record import Phase, RecordedRelease
from agent.core.rollout.barrier import NodeFailure, Wait, failed
from agent.core.rollout.change import Change, mirror_of
from agent.core.rollout.decision import REASON_MAX_CHARS, Decision
from agent.core.rollout.fleet import Fleet, Host
from agent.core.rollout.strategy import hosts_of

NAMES_MAX = 5


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a phase returns where nothing is to be changed yet."""

    waits: tuple[Wait, ...]
    needs_consistent: bool = False
    """Only a consistent reading is missing."""


@dataclass(frozen=True, slots=True)
class TransitionContext:
    """What a phase reads: the record, the fleet and the time."""

    record: Decision
    fleet: Fleet
    now: float
    """Unix seconds of the coordinator."""

    @property
    def is_late(self) -> bool:
        """Whether the phase's deadline is over."""
        return self.record.deadline is not None and self.now >= self.record.deadline

    @property
    def lost(self) -> tuple[Host, ...]:
        """Members not seen for ``lost_after``."""
        members = (self.fleet.member(node) for node in self.fleet.members)
        return tuple(host for host in members if self.is_lost(host) and not host.is_leaving)

    def is_lost(self, host: Host) -> bool:
        """Whether a host has not been seen for ``lost_after``."""
        return host.gone_s is not None and host.gone_s >= self.record.strategy.lost_after

    @property
    def participants(self) -> tuple[Host, ...]:
        """Members that are neither lost nor leaving; the live joiners come from :attr:`joined`."""
        members = (self.fleet.member(node) for node in self.fleet.members)
        return tuple(host for host in members if not self.is_lost(host) and not host.is_leaving)

    @property
    def joined(self) -> tuple[Host, ...]:
        """Live hosts that are no members."""
        members = frozenset(self.fleet.members)
        return tuple(host for host in self.fleet.present if host.node not in members)

    @property
    def briefly_gone(self) -> tuple[Host, ...]:
        """
        Hosts whose agents went a moment ago, and which were ready then.

        HAProxy goes on without its agent: visitors of another release would be sent there, and it would not know them.
        """
        gone = (host for host in self.fleet if host.gone_s is not None)
        near = (host for host in gone if not (self.is_lost(host) or host.is_leaving))
        return tuple(host for host in near if host.report is not None and host.report.is_ready)

    @property
    def serving(self) -> tuple[Host, ...]:
        """Hosts that visitors may be on: all but those lost or gone, also while they are leaving."""
        hosts = {host.node: host for host in self.fleet} | {
            node: self.fleet.member(node) for node in self.fleet.members
        }
        seen = (hosts[node] for node in sorted(hosts))
        return tuple(host for host in seen if host.gone_s is None or not (self.is_lost(host) or host.is_leaving))

    def failures(self, hosts: tuple[Host, ...]) -> tuple[NodeFailure, ...]:
        """Return the failures among *hosts* where they exceed ``max_failed`` or all of *hosts* failed; else none."""
        found = tuple(failure for host in hosts if (failure := failed(host, self.record)) is not None)
        allowed = hosts_of(self.record.strategy.max_failed, len(self.fleet.members))
        return found if len(found) > allowed or len(found) == len(hosts) else ()

    def times_of(self, hosts: tuple[Host, ...]) -> dict[NodeName, float]:
        """Return when the target's slot last changed on each of *hosts*: Unix seconds of the host's own clock."""
        held = {host.node: slot[1] for host in hosts if (slot := host.slot_of(self.record.target)) is not None}
        return {node: slot.since for node, slot in held.items() if slot.since is not None}

    def is_excused(self, host: Host) -> bool:
        """Whether a host has failed, and is not waited for: ask once :meth:`failures` found no more than allowed."""
        return failed(host, self.record) is not None

    def stays(self, what: str, why: str, **changes: object) -> Change:
        """Change the record within its phase."""
        record = self.record.replace(seq=self.record.seq + 1, **changes)
        return Change(record, what, was=self.record.phase, why=why)

    def enters(self, phase: Phase, what: str, why: str, **changes: object) -> Change:
        """Enter *phase*; its deadline is counted from now."""
        common = {
            "seq": self.record.seq + 1,
            "phase": phase,
            "since": self.now,
            "deadline": self._deadline(phase),
            "why": why[:REASON_MAX_CHARS],
            "paused_at": None,
            "flags": self.record.flags.replace(promoted=False, paused=False),
        }
        return Change(self.record.replace(**(common | changes)), what, was=self.record.phase)

    def _deadline(self, phase: Phase) -> float | None:
        strategy = self.record.strategy
        if phase.is_terminal:
            return None
        match phase:
            case Phase.READY if not strategy.waits_for_promote:
                return self.record.deadline  # that of staging
            case Phase.READY | Phase.AWAITING_PROMOTION:
                return self.now + strategy.promote_timeout
            case Phase.BAKING:
                return self.now + strategy.drain_timeout
            case _:
                return self.now + strategy.progress_deadline


def ended(context: TransitionContext, phase: Phase, what: str, why: str, **changes: object) -> Change:
    """End the rollout: both mirrors become what is left (none for a failed rollback or without a source)."""
    change = context.enters(phase, what, why, **changes)
    final = change.record.final
    if final is None or context.record.phase is Phase.PENDING:
        return change
    return with_mirrors(change, active=final, stage=final)


def with_mirrors(
    change: Change, *, active: RecordedRelease | None = None, stage: RecordedRelease | None = None
) -> Change:
    """Write the mirrors in the same transaction."""
    return replace(
        change,
        active=mirror_of(active) if active is not None else None,
        stage=mirror_of(stage) if stage is not None else None,
    )


def join_reasons(items: tuple[object, ...]) -> str:
    """List a few things for a reason."""
    shown = "; ".join(str(item) for item in items[:NAMES_MAX])
    more = len(items) - NAMES_MAX
    return f"{shown}; and {more} more" if more > 0 else shown
