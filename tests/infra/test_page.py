"""Figures and tables of docs/infrastructure.md are those of the code."""

import json
import re
from typing import Any

import pytest

from infra.config import environments, load
from infra.template.stack import render
from tests.infra.cases import ROOT

PAGE = (ROOT / "docs" / "infrastructure.md").read_text()


def figures(name: str) -> list[int]:
    (row,) = re.findall(rf"^\| {name}[^|]*\| ([\d,]+)[^|]*\| ([\d,]+)", PAGE, re.MULTILINE)
    return [int(each.replace(",", "")) for each in row]


def test_the_figures_are_those_of_the_templates() -> None:
    made = [render(load(env)) for env in ("dev", "prod")]
    assert figures("resources") == [len(json.loads(text)["Resources"]) for text in made]
    assert figures("size of the template") == [len(text) for text in made]


@pytest.mark.parametrize(("env", "column"), [("dev", 0), ("prod", 1)])
def test_the_billed_parts_are_those_of_the_template(env: str, column: int) -> None:
    template = json.loads(render(load(env)))["Resources"]
    section = PAGE.partition("## Cost")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE)
    shown = {re.split("[,:]", name)[0]: values[column] for name, *values in rows[1:]}
    assert shown == billed(template)


def billed(template: dict[str, Any]) -> dict[str, str]:
    """Return what AWS bills in *template*, apart from traffic, as the page writes it."""

    def of_type(kind: str) -> list[dict[str, Any]]:
        return [each["Properties"] for each in template.values() if each["Type"] == kind]

    (balancer,) = of_type("AWS::ElasticLoadBalancingV2::LoadBalancer")
    consul, web = template["ConsulServers"]["Properties"], template["WebHosts"]["Properties"]
    consul_type, consul_gb = launched(template["ConsulTemplate"])
    web_type, web_gb = launched(template["WebTemplate"])
    count, web_count = int(consul["DesiredCapacity"]), int(web["DesiredCapacity"])
    in_public = sum(
        int(group["DesiredCapacity"])
        for group in (consul, web)
        if group["VPCZoneIdentifier"][0]["Ref"].startswith("Public")
    )
    return {
        "instances of the Consul servers": f"{count} {consul_type}",
        "instances of the web hosts": f"{web_count} {web_type}, up to {web['MaxSize']}",
        "gp3 disks": str(count * consul_gb + web_count * web_gb),
        "application load balancers": "1",
        "public IPv4 addresses": str(len(balancer["Subnets"]) + len(of_type("AWS::EC2::EIP")) + in_public),
        "NAT gateways": str(len(of_type("AWS::EC2::NatGateway"))),
        "private DNS zones": str(len(of_type("AWS::Route53::HostedZone"))),
    }


def launched(template: dict[str, Any]) -> tuple[str, int]:
    """Return the instance type and the gigabytes of disk of a launch template."""
    data = template["Properties"]["LaunchTemplateData"]
    return data["InstanceType"], sum(disk["Ebs"]["VolumeSize"] for disk in data["BlockDeviceMappings"])


def test_every_environment_has_a_column_of_its_own() -> None:
    assert environments() == ("dev", "prod")
