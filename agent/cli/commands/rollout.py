"""``tidegate deploy`` and what moves a rollout afterwards. Each function is one command: its docstring is its help."""

from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.options import Access, Following, Goal, Order, Patience, Reason, Shape, spread

if TYPE_CHECKING:
    from agent.cli.rollout.operation import Errand
    from agent.cli.rollout.progress import Verdict

Image = Annotated[str, typer.Argument(help="Image reference; its tag is resolved to a digest once, for all hosts.")]
MINIMAL = Patience(detach=True)


@spread
def deploy(image: Image, order: Order, following: Following, shape: Shape, access: Access) -> None:
    """
    Move the whole fleet to IMAGE as one transaction, and follow it.

    Every host stages it beside the release that serves; traffic moves only after all hosts have it healthy.
    Ctrl-C leaves the rollout running.
    """
    from agent.cli.rollout.operation import Wish, run, warn_without_coordinator, written
    from agent.cli.rollout.request import image_of, request_of, spec_of, strategy_of
    from agent.cli.views.text import clean
    from agent.core.rollout.commands import current

    if order.queue and order.supersede:
        raise typer.BadParameter("--queue and --supersede exclude each other")
    reference = image_of(image)

    async def doing(errand: "Errand") -> "Verdict":
        from agent.adapters.consul.fleet import read_keys

        session = errand.session
        strategy = strategy_of(shape, session.app_settings)
        before = current(await read_keys(session.client, session.app))
        spec = spec_of(shape.spec, session.app_settings, before)
        end = await errand.begin(Wish(request_of(reference, spec, shape), strategy, order.queue, order.supersede))
        if errand.record is None:
            return end
        began = f"rollout {errand.record.generation}: {reference} by {session.author}; spec: {spec.origin}"
        errand.out.tell(clean(began))
        await warn_without_coordinator(errand)
        if following.detach:
            return written(errand, f"rollout {errand.record.generation} is written; `tidegate status` shows it")
        return await errand.follow(following.wait)

    run(access, following.patience, order.reason, doing)


@spread
def promote(following: Following, access: Access, reason: Reason = "") -> None:
    """Let the hosts after the canary switch, or all hosts of a rollout with --manual."""
    _flag(access, following.patience, reason, "promote", following.wait)


@spread
def abort(patience: Patience, access: Access, reason: Reason = "") -> None:
    """End the rollout in progress before its commit; no visitor has seen the new release."""
    _flag(access, patience, reason, "abort")


@spread
def pause(access: Access, reason: Reason = "") -> None:
    """Pause the rollout; abort and rollback still work, and hosts continue to serve."""
    _flag(access, MINIMAL, reason, "pause")


@spread
def resume(access: Access, reason: Reason = "") -> None:
    """Continue a paused rollout; its deadlines shift by the length of the pause."""
    _flag(access, MINIMAL, reason, "resume")


@spread
def rollback(
    order: Order,
    following: Following,
    shape: Shape,
    access: Access,
    release: Annotated[
        str | None,
        typer.Argument(
            metavar="[RELEASE]", help="#12 (the release that rollout 12 ended with), a release id, or an image."
        ),
    ] = None,
) -> None:
    """
    Roll back the rollout in progress; without one, deploy the previous release, or RELEASE.

    In progress, the old release is warm: each host needs one HAProxy command, and visitors of the new release move.
    After the end it is a new rollout; a host where the old release is still warm reuses its container.
    """
    from agent.cli.rollout.operation import run
    from agent.cli.rollout.rollback import roll_back

    if order.queue and order.supersede:
        raise typer.BadParameter("--queue and --supersede exclude each other")

    async def doing(errand: "Errand") -> "Verdict":
        return await roll_back(errand, release, order, shape, following.wait)

    run(access, following.patience, order.reason, doing)


@spread
def adopt(
    access: Access,
    reason: Annotated[str, typer.Option("--reason", help="Reason, kept in the audit entry.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Accept an older state of Consul, such as a restored snapshot: hosts follow the present active/image."""
    import asyncio

    from agent.cli.rollout.adopt import adopt as accept

    asyncio.run(accept(access, reason=reason, yes=yes))


def _flag(access: Access, patience: Patience, reason: str, name: str, goal: Goal = Goal.DONE) -> None:
    """Set a flag of the rollout in progress; follow what comes of it, unless it comes to nothing by itself."""
    from agent.cli.rollout.operation import run, warn_without_coordinator, written
    from agent.cli.rollout.progress import Aim
    from agent.core.rollout import commands

    change = {
        "promote": commands.promote,
        "abort": commands.abort,
        "pause": commands.pause,
        "resume": commands.resume,
    }[name]
    past = {"promote": "promoted", "abort": "being aborted", "pause": "paused", "resume": "resumed"}[name]

    async def doing(errand: "Errand") -> "Verdict":
        await errand.command(lambda seen: change(seen.keys, errand.by))
        assert errand.record is not None
        words = f"rollout {errand.record.generation} is {past}"
        await warn_without_coordinator(errand)
        if patience.detach:
            return written(errand, words)
        errand.out.tell(words)
        return await errand.follow(goal, Aim.BACK if name == "abort" else Aim.FORWARD)

    run(access, patience, reason, doing)
