"""Names and docstrings of rules and claims: the first paragraph, and the sections behind it."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import dataclass

from normscope.errors import InputError


def kebab_case(name: str) -> str:
    """Return the name of a class as that of a rule or claim: NeverTrained is never-trained."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


def sections(docstring: str, *titles: str) -> dict[str, str]:
    """Split a docstring at the lines that begin with one of the titles and a colon.

    Raises:
        InputError: if Python leaves all docstrings out.

    Returns:
        {title: its text, indentation removed}; the text before the first title has the key "".
        `Title (remark):` puts the remark under "Title remark".
    """
    if sys.flags.optimize > 1:
        raise InputError(
            "Python runs with -OO, which takes away the texts of rules and claims that normscope "
            "shows. Use -O, or none (PYTHONOPTIMIZE=0)."
        )
    heading = re.compile(rf"({'|'.join(titles)})(?: \((.+)\))?:(.*)")
    lines: list[str] = []
    parts = {"": lines}
    for line in inspect.cleandoc(docstring).split("\n"):
        if match := heading.fullmatch(line):
            title, remark, rest = match.groups()
            lines = parts[title] = [rest]
            if remark:
                parts[f"{title} remark"] = [remark]
        else:
            lines.append(line)
    return {title: inspect.cleandoc("\n".join(text)) for title, text in parts.items()}


def one_line(text: str) -> str:
    """Return a text without its line breaks."""
    return " ".join(text.split())


@dataclass(frozen=True)
class RuleText:
    """The docstring of a rule in its parts."""

    what: str  # it finds
    why: str  # that is bad
    when_fine: str
    example: str  # code that shows the fault
    instead: str  # what to write instead; it goes on from the example
    not_run: str  # why the tests do not run the two

    @property
    def summary(self) -> str:
        """The first paragraph, on one line."""
        return one_line(self.what.split("\n\n")[0])


def rule_text(docstring: str) -> RuleText:
    """Split a rule's docstring. `Example (reason):` says why the tests cannot run the code."""
    why, fine, example, instead = "Why is this bad", "When it is fine", "Example", "Use instead"
    text = sections(docstring, why, fine, example, instead)
    return RuleText(
        what=text[""],
        why=_sentence(text.get(why, "")),
        when_fine=_sentence(text.get(fine, "")),
        example=text.get(example, ""),
        instead=text.get(instead, ""),
        not_run=text.get(f"{example} remark", ""),
    )


def _sentence(text: str) -> str:
    """The text on one line, with a capital if it begins with a plain word."""
    line = one_line(text)
    return line[:1].upper() + line[1:] if re.match(r"[a-z]+[ ,.:;-]", line) else line
