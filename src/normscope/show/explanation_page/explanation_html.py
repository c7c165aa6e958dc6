"""Builds explanation.html: the network's numbers, test images and the scripts, in one file."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normscope.judge.rules import rules
from normscope.records.files import write_text
from normscope.show.palette import style_sheet
from normscope.show.report.build import MARK, as_json, asset, content_policy, filled, refuse_foreign

SCRIPTS = ("network.js", "plots.js", "explanation.js")

FAULTS = (
    "statistics-never-updated",
    "inverted-momentum",
    "eps-too-large",
    "batch-too-small",
    "class-ordered-batches",
    "low-precision-statistics",
)
"""Names of the rules whose faults the page makes (section 7)."""


def write_page(content: Mapping[str, Any], path: Path) -> None:
    """Write the page, replacing an earlier one.

    Raises:
        InputError: if `path` is something else than a page of normscope; it is left as it is.
        StorageError: if it cannot be written.
    """
    refuse_foreign(path)
    write_text(path, page(content))


def page(content: Mapping[str, Any]) -> str:
    """Return the whole page as text, of what `studies.page_network` gives."""
    known = {rule.name: rule for rule in rules()}
    faults = {
        name: {"code": known[name].code, "name": name, "remedy": known[name].remedy}
        for name in FAULTS
    }
    source, style = content["source"], style_sheet() + _asset("explanation.css")
    script = "".join(map(_asset, SCRIPTS))
    parts = {
        "TITLE": html.escape(f"Batch normalization on {source}: explained by running it"),
        "MARK": MARK,
        "POLICY": content_policy([script], style),
        "STYLE": style,
        "DATA": as_json({**content, "rules": faults}),
        "SCRIPT": script,
    }
    return filled(_asset("explanation.html"), parts)


def _asset(name: str) -> str:
    return asset(name, "normscope.show.explanation_page")
