"""Whatever happens to a fleet and whoever commands: invariants of every rollout, played to its end."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.model.names import AppName, NodeName
from agent.core.model.record import Phase
from agent.core.rollout.change import Guard, Indexes, writes_of
from agent.core.rollout.strategy import Strategy
from tests.core.rollout.fixtures import NOW, B
from tests.core.rollout.rollout_sim import COMMANDS, MISHAPS, QUICK, TICK_S, Event, RolloutSim, begun, written

GRAPH: dict[Phase, set[Phase]] = {
    Phase.PENDING: {Phase.STAGING, Phase.ABORTED},
    Phase.STAGING: {Phase.READY, Phase.ABORTING},
    Phase.READY: {Phase.CANARY, Phase.SWITCHING, Phase.ABORTING},
    Phase.CANARY: {Phase.AWAITING_PROMOTION, Phase.ROLLING_BACK, Phase.ROLLBACK_FAILED},
    Phase.AWAITING_PROMOTION: {Phase.SWITCHING, Phase.ROLLING_BACK, Phase.ROLLBACK_FAILED},
    Phase.SWITCHING: {Phase.BAKING, Phase.ROLLING_BACK, Phase.ROLLBACK_FAILED},
    Phase.BAKING: {Phase.RETIRING, Phase.ROLLING_BACK, Phase.ROLLBACK_FAILED},
    Phase.RETIRING: {Phase.SUCCESSFUL},
    Phase.ABORTING: {Phase.ABORTED},
    Phase.ROLLING_BACK: {Phase.ROLLED_BACK, Phase.ROLLBACK_FAILED},
}
COMMIT = {Phase.CANARY, Phase.SWITCHING}


@dataclass(frozen=True, slots=True)
class Script:
    """What a simulation is made of."""

    strategy: Strategy
    count: int
    is_first: bool
    events: list[Event]

    def run(self) -> RolloutSim:
        """Play it, and once all has happened let a paused rollout go on."""
        sim = begun(self.strategy, self.count, is_first=self.is_first)
        last = max((at for at, _, _ in self.events), default=0)
        sim.run([*self.events, (last, "resume", 0)], ticks=ticks_of(self.strategy))
        return sim


def ticks_of(strategy: Strategy) -> int:
    """Return the ticks within which a rollout must end, one of them for each phase it may pass late."""
    return int(strategy.longest_s() / TICK_S) + len(Phase) + len(strategy.all_steps)


def lasted_s(sim: RolloutSim) -> float:
    """Return how long a rollout took that has ended, from when a coordinator first saw it."""
    assert sim.given.phase.is_terminal
    return sim.now - NOW


STRATEGIES = st.builds(
    lambda steps, manual, failed, lost: QUICK.model_copy(
        update={"steps": steps, "waits_for_promote": manual, "max_failed": failed, "max_lost": lost}
    ),
    st.sampled_from([("100%",), ("1",), ("1", "50%"), ("3", "25%")]),
    st.booleans(),
    st.sampled_from(["0", "1", "50%"]),
    st.sampled_from(["0", "10%", "100%"]),
)
WHATS = (*COMMANDS, *MISHAPS, "promote", "promote", "comes back")
EVENTS = st.lists(st.tuples(st.integers(0, 25), st.sampled_from(WHATS), st.integers(0, 5)), max_size=12)
SCRIPTS = st.builds(Script, STRATEGIES, st.integers(1, 5), st.booleans(), EVENTS)


@given(SCRIPTS)
@settings(max_examples=25, deadline=None)
def test_every_rollout_follows_the_graph_to_exactly_one_end(script: Script) -> None:
    """Once begun it ends, once."""
    sim = script.run()
    for before, record, _, _ in written(sim):
        assert record.generation == before.generation
        assert record.phase in {before.phase, *GRAPH[before.phase]}
    assert [phase for phase in sim.phases if phase.is_terminal] == [sim.given.phase]


@given(SCRIPTS)
@settings(max_examples=25, deadline=None)
def test_s4_no_rollout_both_commits_and_aborts(script: Script) -> None:
    """What visitors may have seen is rolled back, what they cannot have seen is aborted."""
    passed = set(script.run().phases)
    assert not (passed & COMMIT and passed & {Phase.ABORTING, Phase.ABORTED})
    assert not passed & {Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.ROLLBACK_FAILED} or passed & COMMIT


@given(SCRIPTS)
@settings(max_examples=25, deadline=None)
def test_s13_each_change_counts_up_by_one_and_has_one_entry_of_its_own(script: Script) -> None:
    """Of commands as of the coordinator: the entry is created, by the record's version."""
    sim = script.run()
    entries: set[str] = set()
    for before, record, change, _ in written(sim):
        assert record.version == (before.generation, before.seq + 1)
        writes = writes_of(AppName("shop"), change, Indexes(record=1, active=1), by="core-1", now=sim.now)
        created = {write.key for write in writes if write.guard is Guard.CAS and write.index == 0}
        assert created == {f"shop-status/history/{record.generation}/{record.seq}"}
        assert created.isdisjoint(entries)
        entries |= created


@given(SCRIPTS)
@settings(max_examples=25, deadline=None)
def test_s3_at_commit_every_member_has_staged_the_same_digest_in_this_generation(script: Script) -> None:
    """By the live report of each, and there is at least one."""
    sim = script.run()
    commits = [
        (change, seen) for before, _, change, seen in written(sim) if _commits(before.phase, change.record.phase)
    ]
    assert len(commits) <= 1
    for change, seen in commits:
        assert change.members
        for node in change.members:
            report = seen.hosts[NodeName(node)].now
            assert report is not None
            held = [slot for slot in report.slots.values() if slot.release == B.release]
            assert [slot.is_staged for slot in held] == [True]
            assert [slot.digest for slot in held] == [B.image.partition("@")[2]]
            assert report.generation == change.record.generation


def _commits(before: Phase, after: Phase) -> bool:
    return before is Phase.READY and after in COMMIT


@given(SCRIPTS, st.integers(0, 20))
@settings(max_examples=25, deadline=None)
def test_s11_paused_nothing_advances_but_abort_and_rollback(script: Script, at: int) -> None:
    """Only the stamps of the phase change, and flags by commands."""
    paused = replace(script, events=[*script.events, (at, "pause", 0), (at + 9, "resume", 0)])
    for before, record, change, _ in written(paused.run()):
        if not before.flags.paused or before.flags.aborted or record.flags.aborted:
            continue
        free = {name: getattr(record, name) for name in ("seq", "since", "deadline", "paused_at", "flags")}
        assert record == before.replace(**free)
        assert (change.active, change.stage, change.members) == (None, None, None)


@given(SCRIPTS)
@settings(max_examples=25, deadline=None)
def test_s10_what_goes_back_only_goes_back_and_thresholds_only_rise(script: Script) -> None:
    """No flag, failure or pause turns it round."""
    for before, record, _, _ in written(script.run()):
        assert record.threshold >= before.threshold
        if before.phase in {Phase.ABORTING, Phase.ROLLING_BACK}:
            assert not record.flags.paused
            assert record.phase in {before.phase, *GRAPH[before.phase]}


@given(SCRIPTS)
@settings(max_examples=25, deadline=None)
def test_l1_every_rollout_that_is_not_paused_ends_within_its_bound(script: Script) -> None:
    """Computed from its knobs alone, whatever happens to its hosts."""
    events = [event for event in script.events if event[1] != "pause"]
    sim = Script(script.strategy, script.count, script.is_first, events).run()
    assert lasted_s(sim) <= script.strategy.longest_s() + TICK_S * len(Phase)


@given(STRATEGIES, st.sets(st.sampled_from(["joins", "leaves"]), min_size=1))
@settings(max_examples=20, deadline=None)
def test_l3_joins_and_leaves_cannot_starve_a_rollout(strategy: Strategy, what: set[str]) -> None:
    """One after the other, without an end: it succeeds, or ends within its bound where it must be promoted."""
    events = [(at, each, at) for at in range(0, 60, 2) for each in sorted(what)]
    events += [(at, "promote", 0) for at in range(60)]
    sim = begun(strategy, 3, is_first=False)
    sim.run([*events, *((at, "joins", 0) for at in range(0, 60, 3))], ticks=ticks_of(strategy))
    assert sim.given.phase is Phase.SUCCESSFUL, sim.given.why


@pytest.mark.parametrize("shape", ["nobody comes", "nobody answers", "everybody is lost"])
@pytest.mark.parametrize("steps", [("100%",), ("1", "50%")])
@pytest.mark.parametrize("since", range(0, 16, 3))
def test_l1_with_a_silent_fleet_the_rollout_ends_within_its_bound(
    shape: str, steps: tuple[str, ...], since: int
) -> None:
    """From each phase on: no host says anything any more."""
    strategy = QUICK.model_copy(update={"steps": steps})
    sim = begun(strategy, 0 if shape == "nobody comes" else 3, is_first=False)

    def silence() -> None:
        for sim_host in sim.sim_hosts.values() if sim.now >= NOW + since * TICK_S else ():
            if shape == "nobody answers":
                sim_host.odd.add("restarts")
            elif shape == "everybody is lost" and sim_host.gone_s is None:
                sim_host.gone_s = 0.0

    sim.run([(6, "promote", 0)], ticks_of(strategy), silence)
    assert lasted_s(sim) <= strategy.longest_s() + TICK_S * len(Phase)
