"""Visitors with cookie jars, behind a balancer without stickiness over the hosts that say ready."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.core.host.observed import Container
from agent.core.model.names import NodeName, Pin, SlotName
from tests.sim.fleet.node import Node
from tests.sim.host.proxy_model import Request
from tests.sim.world_clock import WorldClock

SHORT_S = 0.05
STAMP_SLACK_S = 0.5


@dataclass(slots=True)
class Last:
    """What a visitor got last."""

    container: Container
    node: NodeName
    at: float


@dataclass(slots=True, eq=False)
class Visitor:
    """Somebody who asks every *period_s*, some requests being long, sometimes silent for a while."""

    name: str
    period_s: float
    long_every: int
    """Every so many requests one that takes some seconds; 0: none."""
    silent_every: int
    """Every so many requests a silence; 0: none."""
    forgets: bool = False
    """Without a cookie jar: a new visitor at each request."""
    pin: Pin | None = None
    stamped: float = 0.0
    asked: int = 0
    last: Last | None = None

    def holds(self, now: float, idle_s: float) -> Last | None:
        """Return what a visit that is not over began with."""
        return self.last if self.pin is not None and now - self.stamped < idle_s - STAMP_SLACK_S else None


@dataclass(slots=True)
class Traffic:
    """
    The visitors, and the balancer they come through.

    Args:
        hosts: all hosts there are.
        visit: told of each answered request, before the visitor's jar changes.
    """

    clock: WorldClock
    rng: random.Random
    visit_idle_s: float
    hosts: Callable[[], Sequence[Node]]
    visit: Callable[[Visitor, Node, Container, float], None]
    visitors: Sequence[Visitor] = ()
    asked: int = 0
    failed: int = 0
    is_over: bool = False

    def begin(self, visitors: Sequence[Visitor]) -> None:
        """Let them come."""
        self.visitors = visitors
        for visitor in visitors:
            self.clock.after(self.rng.uniform(0, visitor.period_s), lambda visitor=visitor: self._come(visitor))  # type: ignore[misc]

    def _come(self, visitor: Visitor) -> None:
        if self.is_over:
            return
        visitor.asked += 1
        pause = visitor.period_s
        if visitor.silent_every and visitor.asked % visitor.silent_every == 0:
            pause = self.rng.uniform(0.3, 1.3) * self.visit_idle_s
        self.clock.after(pause, lambda: self._come(visitor))
        self._ask(visitor)

    def _ask(self, visitor: Visitor) -> None:
        now = self.clock.now
        self.asked += 1
        node = self._choose()
        if node is None:
            self.failed += 1
            return
        node.sync()
        held = visitor.pin if now - visitor.stamped < self.visit_idle_s else None
        occupant = reach(node, held)
        if occupant is None:
            self.failed += 1
            return
        is_long = visitor.long_every and visitor.asked % visitor.long_every == 0
        ends = now + (self.rng.uniform(2.0, 9.0) if is_long else SHORT_S)
        process = node.proxy.process
        self.visit(visitor, node, occupant, ends)
        node.proxy.requests.append(Request(process, occupant.slot, occupant.id, ends))
        process.servers[occupant.slot].last_request = now
        visitor.pin = None if visitor.forgets else process.pins.get(occupant.slot)
        visitor.stamped, visitor.last = now, Last(occupant, node.name, now)

    def _choose(self) -> Node | None:
        """Choose any host that says ready: a few draws, then all of them."""
        hosts = self.hosts()
        for _ in range(4):
            node = hosts[self.rng.randrange(len(hosts))]
            if node.says_ready:
                return node
        ready = [node for node in hosts if node.says_ready]
        return ready[self.rng.randrange(len(ready))] if ready else None


def reach(node: Node, pin: Pin | None) -> Container | None:
    """Route a request as HAProxy does, redispatching from a slot that refuses; None is a 503."""
    process = node.proxy.process
    slot = node.proxy.route(process, pin)
    if slot is not None and node.docker.in_slot(slot) is None:
        slot = next((s for s in SlotName if process.servers[s].takes_new and node.docker.in_slot(s)), None)
    return None if slot is None else node.docker.in_slot(slot)


def all_kinds_of_visitors(rng: random.Random, count: int) -> tuple[Visitor, ...]:
    """Return visitors of all kinds: one without a jar, the others quick and slow."""
    kinds = [
        Visitor(f"v{number}", rng.choice((0.7, 1.5, 4.0, 9.0)), rng.choice((0, 5, 11)), rng.choice((0, 0, 9, 17)))
        for number in range(count)
    ]
    kinds[0].forgets, kinds[0].period_s = True, 0.5
    return tuple(kinds)
