"""Numbers in words, said the same way by the terminal, the figures, the pages and the tables."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable


def percent(fraction: float | None) -> str:
    """Return a fraction as a percentage with one decimal; a dash where it is missing."""
    return "–" if fraction is None else f"{100 * fraction:.1f}%"


def plural(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun: "1 epoch", "1,024 steps". `many` is for other than an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def listed(names: Iterable[str], most: int = 8) -> str:
    """Return the first names in a row, and how many more there are: "a, b and 3 more"."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def items(kind: str | None) -> str:
    """Return what the inputs of a kind of data are: images, or windows of text."""
    return "windows" if kind == "text" else "images"


def p_text(p: float | None) -> str:
    """Return a p-value with three decimals."""
    if p is None:
        return "no test"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def e_text(e: float | None) -> str:
    """Return an e-value with two digits, of a very large one its power of ten."""
    if e is None:
        return "no e-value"
    return (
        f"e = {e:.0f}"
        if 10 <= e < 1000
        else f"e = {e:.2g}"
        if e < 10
        else f"e > 10^{min(int(math.log10(e)), 300)}"
    )


def wrapped(text: str, width: int) -> str:
    """Break a text's lines at spaces, so that none is longer than `width` unless by a single word.

    What a line goes on with is indented as deep as the line, or as its text behind a dash or a
    label that stands in a column of its own.
    """
    lines, width = [], max(width, 1)  # rich takes COLUMNS=0 as it is
    for line in text.split("\n"):
        hanging = re.match(r" *(?:- |\w+ {2,})?", line)
        indent = " " * min(hanging.end() if hanging else 0, width // 2)
        lines += textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        ) or [""]
    return "\n".join(lines)
