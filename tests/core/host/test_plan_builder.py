"""How fragments are merged, and what of them is remembered."""

from hypothesis import given
from hypothesis import strategies as st

from agent.core.host.actions import SetReadinessGate, SetState, Stop
from agent.core.host.memory import Memory, SlotMemory
from agent.core.host.plan import SlotView
from agent.core.host.plan_builder import NOTHING, Fragment, merge, remember
from agent.core.model.names import ContainerId, Pin, SlotName
from agent.core.model.states import AdminState, ReadinessGate, SlotPhase

SLOTS = st.sampled_from(SlotName)
STATES = st.builds(SetState, SLOTS, st.sampled_from(AdminState), st.just("why"))
STOPS = st.builds(Stop, SLOTS, st.just(ContainerId("c1")), st.just(1.0), st.just("why"))
CHANGES = st.fixed_dictionaries(
    {}, optional={"staged": st.booleans(), "leave_since": st.sampled_from([None, 1.0, 2.0])}
)
FRAGMENTS = st.builds(
    Fragment,
    states=st.lists(STATES, max_size=2).map(tuple),
    jobs=st.lists(STOPS, max_size=2).map(tuple),
    gate=st.none() | st.builds(SetReadinessGate, st.sampled_from(ReadinessGate)),
    pins=st.dictionaries(SLOTS, st.sampled_from([Pin("a"), Pin("b"), None])),
    views=st.dictionaries(SLOTS, st.builds(SlotView, st.sampled_from(SlotPhase))),
    notes=st.lists(st.sampled_from(["x", "y"]), max_size=2).map(tuple),
    look_again_at=st.sampled_from([1.0, 2.0, float("inf")]),
    memory=st.fixed_dictionaries({}, optional={"holding": st.booleans(), "occupancy": st.integers(0, 3)}),
    slots=st.dictionaries(SLOTS, CHANGES),
)
MEMORIES = st.builds(Memory, slots=st.dictionaries(SLOTS, st.builds(SlotMemory, staged=st.booleans())))


@given(FRAGMENTS, FRAGMENTS, FRAGMENTS)
def test_it_does_not_matter_which_fragments_are_merged_first(one: Fragment, two: Fragment, three: Fragment) -> None:
    """Only their order counts: a rule may merge what its parts return as it likes."""
    assert merge(merge(one, two), three) == merge(one, merge(two, three))


@given(FRAGMENTS)
def test_nothing_adds_nothing(fragment: Fragment) -> None:
    """Before and after a fragment; also where it is not the constant itself."""
    assert merge(NOTHING, fragment) is fragment
    assert merge(fragment, NOTHING) is fragment
    assert merge(Fragment(), fragment) == merge(fragment, Fragment()) == fragment


@given(MEMORIES, FRAGMENTS, FRAGMENTS)
def test_what_is_remembered_of_two_is_what_is_remembered_of_both(memory: Memory, one: Fragment, two: Fragment) -> None:
    """A rule sees the memory after the rules before it; the next tick sees it after all of them."""
    apart, together = remember(remember(memory, one), two), remember(memory, merge(one, two))
    assert apart.replace(slots={}) == together.replace(slots={})
    assert [apart.slot(slot) for slot in SlotName] == [together.slot(slot) for slot in SlotName]


def test_where_two_fragments_differ_the_second_counts() -> None:
    """A release that fails takes back the pin that was kept for it, and shows why."""
    kept = Fragment(pins={SlotName.BLUE: Pin("a")}, views={SlotName.BLUE: SlotView(SlotPhase.CHECKING)})
    failed = Fragment(pins={SlotName.BLUE: None}, views={SlotName.BLUE: SlotView(SlotPhase.FAILED)})
    both = merge(kept, failed)
    assert both.pins == {SlotName.BLUE: None}
    assert both.views[SlotName.BLUE].phase is SlotPhase.FAILED


def test_what_is_remembered_already_changes_nothing() -> None:
    """A host at rest keeps the very memory it had."""
    memory = Memory(slots={SlotName.BLUE: SlotMemory(staged=True)})
    assert remember(memory, Fragment(slots={SlotName.BLUE: {"staged": True}})) is memory
