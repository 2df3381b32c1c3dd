"""How properties look into a template."""

import re
from collections.abc import Iterator
from typing import Any

from tests.infra.cases import Template


def of_type(template: Template, kind: str) -> dict[str, dict[str, Any]]:
    """Return the properties of all resources of *kind*, by logical name."""
    return {
        name: each.get("Properties", {})
        for name, each in template["Resources"].items()
        if each["Type"] == f"AWS::{kind}"
    }


def id_of(group: str) -> dict[str, list[str]]:
    return {"Fn::GetAtt": [group, "GroupId"]}


def groups(template: Template) -> dict[str, dict[str, Any]]:
    resources = template["Resources"]
    return {name: each for name, each in resources.items() if each["Type"] == "AWS::AutoScaling::AutoScalingGroup"}


def launch_data(template: Template) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, properties in of_type(template, "EC2::LaunchTemplate").items():
        yield name, properties["LaunchTemplateData"]


def statements(template: Template) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, role in of_type(template, "IAM::Role").items():
        for policy in role["Policies"]:
            for statement in policy["PolicyDocument"]["Statement"]:
                yield name, statement


def seconds(duration: str) -> int:
    found = re.fullmatch(r"PT(\d+)([MS])", duration)
    assert found, duration
    return int(found[1]) * (60 if found[2] == "M" else 1)


def references(value: Any) -> Iterator[str]:
    match value:
        case {"Ref": str(name)}:
            yield name
        case {"Fn::GetAtt": [str(name), *_]}:
            yield name
        case {"Fn::Sub": [str(text), dict(own)]}:
            yield from (name for name in placeholders(text) if name not in own)
            yield from references(own)
        case {"Fn::Sub": str(text)}:
            yield from placeholders(text)
        case dict():
            for each in value.values():
                yield from references(each)
        case list():
            for each in value:
                yield from references(each)


def placeholders(text: str) -> list[str]:
    return re.findall(r"\$\{([A-Za-z0-9:]+)[^}!]*\}", text)
