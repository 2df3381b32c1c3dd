"""``tidegate deploy`` and what moves a rollout afterwards. Each function is one command: its docstring is its help."""

from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.options import (
    ConflictOptions,
    ConsulOptions,
    Reason,
    RolloutOptions,
    Timeouts,
    WaitOptions,
    WaitUntil,
    expand_option_groups,
    one_line,
)

if TYPE_CHECKING:
    from agent.cli.rollout.operation import RolloutOperation
    from agent.cli.rollout.progress import CommandResult

Image = Annotated[str, typer.Argument(help="Image reference; its tag is resolved to a digest once, for all hosts.")]
MINIMAL = Timeouts(detach=True)


@expand_option_groups
def deploy(
    image: Image,
    conflict_options: ConflictOptions,
    wait_options: WaitOptions,
    rollout_options: RolloutOptions,
    consul_options: ConsulOptions,
) -> None:
    """
    Move the whole fleet to IMAGE as one transaction, and follow it.

    Every host stages it beside the release that serves; traffic moves only after all hosts have it healthy.
    Ctrl-C leaves the rollout running.
    """
    from agent.cli.rollout.operation import DeployRequest, run, warn_without_coordinator, written
    from agent.cli.rollout.request import image_of, request_of, spec_of, strategy_of
    from agent.cli.views.text import clean
    from agent.core.rollout.commands import current

    if conflict_options.queue and conflict_options.supersede:
        raise typer.BadParameter("--queue and --supersede exclude each other")
    reference = image_of(image)

    async def doing(operation: "RolloutOperation") -> "CommandResult":
        from agent.adapters.consul.fleet import read_keys

        session = operation.session
        strategy = strategy_of(rollout_options, session.app_settings)
        before = current(await read_keys(session.client, session.app))
        spec = spec_of(rollout_options.spec, session.app_settings, before)
        end = await operation.begin(
            DeployRequest(
                request_of(reference, spec, rollout_options),
                strategy,
                conflict_options.queue,
                conflict_options.supersede,
            )
        )
        if operation.record is None:
            return end
        began = f"rollout {operation.record.generation}: {reference} by {session.author}; spec: {spec.origin}"
        operation.out.tell(clean(began))
        await warn_without_coordinator(operation)
        if wait_options.detach:
            return written(operation, f"rollout {operation.record.generation} is written; `tidegate status` shows it")
        return await operation.follow(wait_options.wait)

    run(consul_options, wait_options.timeouts, conflict_options.reason, doing)


@expand_option_groups
def promote(wait_options: WaitOptions, consul_options: ConsulOptions, reason: Reason = "") -> None:
    """Let the hosts after the canary switch, or all hosts of a rollout with --manual."""
    _flag(consul_options, wait_options.timeouts, reason, "promote", wait_options.wait)


@expand_option_groups
def abort(timeouts: Timeouts, consul_options: ConsulOptions, reason: Reason = "") -> None:
    """End the rollout in progress before its commit; no visitor has seen the new release."""
    _flag(consul_options, timeouts, reason, "abort")


@expand_option_groups
def pause(consul_options: ConsulOptions, reason: Reason = "") -> None:
    """Pause the rollout; abort and rollback still work, and hosts continue to serve."""
    _flag(consul_options, MINIMAL, reason, "pause")


@expand_option_groups
def resume(consul_options: ConsulOptions, reason: Reason = "") -> None:
    """Continue a paused rollout; its deadlines shift by the length of the pause."""
    _flag(consul_options, MINIMAL, reason, "resume")


@expand_option_groups
def rollback(
    conflict_options: ConflictOptions,
    wait_options: WaitOptions,
    rollout_options: RolloutOptions,
    consul_options: ConsulOptions,
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

    if conflict_options.queue and conflict_options.supersede:
        raise typer.BadParameter("--queue and --supersede exclude each other")

    async def doing(operation: "RolloutOperation") -> "CommandResult":
        return await roll_back(operation, release, conflict_options, rollout_options, wait_options.wait)

    run(consul_options, wait_options.timeouts, conflict_options.reason, doing)


@expand_option_groups
def adopt(
    consul_options: ConsulOptions,
    reason: Annotated[str, typer.Option("--reason", callback=one_line, help="Reason, kept in the audit entry.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Accept an older state of Consul, such as a restored snapshot: hosts follow the present active/image."""
    import asyncio

    from agent.cli.rollout.adopt import adopt as accept

    asyncio.run(accept(consul_options, reason=reason, yes=yes))


def _flag(
    consul_options: ConsulOptions, timeouts: Timeouts, reason: str, name: str, wait_until: WaitUntil = WaitUntil.DONE
) -> None:
    """Set a flag of the rollout in progress; follow what comes of it, unless it comes to nothing by itself."""
    from agent.cli.rollout.operation import run, warn_without_coordinator, written
    from agent.cli.rollout.progress import Direction
    from agent.core.rollout import commands

    change = {
        "promote": commands.promote,
        "abort": commands.abort,
        "pause": commands.pause,
        "resume": commands.resume,
    }[name]
    past = {"promote": "promoted", "abort": "being aborted", "pause": "paused", "resume": "resumed"}[name]

    async def doing(operation: "RolloutOperation") -> "CommandResult":
        await operation.command(lambda seen: change(seen.keys, operation.by))
        assert operation.record is not None
        text = f"rollout {operation.record.generation} is {past}"
        await warn_without_coordinator(operation)
        if timeouts.detach:
            return written(operation, text)
        operation.out.tell(text)
        return await operation.follow(wait_until, Direction.BACK if name == "abort" else Direction.FORWARD)

    run(consul_options, timeouts, reason, doing)
