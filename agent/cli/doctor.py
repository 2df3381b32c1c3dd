"""``tidegate doctor``: findings as a table, advice below what needs it."""

import asyncio
import json
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from agent.config import Settings
from agent.doctor.examine import examine
from agent.doctor.finding import Grade

_MARKS = {Grade.GOOD: ("ok  ", "green"), Grade.NOTE: ("note", "yellow"), Grade.BAD: ("BAD ", "bold red")}


def show(settings: Settings, *, as_json: bool) -> bool:
    """Print the findings; return whether nothing is bad."""
    findings = asyncio.run(examine(settings))
    console = Console()
    if as_json:
        console.print_json(json.dumps([asdict(finding) for finding in findings]))
    else:
        width = max(len(finding.what) for finding in findings)
        for finding in findings:
            mark, style = _MARKS[finding.grade]
            console.print(Text.assemble((mark, style), f"  {finding.what:<{width}}  {finding.seen}"), soft_wrap=True)
            if finding.advice:
                console.print(Text(f"      {'':<{width}}  -> {finding.advice}", style="dim"), soft_wrap=True)
    return all(finding.grade is not Grade.BAD for finding in findings)
