"""The picture in the README shows lines of a demo's log and no others."""

import html
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
VERDICT = "Nothing was lost, and nobody was moved in mid-visit."
LOG = f"""\
    0.6 s  building the machines
    1.0 s  $ tidegate deploy testapp:a
           13:55:16 web-1: blue starting (starting testapp:a)
    2.0 s  $ tidegate deploy testapp:b
           traffic: 1,351 requests, 0 failed; newcomers get a; visitors get a
           13:55:30 rollout 2: testapp:b by root@vm; spec: that of rollout 1
           13:55:35 web-1: blue draining testapp:a, green serving testapp:b
           13:55:35 web-2: blue draining testapp:a, green serving testapp:b
    3.0 s  $ tidegate deploy testapp:bad
           13:56:04 web-1: blue failed testapp:bad
           13:56:06 aborted: aborted, web-1: not healthy
    4.0 s  refused: web-1: not healthy

traffic                 requests  failed
together                   6,505       0

{VERDICT}
{{"requests": 6505}}
"""


@pytest.fixture(name="script", scope="module")
def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_picture", ROOT / "docs" / "demo_picture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_picture_invents_no_line(script: ModuleType) -> None:
    """Each line is one of the log, in its order; the mark of a cut is the only other one."""
    shown = [line for line in script.lines_of(LOG) if line != script.CUT]
    rest = iter(LOG.splitlines())
    assert all(line in rest for line in shown)
    assert "    2.0 s  $ tidegate deploy testapp:b" in shown
    assert "           13:56:06 aborted: aborted, web-1: not healthy" in shown
    assert shown[-1] == VERDICT
    assert not [line for line in shown if "web-2" in line or "root@vm" in line or line.endswith("testapp:a")]
    drawn = " ".join(_texts(script.draw(shown)))
    assert "together                   6,505       0" in drawn


@pytest.mark.parametrize("log", [LOG.replace(VERDICT, ""), LOG.replace("$ tidegate deploy testapp:bad", "")])
def test_a_log_that_is_cut_off_draws_nothing(log: str, script: ModuleType) -> None:
    """Without its verdict, or without one of its three deploys."""
    with pytest.raises(ValueError, match=r"the log has"):
        list(script.lines_of(log))


def test_the_readme_describes_the_picture(script: ModuleType) -> None:
    """The figures of the text that stands for the picture are in it, and it is small."""
    picture = script.PICTURE.read_text(encoding="utf-8")
    drawn = " ".join(_texts(picture))
    found = re.search(
        r"; 0 of ([\d,]+) requests failed and 0 of (\d+) visitors", (ROOT / "README.md").read_text("utf-8")
    )
    assert found is not None
    assert re.search(rf"together +{found[1]} +0\b", drawn)
    assert f"{found[2]} visitors: 0 moved in mid-visit" in drawn
    assert len(picture.encode()) <= script.LIMIT_BYTES


def _texts(svg: str) -> list[str]:
    return [html.unescape(text).replace("\N{NO-BREAK SPACE}", " ") for text in re.findall(r">([^<>]+)</text>", svg)]
