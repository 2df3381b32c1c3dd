"""Work that takes longer than a look: pulls, starts and stops, each a named task; looks see progress and result."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from agent.adapters.docker.container_config import RunRequest
from agent.adapters.docker.pull import PullProgress
from agent.core.host.actions import CancelPull, JobAction, Prune, Pull, Run, Start, Stop
from agent.core.host.observed import Job, JobKind, JobResult
from agent.core.model.app import App
from agent.core.model.errors import TidegateError, TransientError
from agent.core.model.names import Digest, ImageReference
from agent.core.model.release import Release
from agent.pacing.clock import Clock, SystemClock
from agent.runtime.host.images import ensure_image, prune_image, pull_image
from agent.runtime.host.ports import DockerPort

log = structlog.get_logger()
_OF_A_SLOT = frozenset({JobKind.RUN, JobKind.START, JobKind.STOP})


@dataclass(slots=True)
class _Work:
    task: asyncio.Task[None]
    began: float
    progress: PullProgress | None = None
    is_unwanted: bool = False
    """We cancelled it ourselves; else a cancellation is the end of the process."""


@dataclass(frozen=True, slots=True)
class _Yield:
    """What a job that succeeded has to tell."""

    lines: tuple[str, ...] = ()
    digest: str = ""
    is_new_image: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """What ended since the last look."""

    results: tuple[JobResult, ...]
    images: dict[ImageReference, Digest]


@dataclass(slots=True)
class Jobs:
    """
    The jobs of one app.

    At most one job per slot and one pull per image; asking again for what is under way does nothing.
    """

    app: App
    docker: DockerPort
    group: asyncio.TaskGroup
    wake: Callable[[str], None]
    clock: Clock = field(default_factory=SystemClock)
    _work: dict[tuple[JobKind, str], _Work] = field(default_factory=dict)
    _results: list[JobResult] = field(default_factory=list)
    _images: dict[ImageReference, Digest] = field(default_factory=dict)

    def under_way(self) -> tuple[Job, ...]:
        """Return the jobs under way."""
        now = self.clock.now()
        return tuple(
            Job(kind, key, now - work.began, work.progress.text() if work.progress else "")
            for (kind, key), work in self._work.items()
        )

    def take_ended(self) -> Ended:
        """Return results not yet taken, each once."""
        ended = Ended(tuple(self._results), dict(self._images))
        self._results.clear()
        self._images.clear()
        return ended

    def begin(self, action: JobAction) -> None:
        """Begin a job."""
        match action:
            case Pull(reference):
                progress = PullProgress(self.clock.now)
                self._spawn(JobKind.PULL, reference, lambda: self._pull(reference, progress), progress=progress)
            case CancelPull(reference):
                work = self._work.get((JobKind.PULL, reference))
                if work is not None and not work.is_unwanted:
                    work.is_unwanted = True
                    work.task.cancel()
            case Run():
                self._spawn(JobKind.RUN, action.slot, lambda: self._run(action), release_key=action.release.key)
            case Start():
                self._spawn(JobKind.START, action.slot, lambda: self._start(action))
            case Stop():
                self._spawn(JobKind.STOP, action.slot, lambda: self._stop(action), release_key=action.failed_key or "")
            case Prune():
                self._spawn(JobKind.PRUNE, action.digest, lambda: self._prune(action))

    def _spawn(
        self,
        kind: JobKind,
        key: str,
        work: Callable[[], Awaitable[_Yield]],
        *,
        release_key: str = "",
        progress: PullProgress | None = None,
    ) -> None:
        slot_busy = kind in _OF_A_SLOT and any(other in _OF_A_SLOT and at == key for other, at in self._work)
        if slot_busy or (kind, key) in self._work:
            return
        task = self.group.create_task(self._guarded(kind, key, work, release_key), name=f"{kind} {key}")
        begun = self._work[kind, key] = _Work(task, self.clock.now(), progress)

        def forget(_: asyncio.Task[None]) -> None:
            # A task that is cancelled before its first step never comes to its own end.
            if self._work.get((kind, key)) is begun:
                del self._work[kind, key]

        task.add_done_callback(forget)

    async def _guarded(self, kind: JobKind, key: str, work: Callable[[], Awaitable[_Yield]], release_key: str) -> None:
        result = JobResult(kind, key, release_key)
        try:
            got = await work()
            result = JobResult(
                kind, key, release_key, lines=got.lines, digest=got.digest, is_new_image=got.is_new_image
            )
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is None or not self._work[kind, key].is_unwanted or current.uncancel() > 0:
                raise
            log.info("image.pull_cancelled", image=key)
            return
        except TidegateError as exc:
            result = JobResult(kind, key, release_key, error=str(exc), transient=isinstance(exc, TransientError))
            log.warning("job.failed", job=kind, key=key, error=str(exc), transient=result.transient)
        except Exception as exc:
            log.exception("job.crashed", job=kind, key=key)
            result = JobResult(kind, key, release_key, error=f"internal error: {type(exc).__name__}", transient=True)
        finally:
            del self._work[kind, key]
        self._results.append(result)
        self.wake(f"{kind} ended")

    async def _pull(self, reference: ImageReference, progress: PullProgress) -> _Yield:
        began = self.clock.now()
        pulled = await pull_image(self.docker, reference, progress, self.app.knobs.image_pull_timeout)
        self._images[reference] = pulled.digest
        duration_s = round(self.clock.now() - began, 2)
        log.info("image.pulled", image=reference, digest=pulled.digest, duration_s=duration_s)
        return _Yield(digest=pulled.digest, is_new_image=pulled.is_new)

    async def _run(self, action: Run) -> _Yield:
        desired_release = action.release
        spec = desired_release.spec or self.app.default_spec
        release = Release(desired_release.reference, action.digest, spec, desired_release.generation)
        await self.docker.ensure_network()
        await ensure_image(self.docker, desired_release.reference, action.digest, self.app.knobs.image_pull_timeout)
        container = await self.docker.run(RunRequest(action.slot, release, action.occupancy))
        log.info("container.started", slot=action.slot, image=desired_release.reference, container=container[:12])
        return _Yield()

    async def _start(self, action: Start) -> _Yield:
        await self.docker.ensure_network()
        await self.docker.start(action.container)
        log.info("container.restarted", slot=action.slot, container=action.container[:12], reason=action.why)
        return _Yield()

    async def _stop(self, action: Stop) -> _Yield:
        lines = tuple(await self.docker.tail(action.container)) if action.failed_key else ()
        if action.failed_key:
            # They go with the container; an agent that ends before its next look would have kept them nowhere.
            log.warning("container.failed", slot=action.slot, container=action.container[:12], lines=list(lines))
        await self.docker.stop(action.container, action.grace_s)
        await self.docker.remove(action.container)
        log.info("container.removed", slot=action.slot, container=action.container[:12], reason=action.why)
        return _Yield(lines)

    async def _prune(self, action: Prune) -> _Yield:
        await prune_image(self.docker, action.reference, action.digest)
        log.info("image.removed", image=action.reference, digest=action.digest)
        return _Yield()
