"""The docstring of a rule, in its parts."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

HEADING = re.compile(r"(Why is this bad|When it is fine|Example|Use instead)(?: \((.+)\))?:(.*)")


@dataclass(frozen=True)
class RuleText:
    """What a rule finds, why that is bad, and code with and without the fault."""

    what: str
    why: str
    when_fine: str
    example: str  # code that shows the fault
    instead: str  # what to write instead; it goes on from the example
    not_run: str  # why the tests do not run the two

    @property
    def summary(self) -> str:
        """The first paragraph, on one line."""
        return " ".join(self.what.split("\n\n")[0].split())


def parse(docstring: str) -> RuleText:
    """Split a rule's docstring: the fault, then the sections of HEADING with their text indented.

    `Example (reason):` says why the tests cannot run the code.
    """
    current: list[str] = []
    parts, not_run = {"what": current}, ""
    for line in inspect.cleandoc(docstring).split("\n"):
        if heading := HEADING.fullmatch(line):
            title, reason, rest = heading.groups()
            current = parts[title] = [rest]
            not_run = reason or not_run
        else:
            current.append(line)
    text = {title: inspect.cleandoc("\n".join(lines)) for title, lines in parts.items()}
    return RuleText(
        what=text["what"],
        why=_sentence(text.get("Why is this bad", "")),
        when_fine=_sentence(text.get("When it is fine", "")),
        example=text.get("Example", ""),
        instead=text.get("Use instead", ""),
        not_run=not_run,
    )


def _sentence(text: str) -> str:
    """The text on one line, with a capital if it begins with a plain word."""
    line = " ".join(text.split())
    return line[:1].upper() + line[1:] if re.match(r"[a-z]+[ ,.:;-]", line) else line
