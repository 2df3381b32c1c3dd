"""
Watches the rollout record: every transaction on it is judged the moment it happens.

Breaches go by the invariant's name: S3, S4, S5, S6, S10, S11, S13, and S14 where the source is retired too soon.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from agent.adapters.consul.wire import Verb
from agent.core.model import keys
from agent.core.model.record import Phase
from agent.core.rollout.decision import Decision, read_decision
from tests.sim.consul.servers import Commit
from tests.sim.fleet.names import APP
from tests.sim.virtual_time import UNIX_S

RECORD = keys.rollout(APP)
LOCK = keys.coordinator(APP)
HISTORY = keys.histories(APP)

_BACK = {Phase.ROLLING_BACK, Phase.ROLLBACK_FAILED}
NEXT: dict[Phase, set[Phase]] = {
    Phase.PENDING: {Phase.STAGING, Phase.ABORTED},
    Phase.STAGING: {Phase.READY, Phase.ABORTING},
    Phase.READY: {Phase.CANARY, Phase.SWITCHING, Phase.ABORTING},
    Phase.CANARY: {Phase.AWAITING_PROMOTION, *_BACK},
    Phase.AWAITING_PROMOTION: {Phase.SWITCHING, *_BACK},
    Phase.SWITCHING: {Phase.BAKING, *_BACK},
    Phase.BAKING: {Phase.RETIRING, *_BACK},
    Phase.RETIRING: {Phase.SUCCESSFUL},
    Phase.ABORTING: {Phase.ABORTED},
    Phase.ROLLING_BACK: {Phase.ROLLED_BACK, Phase.ROLLBACK_FAILED},
}
COMMITTED = {Phase.CANARY, Phase.AWAITING_PROMOTION, Phase.SWITCHING, Phase.BAKING, Phase.RETIRING}
TAKEN_BACK = {Phase.ABORTING, Phase.ROLLING_BACK, Phase.ABORTED, Phase.ROLLED_BACK, Phase.ROLLBACK_FAILED}


@dataclass(slots=True)
class Rollout:
    """What became of one generation."""

    generation: int
    begun_at: float
    record: Decision
    committed_at: float | None = None
    baking_at: float | None = None
    """When a coordinator saw that the fleet had switched, which is before it could write so; by its own clock."""
    retired_at: float | None = None
    back_at: float | None = None
    ended_at: float | None = None
    paused_since: float | None = None
    paused_s: float = 0.0
    is_forked: bool = False
    """A restored snapshot or an adoption cut its history."""
    phases: list[Phase] = field(default_factory=list)


@dataclass(slots=True)
class RecordMonitor:
    """
    All rollouts, and what was wrong with how they were written.

    Args:
        breach: takes the invariant's name and what happened.
        may_write: says why a writer may not be the coordinator (S6); empty when it may.
        may_commit: says which member had not staged the target at a commit (S3); empty when all had.
        may_retire: says who still used the source when it was retired (S14); empty when nobody did.
    """

    breach: Callable[[str, str], None]
    may_write: Callable[[str, int], str]
    may_commit: Callable[[Decision], str]
    may_retire: Callable[[Decision, Rollout], str]
    entered: Callable[[Decision], None]
    rollouts: dict[int, Rollout] = field(default_factory=dict)
    current: Decision | None = None
    ever: set[str] = field(default_factory=set)
    """Releases that new visitors may have got by a commit, and images set by hand."""
    writes: int = 0

    def commit(self, commit: Commit) -> None:
        """Judge one transaction."""
        for op in commit.writes:
            if op.key == keys.active_image(APP):
                self.ever.add(op.value.decode())
        written = [op for op in commit.writes if op.key == RECORD]
        if not written:
            return
        op = written[0]
        if op.verb not in (Verb.SET, Verb.CAS):
            self.breach("S13", f"{commit.by} deleted the record")
            return
        entry = commit.before.get(RECORD)
        before = read_decision(entry.value.decode()) if entry is not None else None
        self._judge(commit, before, read_decision(op.value.decode()))

    def _judge(self, commit: Commit, before: Decision | None, record: Decision) -> None:
        self.writes += 1
        self._audited(commit, record)
        is_adoption = record.request is None
        if before is not None and not is_adoption:
            self._follows(before, record)
        if commit.by.startswith("coordinator") and (problem := self.may_write(commit.by, record.epoch)):
            self.breach("S6", f"{commit.by} wrote {record.version} {record.phase}: {problem}")
        known = self.rollouts.get(record.generation)
        if known is None:
            known = self.rollouts[record.generation] = Rollout(record.generation, commit.at, record)
        self._note(known, record, commit.at)
        if is_adoption:
            for rollout in self.rollouts.values():
                rollout.is_forked = rollout.is_forked or rollout.ended_at is None
                rollout.ended_at = rollout.ended_at or commit.at
        self.current = known.record = record
        self.entered(record)

    def _audited(self, commit: Commit, record: Decision) -> None:
        written = [op.key for op in commit.writes if op.key.startswith(HISTORY)]
        if written != [keys.history(APP, record.generation, record.seq)]:
            self.breach("S13", f"record {record.version} was written with audit entries {written}")
        elif commit.before[written[0]] is not None:
            self.breach("S13", f"record {record.version} has two audit entries")

    def _follows(self, before: Decision, record: Decision) -> None:
        if record.generation != before.generation:
            if not before.phase.is_terminal:
                self.breach("S5", f"rollout {record.generation} began while {before.generation} is {before.phase}")
            return
        if record.seq != before.seq + 1:
            self.breach("S6", f"record went from {before.version} to {record.version}")
        moves = record.phase is not before.phase
        if moves and record.phase not in NEXT.get(before.phase, set()):
            name = "S10" if before.phase is Phase.ROLLING_BACK or before.phase.is_terminal else "S4"
            self.breach(name, f"rollout {record.generation} went from {before.phase} to {record.phase}")
        fails = record.phase in TAKEN_BACK and record.phase is not Phase.ROLLBACK_FAILED
        advances = (moves and not (fails and before.flags.aborted)) or record.threshold != before.threshold
        held = before.flags.paused and not before.flags.aborted
        goes_back = before.phase in (Phase.ABORTING, Phase.ROLLING_BACK)
        if held and advances and not goes_back:
            self.breach("S11", f"paused rollout {record.generation} went from {before.phase} to {record.phase}")

    def _note(self, known: Rollout, record: Decision, at: float) -> None:
        if not known.phases or known.phases[-1] is not record.phase:
            known.phases.append(record.phase)
        if record.source is not None:
            self.ever.add(record.source.release)  # what the fleet serves, by definition
        if record.phase in COMMITTED and record.target is not None:
            self.ever.add(record.target.release)
        if record.phase in COMMITTED and known.committed_at is None:
            known.committed_at = at
            self._judge_once(known, "S3", self.may_commit(record))
            self._judge_once(known, "S4", "it was aborted" if known.back_at is not None else "")
        if record.phase in TAKEN_BACK and known.back_at is None:
            known.back_at = at
            is_late = record.phase in (Phase.ABORTING, Phase.ABORTED) and known.committed_at is not None
            self._judge_once(known, "S4", "it has committed" if is_late else "")
        if record.phase is Phase.BAKING and known.baking_at is None and record.since is not None:
            known.baking_at = record.since - UNIX_S
        if record.phase is Phase.RETIRING and known.retired_at is None:
            known.retired_at = at
            self._judge_once(known, "S14", self.may_retire(record, known))
        self._note_pause(known, record, at)
        if record.phase.is_terminal:
            known.ended_at = at

    def _judge_once(self, known: Rollout, name: str, problem: str) -> None:
        if problem and not known.is_forked:
            self.breach(name, f"rollout {known.generation} entered {known.phases[-1]}: {problem}")

    @staticmethod
    def _note_pause(known: Rollout, record: Decision, at: float) -> None:
        paused = record.flags.paused and not record.phase.is_terminal
        if paused and known.paused_since is None:
            known.paused_since = at
        elif not paused and known.paused_since is not None:
            known.paused_s += at - known.paused_since
            known.paused_since = None

    def restored(self, text: str | None, at: float) -> None:
        """Note that Consul went back: what was written since is another history."""
        self.current = read_decision(text) if text else None
        oldest = self.current.generation if self.current else 0
        for generation, rollout in self.rollouts.items():
            if generation >= oldest:
                rollout.is_forked = True
            if generation > oldest and rollout.ended_at is None:
                rollout.ended_at = at

    @property
    def in_progress(self) -> bool:
        """Whether a rollout is under way."""
        return self.current is not None and not self.current.phase.is_terminal
