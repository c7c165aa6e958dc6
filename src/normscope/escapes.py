"""Text that may hold a name of somebody else's, made safe for where it is shown: one function each.

A name comes from a checkpoint's keys, a model's class, a record, a folder. It must not steer a
terminal, end a line of a log, become a link, or be run as a formula.
"""

from __future__ import annotations

import codecs
import html
import re
import sys
from typing import Any

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Control characters but tab and newline, marks of direction, characters without a width, and lone
surrogates, which no encoding has.
"""

_COMMAND = re.compile(r"^(\s*):(?=:)|#(?=#\[)", re.MULTILINE)
"""What makes a line of a log a command of GitHub Actions."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What makes a spreadsheet run a cell's text."""

_PLAINER = {
    "✓": "+", "✗": "x", "–": "-", "—": "-", "−": "-", "×": "x", "±": "+-", "≥": ">=", "≤": "<=",
    "→": "->", "…": "...", "•": "*", "·": ".",
}  # fmt: skip
"""Our own signs, for an output whose encoding has not got them."""


def _visible(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def for_terminal(text: str) -> str:
    """Return a text of several lines that only shows something, on a terminal or in a log."""
    text = _UNSEEN.sub(_visible, text)
    return _COMMAND.sub(lambda match: match[0][:-1] + rf"\x{ord(match[0][-1]):02x}", text)


def for_line(text: str) -> str:
    """Return the same for a name inside a line: its line breaks are made visible, too."""
    return for_terminal(text.replace("\r", "\\r").replace("\n", "\\n"))


def for_annotation(text: str, *, in_property: bool = False) -> str:
    """Return the value of a workflow command of GitHub Actions, or of one of its properties."""
    text = _UNSEEN.sub(lambda match: match[0] if match[0] == "\r" else _visible(match), text)
    for character in "%\r\n:," if in_property else "%\r\n":
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def for_markdown(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line: no markup, link, HTML or table."""
    text = for_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_\[\]|~!])", r"\\\1", text)
    text = text.replace("://", "&#58;//")  # an address becomes a link by itself
    return re.sub(r"(?i)(www)\.", r"\1&#46;", text)


def for_csv(value: Any) -> Any:
    """Return a cell, a text with an apostrophe before what a spreadsheet would run as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def for_html(text: str) -> str:
    """Return a text for an element or an attribute of HTML or XML."""
    return html.escape(_UNSEEN.sub(_visible, text))


def printable_streams() -> None:
    """Make standard output and error write what their encoding has not got in other signs, so that
    no character ends a command.
    """
    codecs.register_error("normscope", _in_other_signs)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="normscope")


def _in_other_signs(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    plainer = (
        _PLAINER.get(sign) or sign.encode("unicode_escape").decode("ascii") for sign in signs
    )
    return "".join(plainer), error.end
