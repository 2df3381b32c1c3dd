"""A model of the Docker daemon in virtual time, with the interface that the agent's loops need of it."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from agent.adapters.docker.container_config import RunRequest
from agent.adapters.docker.inspect import Image, Listing
from agent.adapters.docker.pull import PullProgress
from agent.adapters.registry.reference import pinned
from agent.core.host.observed import Container, ContainerState
from agent.core.model.errors import DockerRefusedError, DockerUnavailableError, ImagePullError, ImageRefusedError
from agent.core.model.names import ContainerId, Digest, ImageReference, SlotName
from tests.sim.world_clock import WorldClock

PULL_S, RUN_S, STOP_S = 0.6, 0.3, 0.4
EXITS_AFTER_S = 0.25


def digest_of(reference: str) -> Digest:
    """Return the made-up digest of a reference: the one it is pinned to, else by its name."""
    if "@" in reference:
        return Digest(reference.partition("@")[2])
    return Digest("sha256:" + reference.encode().hex().rjust(64, "0")[-64:])


def behaviour_of(reference: str) -> str:
    """Return how an image behaves: the word after the last dash of its tag ("good" without one)."""
    tag = reference.partition("@")[0]
    return tag.rsplit("-", 1)[1] if "-" in tag else "good"


class EventStream:
    """One agent's stream of the daemon's events; broken off when the daemon goes away."""

    def __init__(self, daemon: "DockerModel") -> None:
        self._daemon = daemon
        self._events = deque(["connected"])
        self._news = asyncio.Event()

    def __aiter__(self) -> "EventStream":
        return self

    async def __anext__(self) -> str:
        """Return the next event; errors as the adapter's."""
        while not self._events:
            self._daemon.check()
            self._news.clear()
            await self._news.wait()
        self._daemon.check()
        return self._events.popleft()

    def tell(self, event: str) -> None:
        """Take an event."""
        self._events.append(event)
        self._news.set()

    def break_off(self) -> None:
        """Lose the connection."""
        self._events.clear()
        self._news.set()


@dataclass(slots=True)
class DockerModel:
    """The daemon, its containers and images; jobs are the agent's own."""

    clock: WorldClock
    behaviour: Callable[[str], str] = behaviour_of
    """How an image behaves on this host."""
    pull_s: float = PULL_S
    is_away: bool = False
    away_since: float = 0.0
    """When it last went away."""
    refuses_to_run: str = ""
    """Why no container is made; empty: they are."""
    fails_to_pull: str = ""
    """Why no pull succeeds for now."""
    containers_by_id: dict[ContainerId, Container] = field(default_factory=dict)
    started: dict[ContainerId, float] = field(default_factory=dict)
    sick: set[ContainerId] = field(default_factory=set)
    local: dict[str, Digest] = field(default_factory=dict)
    """Images on the host by each of their names."""
    born: int = 0
    clashes: list[str] = field(default_factory=list)
    """Calls that changed a slot while another one did."""
    _at_work: dict[SlotName, str] = field(default_factory=dict)
    _streams: list[EventStream] = field(default_factory=list)

    def check(self) -> None:
        """
        Say whether the daemon answers.

        Raises:
            DockerUnavailableError: it does not.
        """
        if self.is_away:
            raise DockerUnavailableError("Docker does not answer")

    def set_away(self, *, is_away: bool) -> None:
        """Stop the daemon, or start it; containers go on (live-restore)."""
        self.is_away = is_away
        if is_away:
            self.away_since = self.clock.now
            for stream in self._streams:
                stream.break_off()
            self._streams.clear()

    def agent_died(self) -> None:
        """Lose what lived in the agent; a run that had begun stays half done."""
        self._at_work.clear()
        self._streams.clear()

    def in_slot(self, slot: SlotName) -> Container | None:
        """Return the container that answers on the slot's address."""
        return next((c for c in self.containers_by_id.values() if c.slot is slot and c.is_running), None)

    def answers(self, slot: SlotName) -> bool:
        """Whether the app in *slot* passes a health check now."""
        container = self.in_slot(slot)
        return container is not None and self.is_healthy(container)

    def is_healthy(self, container: Container) -> bool:
        """Whether this container would pass a probe now."""
        if not container.is_running or container.id in self.sick:
            return False
        delay = {"never": 1e9, "slow": 2.0}.get(self.behaviour(container.reference), 0.1)
        return self.clock.now - self.started[container.id] >= delay

    def exit(self, id_: ContainerId, code: int) -> None:
        """Let a container's process end."""
        if id_ in self.containers_by_id:
            gone = replace(self.containers_by_id[id_], state=ContainerState.EXITED, exit_code=code)
            self.containers_by_id[id_] = gone
            self._tell("die")

    def put(self, container: Container, *, started_at: float | None = None) -> None:
        """Let a container be there as somebody else made it."""
        self.containers_by_id[container.id] = container
        if started_at is not None:
            self.started[container.id] = started_at
        self._tell("update")

    def forget(self, id_: ContainerId) -> None:
        """Let a container be removed."""
        self.containers_by_id.pop(id_, None)
        self._tell("destroy")

    def _tell(self, event: str) -> None:
        for stream in self._streams:
            stream.tell(event)

    # What the agent's loops call.

    def events(self) -> EventStream:
        """Return a stream of events, "connected" first."""
        stream = EventStream(self)
        if not self.is_away:
            self._streams.append(stream)
        return stream

    async def containers(self) -> Listing:
        """List the containers."""
        self.check()
        return Listing(tuple(sorted(self.containers_by_id.values(), key=lambda each: each.occupancy)), ())

    async def ensure_network(self) -> None:
        """Find it there."""
        self.check()

    async def pull(self, reference: ImageReference, progress: PullProgress, stall_s: float) -> Digest:  # noqa: ARG002 - a pull here has no layers
        """Pull an image, or fail as its name says."""
        await self._work(self.pull_s)
        if self.fails_to_pull:
            raise ImagePullError(self.fails_to_pull)
        behaviour = self.behaviour(reference)
        if behaviour == "unknown":
            raise ImageRefusedError(f"{reference}: manifest unknown")
        if behaviour == "away":
            raise ImagePullError(f"{reference}: registry does not answer")
        digest = digest_of(reference)
        self.local |= {reference: digest, pinned(reference, digest): digest}
        return digest

    async def local_digest(self, reference: ImageReference) -> Digest | None:
        """Return what a name means on this host."""
        self.check()
        return self.local.get(reference)

    async def images(self) -> tuple[Image, ...]:
        """List the images."""
        self.check()
        return tuple(
            Image(digest, tuple(name for name, of in self.local.items() if of == digest), 1, 0)
            for digest in dict.fromkeys(self.local.values())
        )

    async def remove_image(self, name: str) -> None:
        """Take a name off an image that no container uses."""
        self.check()
        digest = self.local.get(name)
        if any(container.digest == digest for container in self.containers_by_id.values()):
            raise DockerRefusedError(f"{name}: image is in use")
        self.local.pop(name, None)

    async def run(self, request: RunRequest) -> ContainerId:
        """Create a container, and start it some time later."""
        self.check()
        if self.refuses_to_run:
            raise DockerRefusedError(self.refuses_to_run)
        release = request.release
        self.born += 1
        made = Container(
            id=ContainerId(f"{self.born:064x}"),
            slot=request.slot,
            reference=release.reference,
            digest=release.digest,
            release=release.id,
            pin=release.pin,
            generation=release.generation,
            occupancy=request.occupancy,
            state=ContainerState.CREATED,
        )
        with self._changing(request.slot, f"run {release.reference}"):
            self.containers_by_id[made.id] = made
            await self._work(RUN_S)
            self._set_running(made.id)
        return made.id

    async def start(self, id_: ContainerId) -> None:
        """Start a container again."""
        self.check()
        with self._changing(self._known(id_).slot, "start"):
            await self._work(RUN_S)
            self._set_running(id_)

    async def stop(self, id_: ContainerId, grace_s: float) -> None:  # noqa: ARG002 - what runs here ends at once
        """Stop a container. Idempotent."""
        self.check()
        if id_ not in self.containers_by_id:
            return
        with self._changing(self._known(id_).slot, "stop"):
            await self._work(STOP_S)
            if id_ in self.containers_by_id and self.containers_by_id[id_].is_running:
                self.exit(id_, 0)

    async def remove(self, id_: ContainerId) -> None:
        """Remove a container. Idempotent."""
        self.check()
        self.forget(id_)

    async def tail(self, id_: ContainerId, lines: int = 20, max_bytes: int = 4096) -> Sequence[str]:  # noqa: ARG002 - all say the same
        """Return what a container printed last."""
        self.check()
        return ("last words",)

    async def _work(self, seconds: float) -> None:
        """Take *seconds*; break off where the daemon went away meanwhile."""
        self.check()
        await asyncio.sleep(seconds)
        self.check()

    def _known(self, id_: ContainerId) -> Container:
        if id_ not in self.containers_by_id:
            raise DockerRefusedError(f"no such container: {id_[:12]}")
        return self.containers_by_id[id_]

    def _set_running(self, id_: ContainerId) -> None:
        known, now = self._known(id_), self.clock.now
        self.started[id_] = now
        fresh = replace(known, state=ContainerState.RUNNING, started_at=f"t{now:.3f}", exit_code=None)
        self.containers_by_id[id_] = fresh
        self._tell("start")
        if self.behaviour(known.reference) == "exits":
            self.clock.after(EXITS_AFTER_S, lambda: self._exit_of(id_, fresh.started_at))

    def _exit_of(self, id_: ContainerId, started_at: str) -> None:
        known = self.containers_by_id.get(id_)
        if known is not None and known.is_running and known.started_at == started_at:
            self.exit(id_, 1)

    @contextmanager
    def _changing(self, slot: SlotName, what: str) -> Iterator[None]:
        if slot in self._at_work:
            self.clashes.append(f"two jobs on slot {slot} at once: {self._at_work[slot]}, {what}")
        self._at_work[slot] = what
        try:
            yield
        finally:
            self._at_work.pop(slot, None)
