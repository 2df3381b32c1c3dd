"""``tidegate-infra`` (``python -m infra``): render, plan, deploy, outputs, dns sync, destroy."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from infra.aws import Aws
from infra.cloudformation import Proposal, Stack
from infra.config import StackConfig, load
from infra.dns_records import Zone
from infra.errors import AwsError, ConfigError, InfraError

cli = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="The AWS stack that Tidegate's hosts run in."
)
dns = typer.Typer(no_args_is_help=True, help="The private names of the Consul servers.")
cli.add_typer(dns, name="dns")

Env = Annotated[str, typer.Option("--env", "-e", help="Environment by name, or the path of a TOML file.")]
Name = Annotated[str | None, typer.Option("--stack", help="Name of the stack [default: that of the environment].")]
Region = Annotated[str | None, typer.Option("--region", help="Region [default: that of your AWS settings].")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="A parameter, such as InitialImage=shop:1; kept by later deploys.")
]
CHANGED = 2
"""Exit code of ``plan`` when there is something to do."""


@cli.command()
def render(
    env: Env = "dev",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write it here.")] = None,
) -> None:
    """Print the CloudFormation template, or write it to a file."""
    from infra.template import stack  # noqa: PLC0415 - troposphere is slow to import

    text = stack.render(load(env))
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"--out: {out} cannot be written: {exc.strerror}") from exc
    typer.echo(f"wrote {out}: {len(json.loads(text)['Resources'])} resources, {len(text)} bytes", err=True)


@cli.command()
def plan(env: Env = "dev", stack: Name = None, region: Region = None, values: Set = None) -> None:
    """Show what a deploy would change; exit code 0: nothing, 2: something. Nothing is changed."""
    config = load(env)
    target = _stack(config, stack, region)
    proposal = _propose(config, target, values)
    try:
        is_changed = _show(target, proposal)
    finally:
        if proposal is not None:
            proposal.withdraw()
    raise typer.Exit(CHANGED if is_changed else 0)


@cli.command()
def deploy(env: Env = "dev", stack: Name = None, region: Region = None, values: Set = None) -> None:
    """Create or update the stack, and follow it to the end."""
    config = load(env)
    target = _stack(config, stack, region)
    proposal = _propose(config, target, values)
    if not _show(target, proposal):
        if proposal is not None:
            proposal.withdraw()
        return
    assert proposal is not None
    seen = 0 if proposal.is_new else len(target.events())
    proposal.execute()
    _follow(target, seen)
    if config.protect:
        target.protect(enabled=True)
    for key, value in target.outputs().items():
        typer.echo(f"{key}: {value}")


@cli.command()
def outputs(
    env: Env = "dev",
    stack: Name = None,
    region: Region = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Print the stack's outputs."""
    found = _stack(load(env), stack, region).outputs()
    if as_json:
        typer.echo(json.dumps(found, indent=1, sort_keys=True))
        return
    for key, value in sorted(found.items()):
        typer.echo(f"{key}: {value}")


@dns.command("sync")
def dns_sync(
    env: Env = "dev",
    stack: Name = None,
    region: Region = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show, and change nothing.")] = False,
) -> None:
    """Bring the names of the Consul servers up to date; the servers do so themselves, too."""
    zone = _zone(_stack(load(env), stack, region))
    made = zone.plan() if dry_run else zone.sync()
    for change in made:
        typer.echo(str(change))
    typer.echo("would change nothing more" if dry_run and made else "up to date", err=True)


@cli.command()
def destroy(
    env: Env = "dev",
    stack: Name = None,
    region: Region = None,
    confirm: Annotated[str | None, typer.Option("--confirm", help="The stack's name, instead of typing it.")] = None,
) -> None:
    """Delete the stack: hosts leave, names and secrets are swept, then everything goes."""
    from infra.destroy import destroy  # noqa: PLC0415

    target = _stack(load(env), stack, region).identified()
    if confirm is None:
        confirm = typer.prompt(f"This deletes {target.name} in {target.aws.place} for good. Type its name")
    if confirm != target.name:
        raise ConfigError(f"that is not {target.name}: nothing was deleted")
    zone = _zone(target)
    seen = len(target.events())
    for line in destroy(target, zone):
        typer.echo(line)
    _follow(target, seen)
    typer.echo(f"{target.name} is deleted; its log group is kept")


def _stack(config: StackConfig, name: str | None, region: str | None) -> Stack:
    return Stack(Aws(region), name or config.stack)


def _zone(stack: Stack) -> Zone:
    found = stack.outputs()
    try:
        zone_id, domain = found["ZoneId"], found["ZoneName"]
    except KeyError as exc:
        raise AwsError(f"stack {stack.name} has no output {exc.args[0]}: it is not complete, or not ours") from exc
    return Zone(stack.aws.client("route53"), stack.aws.client("ec2"), zone_id, domain, stack.name)


def _propose(config: StackConfig, stack: Stack, values: list[str] | None) -> Proposal | None:
    from infra.template import stack as template  # noqa: PLC0415 - troposphere is slow to import

    made: dict[str, str] = {}
    known = template.build(config).to_dict()["Parameters"]
    for each in values or []:
        key, equals, value = each.partition("=")
        if not equals or key not in known:
            raise ConfigError(f"--set {each}: write one of {', '.join(sorted(known))}, '=', and a value")
        made[key] = value
    return stack.propose(template.render(config), made, config.tags | {"Project": "tidegate"})


def _show(stack: Stack, proposal: Proposal | None) -> bool:
    console = Console(highlight=False, soft_wrap=True)
    differences = proposal.differences() if proposal is not None else ()
    for each in differences:
        console.print(str(each), style="red" if each.replacement or each.action == "Remove" else None, markup=False)
    replaced = sum(each.replacement for each in differences)
    if not differences:
        console.print(f"{stack.name}: nothing to change")
    else:
        console.print(f"{stack.name}: {len(differences)} changes, {replaced} replacements")
    return bool(differences)


def _follow(stack: Stack, seen: int) -> None:
    console = Console(highlight=False, soft_wrap=True)
    try:
        for event in stack.follow(seen):
            console.print(str(event), style="red" if event.is_bad else None, markup=False)
    except KeyboardInterrupt:
        raise InfraError(f"not followed any more; AWS goes on with stack {stack.name}") from None


def main() -> None:
    """Run the command line; each error is one line."""
    try:
        cli()
    except InfraError as exc:
        for line in str(exc).splitlines():
            print(f"tidegate-infra: {line}", file=sys.stderr)  # noqa: T201 - a command line prints
        sys.exit(1)
