"""Builds explanation.html: the network's numbers, test images and the scripts, in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from normscope.judge.rules import rules
from normscope.judge.timeline import evenly_spread
from normscope.records.files import write_text
from normscope.records.token_explanation import TokenExplanation
from normscope.show import token_arithmetic as tokens
from normscope.show.palette import style_sheet
from normscope.show.report.build import as_json, asset, content_policy, filled, refuse_foreign

SCRIPTS = ("network.js", "plots.js", "explanation.js")
TOKEN_SCRIPTS = ("plots.js", "tokens.js")

TOKENS = 64
"""Tokens that a page offers at most, evenly spread over a sample."""

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
    title = f"Batch normalization on {content['source']}: explained by running it"
    return _page("explanation.html", SCRIPTS, title, {**content, "rules": faults})


def write_token_page(explanation: TokenExplanation, made: Mapping[str, str], path: Path) -> None:
    """Write the page of a layer that takes every token by itself, as `write_page` does."""
    refuse_foreign(path)
    title = f"{tokens.TITLES[explanation.kind]}, token by token: {explanation.layer}"
    content = _token_content(explanation) | {"made": list(made.items())}
    write_text(path, _page("tokens.html", TOKEN_SCRIPTS, title, content))


def _token_content(explanation: TokenExplanation) -> dict[str, Any]:
    """Return what tokens.js reads."""
    chosen = explanation.token[-1]
    shown = sorted({*evenly_spread(explanation.x.shape[-2], TOKENS), chosen})
    vectors = {name: getattr(explanation, name) for name in ("gain", "bias")}
    return {
        **{name: getattr(explanation, name) for name in ("kind", "eps", "alpha", "shift")},
        **{name: None if each is None else each.tolist() for name, each in vectors.items()},
        "tokens": explanation.x[explanation.token[:-1]][shown].tolist(),
        "names": [explanation.name_of(index) for index in shown],
        "chosen": shown.index(chosen),
        "layer": tokens.describe_layer(explanation),
        "pooled": tokens.pooled_text(explanation),
        "modes": tokens.modes_text(explanation),
        "lost": tokens.losses(explanation),
        "steps": [
            (step.name, step.formula, step.numbers)
            for group in tokens.token_steps(explanation)
            for step in group
        ],
        "changes": [
            (change, f"moves the output by up to {moved}: {holds}")
            for change, moved, holds in tokens.invariances(explanation)
        ],
    }


def _page(template: str, scripts: Sequence[str], title: str, content: Mapping[str, Any]) -> str:
    style, script = style_sheet() + _asset("explanation.css"), "".join(map(_asset, scripts))
    policy, parts = content_policy([script], style), {"DATA": as_json(content), "SCRIPT": script}
    return filled(_asset(template), title, style, policy, parts)


def _asset(name: str) -> str:
    return asset(name, "normscope.show.explanation_page")
