"""A CloudFormation stack: change sets, events, outputs."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from infra.aws import Aws, translate_aws_errors
from infra.errors import AwsError, AwsMissingError

POLL_S = 2.0
CHANGE_SET_DEADLINE_S = 300.0
STACK_DEADLINE_S = 5400.0
"""Two groups of hosts, one after the other, each with up to an hour of patience for a batch."""
_NO_CHANGES = ("No updates are to be performed", "didn't contain changes", "no changes")


@dataclass(frozen=True, slots=True)
class Difference:
    """One resource that a change set touches."""

    action: str
    name: str
    kind: str
    replacement: bool = False
    properties: tuple[str, ...] = ()

    def __str__(self) -> str:
        sign = {"Add": "+", "Remove": "-", "Modify": "~"}.get(self.action, "?")
        why = f": {', '.join(self.properties)}" if self.properties else ""
        return f"{sign} {self.name} ({self.kind.removeprefix('AWS::')}){why}{' REPLACED' if self.replacement else ''}"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a stack's history."""

    at: str
    status: str
    name: str
    reason: str

    @property
    def is_bad(self) -> bool:
        """Whether it tells of a failure."""
        return "FAILED" in self.status or "ROLLBACK" in self.status

    def __str__(self) -> str:
        return f"{self.at} {self.status:<28} {self.name}{f': {self.reason}' if self.reason else ''}"


@dataclass(frozen=True, slots=True)
class Stack:
    """One stack by name."""

    aws: Aws
    name: str
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    arn: str = ""
    """Where it is known: a stack that is deleted can be looked at by nothing else."""

    @property
    def _api(self) -> Any:
        return self.aws.client("cloudformation")

    def describe(self) -> dict[str, Any]:
        """
        Return what CloudFormation says of it.

        Raises:
            AwsMissingError: there is none of this name in the region.
            AwsError: CloudFormation refuses or does not answer.
        """
        try:
            with translate_aws_errors(f"look at stack {self.name}"):
                found: dict[str, Any] = self._api.describe_stacks(StackName=self.arn or self.name)["Stacks"][0]
                return found
        except AwsMissingError as exc:
            where = self.aws.place
            raise AwsMissingError(f"there is no stack {self.name} in {where}: is the region right?") from exc

    def identified(self) -> "Stack":
        """Return this very stack, also when it is deleted and another of its name made."""
        return replace(self, arn=str(self.describe()["StackId"]))

    def exists(self) -> bool:
        """Return whether there is one that was created."""
        try:
            return str(self.describe()["StackStatus"]) != "REVIEW_IN_PROGRESS"
        except AwsMissingError:
            return False

    def outputs(self) -> dict[str, str]:
        """Return its outputs."""
        return {each["OutputKey"]: each["OutputValue"] for each in self.describe().get("Outputs", [])}

    def parameters(self) -> dict[str, str]:
        """Return the values its parameters have."""
        return {each["ParameterKey"]: each["ParameterValue"] for each in self.describe().get("Parameters", [])}

    def propose(self, template: str, parameters: Mapping[str, str], tags: Mapping[str, str]) -> "Proposal | None":
        """
        Create a change set; None: there is nothing to change. Parameters not named keep the values they have.

        Raises:
            AwsError: the template or a parameter is no good, or AWS refuses or does not answer.
        """
        is_new = not self.exists()
        values = dict(parameters) if is_new else {**self.parameters(), **parameters}
        label = f"tidegate-{int(time.time())}"
        try:
            with translate_aws_errors(f"propose changes to stack {self.name}"):
                made = self._api.create_change_set(
                    StackName=self.name,
                    ChangeSetName=label,
                    # AWS assumes UPDATE; said always, so that no second stack is made by mistake.
                    ChangeSetType="CREATE" if is_new else "UPDATE",
                    TemplateBody=template,
                    Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()],
                    Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
                    Capabilities=["CAPABILITY_IAM"],
                )
        except AwsError as exc:
            if any(words in str(exc) for words in _NO_CHANGES):
                return None
            raise
        return Proposal(self, str(made["Id"]), is_new)

    def events(self) -> list[Event]:
        """Return its history, oldest first."""
        with translate_aws_errors(f"read the events of stack {self.name}"):
            pages = list(self._api.get_paginator("describe_stack_events").paginate(StackName=self.arn or self.name))
        return [_event(each) for each in reversed([each for page in pages for each in page["StackEvents"]])]

    def follow(self, seen: int) -> Iterator[Event]:
        """
        Yield events after the first *seen* until the stack has come to an end.

        Raises:
            AwsError: it failed or was rolled back, or is not done after an hour and a half.
        """
        deadline = self.clock() + STACK_DEADLINE_S
        worst = ""
        while True:
            status = str(self.describe()["StackStatus"])
            for event in self.events()[seen:]:
                seen += 1
                if event.is_bad and event.reason and not worst:
                    worst = f"{event.name}: {event.reason}"
                yield event
            if not status.endswith("IN_PROGRESS"):
                break
            if self.clock() > deadline:
                raise AwsError(f"stack {self.name} is still {status} after {STACK_DEADLINE_S / 60:.0f} minutes")
            self.sleep(POLL_S)
        if "ROLLBACK" in status or "FAILED" in status:
            raise AwsError(f"stack {self.name} is {status}{f'; first: {worst}' if worst else ''}")

    def protect(self, *, enabled: bool) -> None:
        """Let the stack be deleted, or not."""
        with translate_aws_errors(f"set the protection of stack {self.name}"):
            self._api.update_termination_protection(StackName=self.name, EnableTerminationProtection=enabled)

    def delete(self) -> None:
        """Begin to delete it."""
        with translate_aws_errors(f"delete stack {self.name}"):
            self._api.delete_stack(StackName=self.name)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change set that is not carried out yet."""

    stack: Stack
    arn: str
    is_new: bool

    def differences(self) -> tuple[Difference, ...]:
        """
        Wait until it was computed, and return what it would do; empty: nothing.

        Raises:
            AwsError: CloudFormation could not compute it.
        """
        deadline = self.stack.clock() + CHANGE_SET_DEADLINE_S
        while True:
            found = self._describe()
            status, reason = str(found["Status"]), str(found.get("StatusReason", ""))
            if status == "FAILED":
                if any(words in reason for words in _NO_CHANGES):
                    return ()
                raise AwsError(f"cannot propose changes to stack {self.stack.name}: {reason}")
            if status == "CREATE_COMPLETE":
                return tuple(_difference(each["ResourceChange"]) for each in found.get("Changes", []))
            if self.stack.clock() > deadline:
                raise AwsError(f"CloudFormation has not computed the changes within {CHANGE_SET_DEADLINE_S:.0f} s")
            self.stack.sleep(POLL_S)

    def _describe(self) -> dict[str, Any]:
        api, found = self.stack.aws.client("cloudformation"), {}
        changes: list[Any] = []
        more: dict[str, str] = {}
        while True:
            with translate_aws_errors("look at the proposed changes"):
                found = api.describe_change_set(ChangeSetName=self.arn, StackName=self.stack.name, **more)
            changes += found.get("Changes", [])
            if not found.get("NextToken"):
                return {**found, "Changes": changes}
            more = {"NextToken": found["NextToken"]}

    def execute(self) -> None:
        """Begin to carry it out."""
        with translate_aws_errors(f"change stack {self.stack.name}"):
            self.stack.aws.client("cloudformation").execute_change_set(
                ChangeSetName=self.arn, StackName=self.stack.name
            )

    def withdraw(self) -> None:
        """Delete it, with the empty stack that a first one leaves."""
        with translate_aws_errors("delete the proposed changes"):
            self.stack.aws.client("cloudformation").delete_change_set(ChangeSetName=self.arn, StackName=self.stack.name)
        # Looked at anew: somebody else may have created it meanwhile.
        if self.is_new and self.stack.describe()["StackStatus"] == "REVIEW_IN_PROGRESS":
            self.stack.delete()


def _difference(change: Mapping[str, Any]) -> Difference:
    targets = (each.get("Target", {}) for each in change.get("Details", []))
    names = {str(target.get("Name") or target.get("Attribute", "")) for target in targets}
    return Difference(
        action=change["Action"],
        name=change["LogicalResourceId"],
        kind=change["ResourceType"],
        # "Conditional" may turn out to be one: whoever reads it should count on it.
        replacement=change.get("Replacement") in {"True", "Conditional"},
        properties=tuple(sorted(name for name in names if name)),
    )


def _event(found: Mapping[str, Any]) -> Event:
    return Event(
        at=f"{found['Timestamp']:%H:%M:%S}",
        status=found.get("ResourceStatus", ""),
        name=found["LogicalResourceId"],
        reason=found.get("ResourceStatusReason") or "",
    )
