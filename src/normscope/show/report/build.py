"""Builds the report: the page's files, Vega, and everything that is shown, in one HTML file."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import vl_convert

from normscope.errors import InputError, StorageError
from normscope.escapes import for_html
from normscope.judge.check_formats import to_rows
from normscope.records.files import cache_folder, read_sealed, seal, write_text
from normscope.records.regular_files import open_regular
from normscope.show.figures.activation_distributions import shown_rate
from normscope.show.palette import style_sheet, variable
from normscope.show.report import page_head
from normscope.show.report.inside_layer import layer_facts
from normscope.show.report.layer_views import layer_names, stages
from normscope.show.report.report_data import ReportData
from normscope.show.report.specs import CONFIG
from normscope.show.report.views import SECTIONS, VIEWS

# vega-embed carries Vega, Vega-Lite and the expression interpreter, with which the page needs no
# eval
_SNIPPET = "window.vegaEmbed = vegaEmbed;"
_REVISION = 1  # of the snippet


@functools.cache
def vega_script() -> str:
    """The bundle, about 0.9 MB. Making it takes seconds, so it is kept; a cache that cannot be used
    is done without.
    """
    path = cache_folder() / f"vega-{version('vl-convert-python')}-{_REVISION}.js"
    if (kept := read_sealed(path)) is not None:
        return kept.decode("utf-8")
    script = vl_convert.javascript_bundle(_SNIPPET)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, script)
        seal(path)
    except (OSError, StorageError):
        pass  # a read-only home costs seconds, not the report
    return script


MARK = '<meta name="generator" content="normscope report">'
"""The mark near the beginning of a file that another report may replace."""

SHAPES = {
    "o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down",
    "P": "cross",
}  # fmt: skip


def build(data: ReportData, path: Path) -> Path:
    """Write the report of this data to `path`, replacing an earlier report there.

    Raises:
        InputError: if `path` is not a report; it is left as it is.
        StorageError: if it cannot be written.
    """
    refuse_foreign(path)
    write_text(path, page(data))
    return path


def page(data: ReportData) -> str:
    """Return the whole page as text."""
    return assemble(data.title, encode(data))


@dataclass(frozen=True)
class Content:
    """The data that a page shows, as JSON that can stand in a script element.

    Attributes:
        head: everything but the views.
        views: {name: view with its data}, in the order of the page.
    """

    head: str
    views: dict[str, str]


def encode(data: ReportData) -> Content:
    """Return the content of the page of this data."""
    return Content(as_json(_head(data)), {view["name"]: as_json(view) for view in _views(data)})


def assemble(title: str, content: Content, *, live: str | None = None) -> str:
    """Return the page around its content. With `live`, the content's version, it follows the server
    that it came from.
    """
    style = style_sheet() + asset("page.css")
    names = (*SCRIPTS, "live.js") if live is not None else SCRIPTS
    vega = vega_script() if content.views or live is not None else ""  # only words: nothing to draw
    scripts = [_as_script(vega), _as_script("".join(asset(name) for name in names))]
    views = ",".join(content.views.values())
    parts = {
        "VEGA": scripts[0],
        "SCRIPT": scripts[1],
        "PAYLOAD": f'{{"live":{as_json(live)},{content.head[1:-1]},"views":[{views}]}}',
    }
    policy = content_policy(scripts, style) + ("; connect-src 'self'" if live is not None else "")
    return filled(asset("page.html"), title, style, policy, parts)


def _head(data: ReportData) -> dict[str, Any]:
    """Everything that the page shows beside the views, as plain values."""
    judged = page_head.judge_studies(data)
    return {
        "title": data.title,
        "problems": list(data.problems),
        "conclusion": page_head.conclusion(data, judged),
        "progress": page_head.progress(data),
        "remarks": page_head.remarks(data),
        "summary": page_head.summary_rows(data),
        "summary_note": page_head.summary_note(data),
        "verdicts": page_head.verdict_rows(data, judged),
        "findings": [to_rows(check) for check in data.checks],
        "made_by": page_head.made_by(data),
        "runs": page_head.run_rows(data),
        "arms": [
            {
                "label": label,
                "colour": variable(colour),
                "dash": dash,
                "shape": SHAPES.get(marker, "circle"),
                "usual": label in data.usual_arms,
            }
            for label, (colour, dash, marker) in data.arms.items()
        ],
        "first_rate": shown_rate(data.runs) if data.runs else None,
        "layers": layer_names(data),
        "first_layer": _first_layer(data),
        "stages": stages(layer_names(data)),
        "facts": layer_facts(data),
        "recordings": [
            {"name": item.name, "run": item.run, "epochs": list(item.recording.epochs.items())}
            for item in data.watched
        ],
        "config": CONFIG,
        "sections": [
            {"name": name, "title": title, "note": note} for name, (title, note) in SECTIONS.items()
        ],
    }


def _first_layer(data: ReportData) -> int:
    """The layer that the page begins with: where two recordings part, or the one that was
    inspected, else the first.
    """
    names = layer_names(data)
    if data.difference is not None and data.difference.first is not None:
        return names.index(data.difference.first.layer)
    inspected = [study.layer for study in data.studies if study.layer in names]
    return names.index(inspected[0]) if inspected else 0


def _views(data: ReportData) -> Iterator[dict[str, Any]]:
    """The views that have data; those of one query share them."""
    first: dict[Any, str] = {}
    for view in VIEWS:
        if view.query in first:
            yield view.to_json(first[view.query])
        elif (table := view.query(data)) is not None:
            first[view.query] = view.name
            yield view.to_json(table.to_json())


def as_json(value: Any) -> str:
    """Return JSON for a script element: without `<`, and null for what is not finite."""
    text = json.dumps(_finite(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


SCRIPTS = (
    "decode.js", "rows.js", "layer_rows.js", "charts.js", "ridges.js", "words.js", "controls.js",
    "address.js", "page.js",
)  # fmt: skip


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def asset(name: str, room: str = "normscope.show.report") -> str:
    """Return the text of a file of a page."""
    return resources.files(room).joinpath(name).read_text(encoding="utf-8")


def filled(template: str, title: str, style: str, policy: str, parts: Mapping[str, str]) -> str:
    """Return a page's template with the part of its name in the place of each {{NAME}}: the head
    that all pages have, the title, and the page's own parts.
    """
    text = for_html(title)
    head = {"TITLE": text, "MARK": MARK, "POLICY": policy, "STYLE": style}
    parts = {"HEAD": _put_in(asset("head.html"), head), "TITLE": text, **parts}
    return _put_in(template, parts)


def _put_in(template: str, parts: Mapping[str, str]) -> str:
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda match: parts[match[1]], template)


def content_policy(scripts: Iterable[str], style: str) -> str:
    """Return the content security policy of a page that runs these scripts and loads nothing."""
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"script-src {' '.join(map(checksum, scripts))}; style-src {checksum(style)}"
    )


def _as_script(script: str) -> str:
    """Code as an inline script's content: nothing in it may look like the end of the element or a
    comment.
    """
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def checksum(content: str) -> str:
    """Return a script or style element's content as a content security policy names it."""
    digest = hashlib.sha256(content.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def refuse_foreign(path: Path) -> None:
    """Raise an InputError if `path` exists and is not a page of ours."""
    if path.is_dir():
        raise InputError(f"{path} is a folder. Give a file for the report (--out).")
    if not path.exists():
        return
    try:
        with open_regular(path) as file:
            head = file.read(4096)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror or error}), and was kept."
        ) from error
    if MARK.encode() not in head:
        raise InputError(f"{path} is not a normscope report and was kept. Give another --out.")
