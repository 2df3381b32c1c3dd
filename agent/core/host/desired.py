"""
What a node serves and holds: one pure function of the keys (design.md, section 3); first match wins.

==========================================================  =====================================================
record                                                      serve / hold beside it
==========================================================  =====================================================
``rollback_failed``, ``active/image`` unchanged since       what is served; a new host: ``active/image`` / -
absent or terminal                                          by hand, below
``pending``                                                 ``active/image`` / -
``staging``, ``ready``                                      source / target
``canary``, ``awaiting_promotion``, ``switching``           in the step: target / source; else source / target
``baking``                                                  target / source
``retiring``                                                target / -, others go now
``aborting``, ``rolling_back``                              source / -, target is taken back
==========================================================  =====================================================

By hand: serve ``active/image``; hold ``stage/image`` if it differs and is newer; if it differs and is older, it
was taken back. Without a source (first deploy) the serve side is the holding page.

What is unreadable, went back or is missing never arrives here: :mod:`agent.core.host.validate` has put the last good
value in its place.
"""

from dataclasses import dataclass

from agent.core.host.memory import KeyMemory
from agent.core.host.observed import Container
from agent.core.model.names import ImageReference, NodeName, Pin, ReleaseId
from agent.core.model.record import Phase, RecordedRelease, RolloutRecord
from agent.core.model.spec import RunSpec


@dataclass(frozen=True, slots=True)
class DesiredRelease:
    """A release that should run here."""

    reference: ImageReference
    key: str
    """Identity of this request: another one when it is asked for anew."""
    generation: int = 0
    release: ReleaseId | None = None
    """None by hand: a container present whose reference equals it *is* it."""
    spec: RunSpec | None = None
    """None by hand: the app's default."""
    pin: Pin | None = None

    def is_met_by(self, container: Container) -> bool:
        """Whether *container* is this release."""
        if self.release is not None:
            return container.release == self.release
        return container.reference == self.reference

    def pin_for(self, container: Container) -> Pin:
        """Return the pin its visitors carry."""
        return self.pin or container.pin


@dataclass(frozen=True, slots=True)
class HoldingPage:
    """Nothing is recorded yet: the holding page answers and the host is ready."""


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Change nothing of what is served, and say why."""

    reason: str
    newcomer: DesiredRelease | None = None
    """What a host serves that serves nothing yet."""


Serve = DesiredRelease | HoldingPage | Unchanged


@dataclass(frozen=True, slots=True)
class Desired:
    """What this node should serve and hold."""

    serve: Serve
    hold: DesiredRelease | None = None
    taken_back: DesiredRelease | None = None
    """Its visitors go back at once, its container when empty."""
    back_if_newer: bool = False
    """An operator took it back by hand: its visitors move only if its container is newer than the one that serves."""
    retire_now: bool = False
    """The record says ``retiring``: what is neither served nor held goes without waiting for local silence."""
    runs_both: bool = False
    """Visitors of both releases are about: a host that has only one of them is not ready yet."""
    notes: tuple[str, ...] = ()
    """Why something is not followed, for an operator to read."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys to act on, after judgement."""

    active: KeyMemory | None
    stage: KeyMemory | None
    record: RolloutRecord | None = None
    record_index: int = 0


def desired(keys: Keys, node: NodeName) -> Desired:
    """Say what *node* serves and holds by *keys*; see the table above."""
    record = keys.record
    if record is None:
        return _by_hand(keys)
    match record.phase:
        case Phase.ROLLBACK_FAILED if keys.active is None or keys.active.modify_index <= keys.record_index:
            newcomer = _release_by_hand(keys.active, record) if keys.active else None
            return Desired(
                Unchanged("the last rollout ended rollback_failed; nothing changes until an operator deploys", newcomer)
            )
        case Phase.SUCCESSFUL | Phase.ABORTED | Phase.ROLLED_BACK | Phase.ROLLBACK_FAILED:
            return _by_hand(keys)
        case Phase.PENDING:
            return Desired(_release_by_hand(keys.active, record) if keys.active else HoldingPage())
        case _:
            return _in_progress(record, node)


def _in_progress(record: RolloutRecord, node: NodeName) -> Desired:
    source = _recorded(record.source, record)
    target = _recorded(record.target, record)
    before: Serve = source or HoldingPage()
    match record.phase:
        case Phase.STAGING | Phase.READY:
            return Desired(before, hold=target)
        case Phase.CANARY | Phase.AWAITING_PROMOTION | Phase.SWITCHING:
            if target is not None and record.includes(node):
                return Desired(target, hold=source, runs_both=True)
            return Desired(before, hold=target, runs_both=True)
        case Phase.BAKING:
            return Desired(target or before, hold=source, runs_both=True)
        case Phase.RETIRING:
            return Desired(target or before, retire_now=True)
        case _:
            return Desired(before, taken_back=target)


def _by_hand(keys: Keys) -> Desired:
    active, stage = keys.active, _stage_by_hand(keys)
    serve: Serve = _release_by_hand(active, keys.record) if active else HoldingPage()
    if stage is None or (active is not None and stage.value == active.value):
        return Desired(serve)
    other = _release_by_hand(stage, keys.record)
    if active is None or stage.modify_index > active.modify_index:
        return Desired(serve, hold=other)
    return Desired(serve, taken_back=other, back_if_newer=True)


def _stage_by_hand(keys: Keys) -> KeyMemory | None:
    """Return the stage key, unless a first deploy that was aborted left it behind: its image was taken back."""
    record, stage = keys.record, keys.stage
    if record is None or stage is None or not record.leaves_stage_behind:
        return stage
    return None if stage.modify_index <= keys.record_index else stage


def _release_by_hand(key: KeyMemory, record: RolloutRecord | None) -> DesiredRelease:
    if record is not None and (found := _recorded(record.release_for_image(key.value), record)) is not None:
        return found
    return DesiredRelease(ImageReference(key.value), key=f"{key.value}#{key.modify_index}")


def _recorded(release: RecordedRelease | None, record: RolloutRecord) -> DesiredRelease | None:
    if release is None:
        return None
    return DesiredRelease(
        reference=release.image,
        key=f"{release.release}#{record.generation}",
        generation=record.generation,
        release=release.release,
        spec=release.spec,
        pin=release.pin,
    )
