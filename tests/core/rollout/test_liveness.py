"""What only a watcher can tell: since when a host is gone, or its new visitors' release not up."""

from collections.abc import Mapping

from agent.core.model.names import NodeName
from agent.core.model.report import NodeReport
from agent.core.rollout.fleet import Host
from agent.core.rollout.liveness import Liveness, track_liveness
from tests.core.rollout.fixtures import host

WEB = NodeName("web-1")
BOOT = "web-1-boot-1"


class Watcher:
    """Looks at a fleet of one again and again."""

    def __init__(self) -> None:
        self.memory = Liveness()

    def look(self, now: float, shape: str | None, instance: str | None = BOOT) -> Host:
        live: Mapping[NodeName, str] = {} if instance is None else {WEB: instance}
        report = host(f"web-1 {shape}").report if shape else None
        reports: Mapping[NodeName, NodeReport] = {WEB: report} if report else {}
        self.memory, hosts = track_liveness(self.memory, live, reports, now)
        return hosts[WEB]


def test_a_host_is_gone_from_the_first_look_without_it() -> None:
    """Never earlier: who takes over has seen nobody go."""
    watcher = Watcher()
    assert watcher.look(100, "serves", None).gone_s == 0
    assert watcher.look(130, "serves", None).gone_s == 30
    assert watcher.look(140, "serves").gone_s is None
    assert watcher.look(150, "serves", None).gone_s == 0


def test_a_report_counts_only_while_the_same_instance_lives() -> None:
    """Of before a restart, of a dead agent, or of another host that took the name: nothing is known."""
    watcher = Watcher()
    assert watcher.look(1, "serves").now is not None
    assert watcher.look(2, "serves", "another boot").now is None
    assert watcher.look(3, "serves", None).now is None
    assert watcher.look(4, None).now is None
    assert watcher.look(5, "serves").now is not None


def test_a_release_is_unwell_from_the_first_look_that_shows_it() -> None:
    """Until one shows it up, or nothing is known."""
    watcher = Watcher()
    assert watcher.look(10, "sick").unwell_s == 0
    assert watcher.look(15, "sick").unwell_s == 5
    assert watcher.look(16, "switched").unwell_s == 0
    assert watcher.look(20, "sick").unwell_s == 0
    assert watcher.look(25, "sick", "another boot").unwell_s == 0
    assert watcher.look(30, "sick").unwell_s == 0


def test_what_was_wrong_with_the_release_before_does_not_count() -> None:
    """A host whose source was down for long has just switched: the target has its time."""
    watcher = Watcher()
    watcher.look(10, "down")
    assert watcher.look(100, "down").unwell_s == 90
    assert watcher.look(101, "sick").unwell_s == 0
    assert watcher.look(111, "sick").unwell_s == 10


def test_the_memory_does_not_grow() -> None:
    """Of hosts that are gone for good, or well, nothing is kept."""
    watcher = Watcher()
    watcher.look(1, "sick")
    watcher.look(2, "serves")
    assert watcher.memory == Liveness()
    assert track_liveness(Liveness(gone={NodeName("web-9"): 1.0}), {}, {}, 2.0) == (Liveness(), {})
