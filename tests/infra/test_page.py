"""Figures and tables of docs/infrastructure.md are those of the code."""

import json
import re

import pytest

from infra import cost
from infra.config import StackConfig, Web, environments, load
from infra.errors import ConfigError
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


@pytest.mark.parametrize("env", environments())
def test_the_cost_table_is_that_of_the_command(env: str) -> None:
    assert cost.table(load(env)) in PAGE


def test_a_price_that_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"web\.instance_type: no price of m7g\.large"):
        cost.estimate(StackConfig(stack="x", web=Web(instance_type="m7g.large")))


def test_the_sum_is_that_of_its_lines() -> None:
    config = load("dev")
    total = sum(line.usd for line in cost.estimate(config))
    assert f"{total:.2f}" in cost.table(config).splitlines()[-2]
