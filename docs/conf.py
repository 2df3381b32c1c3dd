"""
How Sphinx builds the documentation site (`make docs`), and the site's navigation.

The source is the whole repository, so the pages keep the links that they have on GitHub.
`make check` fails for a link or an anchor that leads nowhere, and for a page that is not in `NAV`.
"""

import tomllib
from pathlib import Path

from sphinx.application import Sphinx

NAV = {
    "Quickstart": ("Tidegate <self>", "docs/cluster", "app/README"),
    "Concepts": (
        "docs/architecture",
        "docs/rollouts",
        "docs/failure-modes",
        "docs/security",
        "docs/design",
        "docs/glossary",
    ),
    "How-to": (
        "docs/by-hand",
        "docs/infrastructure",
        "docs/haproxy",
        "docs/upgrade",
        "CONTRIBUTING",
        "SECURITY",
    ),
    "Reference": (
        "docs/cli",
        "docs/configuration",
        "docs/log-events",
        "docs/metrics",
        "docs/benchmarks",
        "CHANGELOG",
    ),
    "Decisions": ("docs/adr/README", "docs/adr/[0-9]*"),
}

_PROJECT = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "Tidegate"
author = _PROJECT["authors"][0]["name"]
project_copyright = f"2026 {author}"

root_doc = "README"
include_patterns = ["*.md", "app/*.md", "docs/**.md"]
# Sphinx walks each folder that it is not told to leave out.
exclude_patterns = [".*", "agent", "bench", "build", "cluster", "dist", "haproxy", "infra", "systemd", "tests"]

extensions = ["myst_parser"]
myst_heading_anchors = 4  # the anchors that GitHub makes
nitpicky = True

html_theme = "furo"
html_title = "Tidegate"
html_copy_source = False
html_theme_options = {
    "source_repository": _PROJECT["urls"]["Repository"],
    "source_branch": "main",
    "source_directory": "",
}


def setup(app: Sphinx) -> None:
    """Connect what follows to the build; called by Sphinx."""
    app.connect("source-read", _add_navigation)
    app.connect("build-finished", _add_index)


def _add_navigation(_app: Sphinx, page: str, source: list[str]) -> None:
    """Append `NAV` to the first page, on the site only."""
    if page == root_doc:
        for caption, entries in NAV.items():
            paths = (entry if entry.endswith(">") else f"/{entry}" for entry in entries)
            lines = ("", "```{toctree}", ":hidden:", ":glob:", f":caption: {caption}", "", *paths, "```", "")
            source[0] += "\n".join(lines)


def _add_index(app: Sphinx, error: Exception | None) -> None:
    """Serve the first page at the site's root, too."""
    if error is None and app.builder.format == "html":
        site = Path(app.outdir)
        (site / "index.html").write_bytes((site / f"{root_doc}.html").read_bytes())
