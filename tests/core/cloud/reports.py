"""Reports of an instance in an auto-scaling group."""

from agent.core.model.names import SlotName
from agent.core.model.report import FailureReport, NodeReport, SlotReport
from agent.core.model.states import SlotPhase

FINAL = {"r#1": FailureReport(reason="GET / answered 500")}


def report(
    phase: SlotPhase = SlotPhase.PULLING,
    *,
    ready: bool = False,
    leaving: bool = False,
    opened: int | None = 0,
    workers: int | None = 0,
    failures: dict[str, FailureReport] | None = None,
) -> NodeReport:
    slots = {
        SlotName.BLUE: SlotReport(phase=phase, open_requests=opened),
        SlotName.GREEN: SlotReport(phase=SlotPhase.EMPTY, open_requests=0),
    }
    return NodeReport(
        app="shop", node="web-1", instance="b.1", agent="0", phase=phase, summary="pulling 62 %", is_ready=ready,
        is_leaving=leaving, old_workers=workers, failures=failures or {}, slots=slots,
    )  # fmt: skip


FAILED = report(SlotPhase.FAILED, failures=FINAL)

READY = report(SlotPhase.SERVING, ready=True)

GONE = report(SlotPhase.SERVING, leaving=True)
