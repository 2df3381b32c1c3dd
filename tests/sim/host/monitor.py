"""Watches the simulated host for breaches of the invariants of design.md, section 6; never influences it."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.core.host.actions import Action, JobAction, Run, SetPins, Start, Stop, Switch
from agent.core.host.desired import DesiredRelease
from agent.core.host.memory import Failure, LastApplied
from agent.core.host.observed import Container, ContainerState
from agent.core.host.plan import Plan
from agent.core.model.names import ContainerId, SlotName
from agent.core.model.record import Phase, read_record
from agent.core.model.states import AdminState
from tests.sim.host.docker_model import behaviour_of
from tests.sim.host.proxy_port import OBSERVE_S

if TYPE_CHECKING:
    from tests.sim.host.place import Place
    from tests.sim.host.world import Visitor

BACKWARD = {Phase.ROLLING_BACK, Phase.ROLLED_BACK}
FORWARD = {Phase.SWITCHING, Phase.BAKING, Phase.RETIRING}


@dataclass(slots=True)
class Monitor:
    """Collects what was breached, by the invariant's name."""

    world: "Place"
    breaches: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    activated: set[str] = field(default_factory=set)
    """References that new visitors may get now."""
    ever_activated: set[str] = field(default_factory=set)
    left_ready: dict[ContainerId, float] = field(default_factory=dict)
    went_maint: dict[ContainerId, float] = field(default_factory=dict)
    visited: set[ContainerId] = field(default_factory=set)
    excused: set[ContainerId] = field(default_factory=set)
    """Containers that a fault took from their visitors."""
    took: Callable[[Action, Container], None] | None = None
    """Told when new visitors begin to get a container."""

    def breach(self, name: str, what: str) -> None:
        """Note a breach."""
        self.breaches[name].append(f"{self.world.now:.1f}s: {what}")

    def activate(self, reference: str) -> None:
        """Note that *reference* may reach new visitors from now on."""
        self.activated.add(reference)
        self.ever_activated.add(reference)

    def before_plan(self, plan: Plan) -> None:
        """Check what a plan may not hold whatever the host is like."""
        world = self.world
        if world.proxy.down and plan.actions:
            self.breach("S12", f"acts while HAProxy is away: {plan.actions[0]}")
        if not world.docker.is_away or world.now - world.docker.away_since <= OBSERVE_S:
            # A plan goes by one look; Docker may go away while it lasts.
            return
        for action in plan.actions:
            held = len(world.proxy.process.pins)
            if isinstance(action, Run | Start | Stop) or (isinstance(action, SetPins) and len(action.pins) < held):
                self.breach("S12", f"Docker is away, taken for empty: {action}")

    def validated(self, before: LastApplied, after: LastApplied) -> None:
        """Check that a record is never followed to a lower (generation, seq)."""
        if before.rollout is None:
            return
        seen = read_record(before.rollout.value).version
        now = read_record(after.rollout.value).version if after.rollout else (0, 0)
        if now < seen:
            self.breach("S6", f"from record {seen} to {now}")

    def taking_new(self) -> dict[SlotName, bool]:
        """Return which slots new visitors reach now."""
        return {slot: srv.takes_new for slot, srv in self.world.proxy.process.servers.items()}

    def after_step(self, action: Action, before: dict[SlotName, bool]) -> None:
        """Check one socket command, file or job against what new visitors could reach before it."""
        after, world = self.taking_new(), self.world
        if any(before.values()) and not any(after.values()):
            lonely = [slot for slot in SlotName if before[slot] and world.docker.in_slot(slot) is not None]
            if lonely:
                self.breach("S1", f"took {lonely} out of traffic, the last: {action}")
        for slot in SlotName:
            occupant = world.docker.in_slot(slot)
            if occupant is None:
                continue
            admin = world.proxy.process.servers[slot].admin
            if admin is AdminState.MAINT:
                self.went_maint.setdefault(occupant.id, world.now)
            else:
                self.went_maint.pop(occupant.id, None)
            if after[slot] and not before[slot]:
                self._now_taking(action, occupant)
            if admin is AdminState.READY:
                self.left_ready.pop(occupant.id, None)
            else:
                self.left_ready.setdefault(occupant.id, world.now)
            if before[slot] and not after[slot] and occupant.reference != world.consul.get("active"):
                self.activated.discard(occupant.reference)

    def _now_taking(self, action: Action, occupant: Container) -> None:
        if self.took is not None:
            self.took(action, occupant)
        restored = isinstance(action, Switch) and action.restore
        allowed = self.ever_activated if restored else self.activated
        if occupant.reference not in allowed:
            self.breach("S2", f"new visitors get {occupant.reference} before its activation: {action}")

    def before_switch(self, action: Switch) -> None:
        """Check that what gets the new visitors was seen healthy long enough, and is known good in HAProxy."""
        world, occupant = self.world, self.world.docker.in_slot(action.new)
        if action.restore or occupant is None or occupant.id in self.visited:
            return
        srv = world.proxy.process.servers[action.new]
        if srv.status != "DRAIN" or srv.check != "L7OK":
            self.breach("S12", f"{action} though HAProxy says {srv.status}, {srv.check}")
        if behaviour_of(occupant.reference) in ("never", "exits"):
            self.breach("S12", f"{action} though {occupant.reference} was never healthy")

    def before_job(self, action: JobAction) -> None:
        """Check the stop of a container and the arrival of a new occupant."""
        world = self.world
        match action:
            case Run(slot):
                if world.proxy.old:
                    self.breach("S8", f"an old worker lives: {action}")
                if world.docker.in_slot(slot) is not None:
                    self.breach("S8", f"the slot is taken: {action}")
            case Stop(slot, container):
                occupant = world.docker.containers_by_id.get(container)
                if occupant is not None and occupant.is_running:
                    self._stop(action, slot, occupant)
            case _:
                return

    def _stop(self, action: Stop, slot: SlotName, occupant: Container) -> None:
        world = self.world
        if world.proxy.process.servers[slot].admin is not AdminState.MAINT:
            self.breach("S8", f"its slot is not in maint: {action}")
        busy = world.proxy.open_on(slot) > 0 or bool(world.proxy.old)
        timeout_s = world.app.knobs.stop_grace_period if occupant.id in self.visited else 0.0
        since = self.went_maint.get(occupant.id, world.now)
        if busy and world.now - since < timeout_s - 0.01 and not self._is_excused(occupant):
            self.breach("S8", f"neither empty nor past its deadline: {action}")
        serve = world.agent.desired.serve if world.agent.desired else None
        # One that began to leave before anybody saw it goes on leaving: its release comes back in a new container.
        wanted = occupant.id in self.visited and isinstance(serve, DesiredRelease) and serve.is_met_by(occupant)
        if wanted and isinstance(serve, DesiredRelease) and serve.key not in self._failures():
            self.breach("S8", f"desired state wants it to serve: {action}")

    def _failures(self) -> dict[str, Failure]:
        plan = self.world.agent.plan
        return plan.memory.failures if plan is not None else {}

    def _is_excused(self, occupant: Container) -> bool:
        return occupant.id in self.excused or occupant.state is ContainerState.DEAD

    def visit(self, visitor: "Visitor", occupant: Container) -> None:
        """Check one answered request: who got what."""
        world, now = self.world, self.world.now
        self.visited.add(occupant.id)
        if occupant.reference not in self.ever_activated:
            self.breach("S9", f"a visitor got {occupant.reference}, which was never activated")
        held = visitor.holds(now, world.app.knobs.visit_idle)
        if held is None:
            if visitor.process is world.proxy.process and occupant.reference not in self.ever_activated:
                self.breach("S2", f"a new visitor got {occupant.reference}")
        elif held.id != occupant.id and not self._may_move(held, occupant):
            self.breach("S14", f"a visitor was moved from {held.reference} in {held.slot} to {occupant.reference}")

    def _may_move(self, held: Container, to: Container) -> bool:
        world = self.world
        if held.id in self.excused or held.release == to.release:
            return True
        record = world.consul.record
        forward = record is not None and record.phase in FORWARD
        back = record.target if record is not None and record.phase in BACKWARD else None
        if back is not None and held.release == back.release:
            return True
        if to.occupancy < held.occupancy and not forward:
            return True
        left = self.left_ready.get(held.id)
        return left is not None and world.now - left >= world.app.knobs.drain_timeout - 0.2

    def look(self) -> None:
        """Check what must hold at every moment."""
        for clash in self.world.docker.clashes:
            self.breach("jobs", clash)
        self.world.docker.clashes.clear()
        if self.world.docker.is_away:
            return
        listed = tuple(self.world.docker.containers_by_id.values())
        running = {container.release for container in listed if container.is_running}
        slots = [container.slot for container in listed if container.is_running]
        if len(running) > 2 or len(set(slots)) < len(slots):
            self.breach("S7", f"{len(slots)} containers run: {sorted(running)}")
