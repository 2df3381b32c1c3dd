"""What ``deploy`` asks for: image, spec and strategy, from options, settings and what was recorded last."""

import json
import sys
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from pydantic import ValidationError

from agent.cli.options import RolloutOptions
from agent.core.model.errors import FatalError
from agent.core.model.field_problems import field_problems
from agent.core.model.names import ImageReference, parse_reference
from agent.core.model.spec import RunSpec
from agent.core.rollout.decision import Decision, Request
from agent.core.rollout.strategy import Strategy

if TYPE_CHECKING:
    from agent.core.model.app import App

FROM_SETTINGS = ("bake_time", "drain_timeout", "min_healthy_time", "stop_grace_period")
"""Knobs of a rollout that an app's settings have as well."""
KNOBS = frozenset(Strategy.model_fields) - {"steps", "waits_for_promote"}


@dataclass(frozen=True, slots=True)
class SpecFrom:
    """A run spec, and where it came from, for people."""

    spec: RunSpec
    origin: str


def image_of(text: str) -> ImageReference:
    """
    Read an image reference.

    Raises:
        typer.BadParameter: it is none.
    """
    try:
        return parse_reference(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="IMAGE") from exc


def strategy_of(rollout_options: RolloutOptions, app: "App | None") -> Strategy:
    """
    Put a strategy together: options over the app's settings over the defaults.

    Raises:
        typer.BadParameter: an option does not fit, or two of them exclude each other.
    """
    if rollout_options.canary and rollout_options.steps:
        raise typer.BadParameter("--canary and --steps exclude each other: the first step is the canary")
    values: dict[str, Any] = {name: getattr(app.knobs, name) for name in FROM_SETTINGS} if app else {}
    values |= {name: _value(name, text) for name, text in asdict(rollout_options).items() if name in KNOBS and text}
    if rollout_options.canary:
        values["steps"] = (rollout_options.canary,)
    elif rollout_options.steps:
        values["steps"] = tuple(step.strip() for step in rollout_options.steps.split(","))
    if "steps" in values and "100%" in values["steps"][:-1]:
        raise typer.BadParameter("100% is the last step", param_hint="--steps")
    try:
        return Strategy(**values, waits_for_promote=rollout_options.manual)
    except ValidationError as exc:
        problem = field_problems(exc)[0]
        where = problem.path[0].replace("_", "-") if problem.path else ""
        hint = "--canary" if where == "steps" and rollout_options.canary else f"--{where}" if where else None
        raise typer.BadParameter(problem.what, param_hint=hint) from exc


def spec_of(file: Path | None, app: "App | None", before: Decision | None) -> SpecFrom:
    """
    Choose the spec: that of *file*, else the settings' default, else the one recorded last, else an empty one.

    Raises:
        FatalError: the file cannot be read, or a field in it is unknown or does not fit.
    """
    if file is not None:
        return SpecFrom(_read(file), str(file))
    if app is not None:
        return SpecFrom(app.default_spec, "default_spec of the settings")
    standing = before.final if before else None
    if before is not None and standing is not None and standing.spec is not None:
        return SpecFrom(standing.spec, f"that of rollout {before.generation}")
    if before is not None and standing is None and before.request is not None:
        return SpecFrom(before.request.spec, f"that of rollout {before.generation}")
    return SpecFrom(RunSpec(), "empty (none is recorded, and no settings file here has one)")


def request_of(image: ImageReference, spec: SpecFrom, rollout_options: RolloutOptions) -> Request:
    """Put a request together."""
    return Request(image=image, spec=spec.spec, forces_source=rollout_options.force_source)


def _read(file: Path) -> RunSpec:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        return RunSpec.model_validate(tomllib.loads(text) if file.suffix == ".toml" else json.loads(text))
    except ValidationError as exc:
        raise FatalError("\n".join(f"--spec {file}: {each.text()}" for each in field_problems(exc))) from exc
    except OSError as exc:
        raise FatalError(f"--spec {file} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        kind = "TOML" if file.suffix == ".toml" else "JSON (or TOML, by its name's end)"
        raise FatalError(f"--spec {file} is no {kind}: {exc}") from exc


def _value(name: str, text: str) -> str | float:
    """Read ``30`` as a number of seconds; a share of the hosts stays text."""
    return float(text) if text.isdecimal() and not name.startswith("max_") else text
