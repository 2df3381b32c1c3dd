"""A model of Docker and of the agent's jobs in virtual time: pulls, runs, starts and stops that take their time."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agent.core.host.actions import CancelPull, JobAction, Pull, Run, Start, Stop
from agent.core.host.observed import (
    Container,
    ContainerState,
    Job,
    JobKind,
    JobResult,
    Unavailable,
)
from agent.core.model.names import ContainerId, Digest, ImageReference, SlotName
from agent.core.model.release import pin_of
from agent.core.model.spec import RunSpec, release_id

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


@dataclass(slots=True)
class Work:
    """A job under way."""

    kind: JobKind
    key: str
    begun: float
    ends: float
    action: JobAction


@dataclass(slots=True)
class DockerModel:
    """The daemon, its containers, and the jobs of the one agent that uses it."""

    behaviour: Callable[[str], str] = behaviour_of
    """How an image behaves on this host."""
    pull_s: float = PULL_S
    now: float = 0.0
    down: bool = False
    containers: dict[ContainerId, Container] = field(default_factory=dict)
    started: dict[ContainerId, float] = field(default_factory=dict)
    sick: set[ContainerId] = field(default_factory=set)
    works: list[Work] = field(default_factory=list)
    results: list[JobResult] = field(default_factory=list)
    images: dict[ImageReference, Digest] = field(default_factory=dict)
    born: int = 0
    clashes: list[str] = field(default_factory=list)
    """Jobs that were begun on a slot that had one."""

    def observe(self) -> tuple[Container, ...] | Unavailable:
        """List the containers."""
        return Unavailable("Docker does not answer") if self.down else tuple(self.containers.values())

    def jobs(self) -> tuple[Job, ...]:
        """List the jobs under way."""
        return tuple(Job(work.kind, work.key, self.now - work.begun) for work in self.works)

    def in_slot(self, slot: SlotName) -> Container | None:
        """Return the container that answers on the slot's address."""
        return next((c for c in self.containers.values() if c.slot is slot and c.is_running), None)

    def answers(self, slot: SlotName) -> bool:
        """Whether the app in *slot* passes a health check now."""
        container = self.in_slot(slot)
        return container is not None and self.is_healthy(container)

    def is_healthy(self, container: Container) -> bool:
        """Whether this container would pass a probe now."""
        if not container.is_running or container.id in self.sick:
            return False
        delay = {"never": 1e9, "slow": 2.0}.get(self.behaviour(container.reference), 0.1)
        return self.now - self.started[container.id] >= delay

    def begin(self, action: JobAction) -> None:
        """Begin a job, as the executor does."""
        match action:
            case Pull(reference):
                self._add(JobKind.PULL, reference, self.pull_s, action)
            case CancelPull(reference):
                self.works = [w for w in self.works if not (w.kind is JobKind.PULL and w.key == reference)]
            case Run(slot):
                self._add(JobKind.RUN, slot, RUN_S, action)
                self._create(action)
            case Start(slot):
                self._add(JobKind.START, slot, RUN_S, action)
            case Stop(slot):
                self._add(JobKind.STOP, slot, STOP_S, action)

    def _add(self, kind: JobKind, key: str, lasts: float, action: JobAction) -> None:
        clash = kind is not JobKind.PULL and any(w.key == key and w.kind is not JobKind.PULL for w in self.works)
        if clash:
            self.clashes.append(f"two jobs on slot {key} at once: {action}")
            return
        self.works.append(Work(kind, key, self.now, self.now + lasts, action))

    def _create(self, run: Run) -> None:
        self.born += 1
        release = release_id(run.digest, run.release.spec or RunSpec())
        container = Container(
            id=ContainerId(f"{self.born:064x}"),
            slot=run.slot,
            reference=run.release.reference,
            digest=run.digest,
            release=release,
            pin=run.release.pin or pin_of(release, run.release.generation),
            generation=run.release.generation,
            occupancy=run.occupancy,
            state=ContainerState.CREATED,
        )
        self.containers[container.id] = container

    def advance(self, now: float) -> None:
        """Move to *now*: jobs end, sick containers die."""
        self.now = now
        for container in list(self.containers.values()):
            if self._exits_at(container) <= now:
                self.exit(container.id, 1)
        if self.down:
            return
        for work in [work for work in self.works if work.ends <= now]:
            self.works.remove(work)
            self._end(work)

    def next_due(self) -> float:
        """Return when something changes by itself; infinity when nothing does."""
        ends = [] if self.down else [work.ends for work in self.works]
        return min([*ends, *(self._exits_at(c) for c in self.containers.values())], default=float("inf"))

    def _exits_at(self, container: Container) -> float:
        if not container.is_running or self.behaviour(container.reference) != "exits":
            return float("inf")
        return self.started[container.id] + EXITS_AFTER_S

    def _end(self, work: Work) -> None:
        match work.action:
            case Pull(reference):
                self._end_pull(reference)
            case Run(slot, release):
                created = next((c for c in self.containers.values() if c.slot is slot and self._is_new(c)), None)
                if created is not None:
                    self._set_running(created)
                self.results.append(JobResult(JobKind.RUN, slot, release.key))
            case Start(slot, container):
                if container in self.containers:
                    self._set_running(self.containers[container])
                self.results.append(JobResult(JobKind.START, slot))
            case Stop(slot, container, _, _, failed_key):
                self.containers.pop(container, None)
                self.results.append(JobResult(JobKind.STOP, slot, failed_key or "", lines=("last words",)))

    def _end_pull(self, reference: ImageReference) -> None:
        behaviour = self.behaviour(reference)
        if behaviour == "unknown":
            self.results.append(JobResult(JobKind.PULL, reference, error=f"{reference}: manifest unknown"))
        elif behaviour == "away":
            error = f"{reference}: registry does not answer"
            self.results.append(JobResult(JobKind.PULL, reference, error=error, transient=True))
        else:
            self.images[reference] = digest_of(reference)
            self.results.append(JobResult(JobKind.PULL, reference))

    @staticmethod
    def _is_new(container: Container) -> bool:
        return container.state is ContainerState.CREATED

    def _set_running(self, container: Container) -> None:
        self.started[container.id] = self.now
        started_at = f"t{self.now:.3f}"
        fresh = replace(container, state=ContainerState.RUNNING, started_at=started_at, exit_code=None)
        self.containers[container.id] = fresh

    def exit(self, container: ContainerId, code: int) -> None:
        """Let a container's process end."""
        gone = replace(self.containers[container], state=ContainerState.EXITED, exit_code=code)
        self.containers[container] = gone

    def agent_died(self) -> None:
        """Forget what lived in the agent: its jobs and their results; a run that had begun stays half done."""
        self.works.clear()
        self.results.clear()
        self.images.clear()
