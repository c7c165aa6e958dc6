"""The page of all rules, made from the rules themselves."""

from __future__ import annotations

import textwrap

from normscope.judge.rule import NEEDS, Rule
from normscope.judge.rules import rules

SECTIONS = {
    "NS1": "Values of a layer",
    "NS2": "Settings",
    "NS3": "Modes and freezing",
    "NS4": "Place and optimizer",
    "NS5": "What batches show",
    "NS6": "Loaders and devices",
    "NS7": "Two models, or a state_dict",
    "NS8": "History",
}

INTRODUCTION = """# Checks

`normscope.check(model)` and `normscope check module:factory` look for the ways in which normalization breaks. This page
is made from the rules (`python -m normscope.judge.rules > docs/checks.md`). What they were measured on, where their
thresholds come from and what they cannot see is in [results/checks.md](results/checks.md).

A finding is an *error* (the model computes something that nobody wanted), a *warning* (it most likely does), or an
*info* (worth knowing; normal practice gives no more than that). A rule that lacks the facts to tell says what is
missing instead of guessing. Codes can be cut short: `--select NS5` asks all rules of that section.
"""


def to_markdown() -> str:
    """The page: an overview, each rule, and which rules the codes of the first catalogue became."""
    parts = [INTRODUCTION, _overview()]
    for prefix, title in SECTIONS.items():
        parts.append(f"## {prefix}xx: {title}\n")
        parts += [_section(rule) for rule in rules() if rule.code.startswith(prefix)]
    return "\n".join([*parts, _former_codes()])


def _overview() -> str:
    rows = [
        f"| [{r.code}](#{_anchor(r)}) | {r.name} | {r.severity} | {_needs(r)} |" for r in rules()
    ]
    return "\n".join(["| code | fault | up to | needs |", "|---|---|---|---|", *rows, ""])


def _section(rule: Rule) -> str:
    description = textwrap.dedent("    " + (type(rule).__doc__ or "")).strip()
    lines = [
        f"### {rule.code} {rule.name}\n",
        f"{description}\n",
        f"- **Severity:** up to {rule.severity}",
        f"- **Why it hurts:** {rule.why}",
        f"- **Remedy:** {rule.remedy}" + (f" Mended by `{rule.mend}`." if rule.mend else ""),
        f"- **When it is fine:** {rule.fine}",
        f"- **Layers:** {', '.join(rule.kinds) if rule.kinds else 'any'}",
        f"- **Root causes:** {', '.join(rule.causes)}",
        f"- **Reference:** <{rule.reference}>\n",
    ]
    return "\n".join(lines)


def _former_codes() -> str:
    former: dict[str, list[str]] = {}
    for rule in rules():
        for code in rule.replaces:
            former.setdefault(code, []).append(rule.code)
    order = {"S": 0, "D": 1, "L": 2}
    rows = [
        f"| {c} | {', '.join(former[c])} |" for c in sorted(former, key=lambda c: (order[c[0]], c))
    ]
    head = ["## Codes of the first catalogue\n", "| there | here |", "|---|---|"]
    return "\n".join([*head, *rows, ""])


def _needs(rule: Rule) -> str:
    words = {"other": "another model or state_dict", "keys": "a state_dict and its model"}
    return words.get(rule.needs) or NEEDS.get(rule.needs, "")


def _anchor(rule: Rule) -> str:
    return f"{rule.code.lower()}-{rule.name}"
