"""The fleet: does somebody coordinate, may this token command, do agents, reports, keys and services agree."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.adapters.consul.fleet import FleetReading
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.services import Instance
from agent.core.model import keys
from agent.core.model.errors import ConsulForbiddenError, PermanentError, TidegateError
from agent.core.model.keys import Absent, Present
from agent.core.model.names import AppName
from agent.core.model.states import AdminState
from agent.core.rollout.commands import CommandAuthor, InProgressError, deploy, manual_edits
from agent.core.rollout.decision import Request
from agent.core.rollout.strategy import Strategy
from agent.doctor.finding import Finding, fail, ok, warn

NAMES_MAX = 5
_ANY = Request(image="image:any")


@dataclass(frozen=True, slots=True)
class FleetState:
    """What was read of a fleet."""

    app: AppName
    reading: FleetReading
    agents: tuple[Instance, ...]
    """Instances of ``tidegate-agent``."""
    services: tuple[Instance, ...]
    """Instances of the app's own service."""
    holder: str | None
    """Of the coordinators' lock; None: no session holds it."""


def judge_fleet(state: FleetState) -> list[Finding]:
    """Say what is right and wrong about a fleet; pure."""
    return [
        _coordinator(state),
        _record(state),
        *_reports(state),
        _versions(state),
        _drift(state),
        _by_hand(state),
    ]


async def check_rights(client: ConsulClient, app: AppName) -> list[Finding]:
    """Try each right a command needs, by writes that cannot match and change nothing."""
    findings = []
    for what, key, rule in (
        ("Permission to command", keys.rollout(app), f'key "{app}/rollout" {{ policy = "write" }}'),
        ("Permission to audit", keys.history(app, 0, 0), f'key_prefix "{app}-status/history/" {{ policy = "write" }}'),
    ):
        try:
            await client.put(key, b"", cas=2**62)
        except ConsulForbiddenError:
            advice = f"to deploy, give the token the policy tidegate-{app}-operator, or: {rule}"
            findings.append(warn(what, f"{key} may not be written with this token: this token can only read", advice))
        except TidegateError as exc:
            findings.append(fail(what, str(exc), "see above"))
        else:
            findings.append(ok(what, f"{key} may be written"))
    return findings


def _coordinator(state: FleetState) -> Finding:
    able, holder = state.reading.coordinators, state.holder
    names = _names(able)
    if not able:
        advice = "set `coordinator = true` for some agents; without one nothing advances, and nothing breaks"
        return fail("Coordinator", "no live agent may coordinate", advice)
    if holder is None:
        return warn("Coordinator", f"nobody holds the lock; {names} may", "look again in half a minute")
    if holder not in able:
        advice = "its session ends within 30 s, then another takes over"
        return warn("Coordinator", f"{holder} holds the lock, and its agent is not alive", advice)
    return ok("Coordinator", f"{holder} holds the lock; {names} may")


def _record(state: FleetState) -> Finding:
    try:
        record = state.reading.record
    except PermanentError as exc:
        return fail("Rollout record", str(exc), "use a command of the agents' version, or mend the key")
    if record is None:
        return ok("Rollout record", "none: nothing was deployed yet")
    if record.flags.paused and not record.phase.is_terminal:
        return warn("Rollout record", f"rollout {record.generation} is paused ({record.flags.note})", "tidegate resume")
    return ok("Rollout record", f"rollout {record.generation} is {record.phase}")


def _reports(state: FleetState) -> list[Finding]:
    live, reports = state.reading.live, state.reading.reports
    missing = [node for node in live if node not in reports]
    stale = [node for node, instance in live.items() if node in reports and reports[node].instance != instance]
    orphans = [node for node in reports if node not in live]
    unready = [node for node in live if node in reports and not reports[node].is_ready]
    findings = []
    if missing:
        findings.append(fail("Reports", f"missing: {_names(missing)}", "look at the agent's log there"))
    if stale:
        advice = "of an agent before the live one: look at the agent's log there"
        findings.append(fail("Reports", f"stale: {_names(stale)}", advice))
    if orphans:
        advice = "hosts that are gone for good: a coordinator removes them after an hour"
        findings.append(warn("Reports", f"without a live agent: {_names(orphans)}", advice))
    findings += [warn("Reports", each, "see docs/failure-modes.md") for each in state.reading.notes]
    if unready:
        advice = "`tidegate status` shows the reason"
        findings.append(warn("Hosts", f"not ready: {_names(unready)}", advice))
    current = len(live) - len(missing) - len(stale)
    return [*findings, ok("Hosts", f"{current} of {len(live)} live hosts report")]


def _versions(state: FleetState) -> Finding:
    found: Mapping[str, list[str]] = defaultdict(list)
    for each in state.agents:
        if each.meta.get("app") == state.app or each.meta.get("coordinator") == "true":
            found[each.meta.get("version", "unknown")].append(each.meta.get("node", "?"))
    if len(found) <= 1:
        return ok("Versions", f"all agents are {next(iter(found), 'not registered')}")
    text = "; ".join(f"{version}: {_names(nodes)}" for version, nodes in sorted(found.items()))
    return warn("Versions", text, "bring all agents to one version")


def _drift(state: FleetState) -> Finding:
    """Compare what the catalog, the reports and the key say is served."""
    told: list[str] = []
    wanted = state.reading.keys.active
    is_moving = _is_moving(state)
    for node, report in sorted(state.reading.reports.items()):
        if node not in state.reading.live:
            continue
        serving = next(
            (slot for slot in report.slots.values() if slot.state is AdminState.READY and slot.release), None
        )
        instance = next((each for each in state.services if each.id == f"{state.app}-{node}"), None)
        if serving is None:
            continue
        if instance is not None and instance.meta.get("release", serving.release) != serving.release:
            told.append(f"{node}'s service says {instance.meta['release']}, its report {serving.release}")
        if not is_moving and isinstance(wanted, Present) and not _is(serving.image, serving.digest, wanted.value):
            told.append(f"{node} serves {serving.image}, active/image is {wanted.value}")
    if not told:
        return ok("Drift", "services, reports and keys agree")
    return warn(
        "Drift",
        "; ".join(told[:NAMES_MAX]),
        "normal for some seconds after a change; otherwise look at that host's log",
    )


def _is(image: str, digest: str, wanted: str) -> bool:
    return image == wanted or f"{image.partition('@')[0]}@{digest}" == wanted or wanted == f"{image}@{digest}"


def _is_moving(state: FleetState) -> bool:
    try:
        record = state.reading.record
    except PermanentError:
        return True
    return record is not None and not record.phase.is_terminal


def _by_hand(state: FleetState) -> Finding:
    if isinstance(state.reading.keys.rollout, Present) and _is_moving(state):
        try:
            record = state.reading.record
        except PermanentError:
            return warn("By hand", "unknown: the rollout record cannot be read", "see above")
        edits = manual_edits(record, state.reading.keys) if record else ()
        if edits:
            return warn("By hand", "; ".join(edits), "the rollout sets the keys again when it ends")
        return ok("By hand", "nobody changed the image keys in mid-rollout")
    try:
        deploy(state.reading.keys, (), _ANY, Strategy(), CommandAuthor("", "", 0))
    except InProgressError:
        return ok("By hand", "a rollout is in progress")
    except PermanentError as exc:
        return warn("By hand", str(exc), "`tidegate deploy` refuses until then")
    if isinstance(state.reading.keys.active, Absent):
        return warn("By hand", "nothing is active", f"tidegate deploy --app {state.app} IMAGE")
    return ok("By hand", "no change by hand is under way")


def _names(nodes: Iterable[str]) -> str:
    names = sorted(nodes)
    more = f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
    return ", ".join(names[:NAMES_MAX]) + more
