"""Findings as text, JSON, SARIF, GitHub workflow commands, HTML, and rows of a page."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple
from typing import Any

from normscope.escapes import for_annotation, for_html, for_line, for_terminal
from normscope.judge.findings import SEVERITIES, Findings, Group
from normscope.judge.rule import OPTIONS, Rule
from normscope.words import listed, plural

WIDTH = 100
"""Columns of a line at most, and where there is no terminal."""

SHOWN_LAYERS = 4
SARIF_LEVELS = {"error": "error", "warning": "warning", "info": "note"}
GITHUB_LEVELS = {"error": "error", "warning": "warning", "info": "notice"}
COLORS = {"error": "#b3261e", "warning": "#8a5a00", "info": "#3b5b8c"}


def text_width() -> int:
    """Return the columns that text has: those of the terminal, at most WIDTH."""
    return min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)


def to_text(report: Findings, width: int | None = None) -> str:
    """Return the totals, a paragraph per cause, and what the rules that could not decide lack.

    Lines have at most `width` columns, by default those of the terminal, unless one word has more.
    """
    width = width or text_width()
    parts = ["\n".join(filled(line, width) for line in _totals(report).split("\n"))]
    parts += [_paragraph(group, report, width) for group in report.groups]
    if lacking := _lacking(report):
        parts.append(filled(lacking, width))
    return for_terminal("\n\n".join(parts))


def filled(text: str, width: int, indent: str = "") -> str:
    """Break a paragraph at spaces, every line after the first indented by two more."""
    return textwrap.fill(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def to_json(report: Findings) -> str:
    """Return the findings one by one, with everything that they hold."""
    content = {
        "model": report.model,
        "normalization_layers": report.layers,
        "source": report.source,
        "counts": {severity: len(report.of(severity)) for severity in SEVERITIES},
        "findings": [asdict(finding) for finding in report],
        "undecided": [asdict(entry) for entry in report.not_evaluated],
        "rules": report.rules,
        "recognized": [asdict(row) for row in report.recognized],
        "layer_types": dict(report.layer_types),
        "versions": dict(report.versions),
    }
    return json.dumps(content, indent=2)


def to_sarif(report: Findings, rules: Iterable[Rule]) -> str:
    """Return SARIF 2.1.0 of findings of these rules. Layers are logical: a model has no lines."""
    driver = {
        "name": "normscope",
        "rules": [_sarif_rule(rule) for rule in rules if rule.code in report.codes],
    }
    results = [
        {
            "ruleId": finding.code,
            "level": SARIF_LEVELS[finding.severity],
            "message": {
                "text": _joined(finding.message, _evidence(finding.evidence), finding.remedy)
            },
            "locations": [{"logicalLocations": [_location(report.model, finding.layer)]}],
        }
        for finding in report
    ]
    run = {"tool": {"driver": driver}, "results": results}
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return json.dumps({"version": "2.1.0", "$schema": schema, "runs": [run]}, indent=2)


def _sarif_rule(rule: Rule) -> dict[str, Any]:
    text = rule.text()
    return {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": text.summary},
        "fullDescription": {"text": text.why},
        "help": {"text": rule.remedy},
        "helpUri": rule.reference,
        "defaultConfiguration": {"level": SARIF_LEVELS[rule.severity]},
    }


def to_github(report: Findings) -> str:
    """Return one workflow command of GitHub Actions per cause."""
    lines = []
    for group in report.groups:
        finding = group.first
        text = _joined(
            finding.message, _layers(group, report), _evidence(group.evidence), finding.remedy
        )
        title = for_annotation(f"{finding.code} {finding.name}", in_property=True)
        lines.append(f"::{GITHUB_LEVELS[finding.severity]} title={title}::{for_annotation(text)}")
    return "\n".join(lines)


def to_html(report: Findings) -> str:
    """Return one self-contained fragment with a table of causes."""
    rows = "".join(_html_row(group, report) for group in report.groups)
    lacking = for_html(_lacking(report))
    columns = ("severity", "rule", "found", "layers", "evidence", "remedy")
    heading = f"<tr>{''.join(f'<th>{column}</th>' for column in columns)}</tr>"
    table = f"<table>{heading}{rows}</table>" if rows else ""
    style = (
        "<style>.normscope-check{font:14px/1.45 system-ui,sans-serif}"
        ".normscope-check td,.normscope-check th"
        "{text-align:left;vertical-align:top;padding:.3em .7em .3em 0}</style>"
    )
    totals = f"<p>{for_html(_totals(report))}</p>"
    return f'{style}<div class="normscope-check">{totals}{table}<p>{lacking}</p></div>'


def to_rows(report: Findings) -> dict[str, Any]:
    """Return plain values for a page: totals, a row per cause, the rules that could not decide."""
    return {
        "model": report.model,
        "totals": _totals(report),
        "causes": [
            {
                "severity": group.first.severity,
                "rule": f"{group.first.code} {group.first.name}",
                "message": group.first.message,
                "layers": [name for name in group.layers if name],
                "evidence": _evidence(group.evidence).removeprefix("evidence: "),
                "remedy": group.first.remedy,
            }
            for group in report.groups
        ],
        "recognized": [asdict(row) for row in report.recognized],
        "undecided": [
            f"{missing}: {', '.join(codes)}" for missing, codes in _missing(report).items()
        ],
        "versions": dict(report.versions),
    }


def to_listing(report: Findings) -> str:
    """Return what each layer was taken for, and why: in columns, or as sentences where those would
    be wider than the terminal.
    """
    header = ("layer", "class", "kind", "why", "what it does")
    rows = [header, *(tuple(map(for_line, astuple(row))) for row in report.recognized)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) for row in rows)
    columns = [line.rstrip() for line in lines]
    width = text_width()
    if max(map(len, columns)) <= width:
        return "\n".join(columns)
    return "\n".join(
        filled(
            f"{' '.join(filter(None, (layer, of)))}: {kind} ({why}){what and f': {what}'}", width
        )
        for layer, of, kind, why, what in rows[1:]
    )


def _paragraph(group: Group, report: Findings, width: int) -> str:
    finding = group.first
    head = f"{finding.severity}: {finding.code} {finding.name}: {finding.message}"
    details = [_layers(group, report), _evidence(group.evidence), f"remedy: {finding.remedy}"]
    lines = [filled(text, width, "  ") for text in details if text]
    return "\n".join([filled(head, width), *lines])


def _joined(*texts: str) -> str:
    return " ".join(filter(None, texts))


def _layers(group: Group, report: Findings) -> str:
    names = [name for name in group.layers if name]
    if not names:
        return ""
    types = dict.fromkeys(report.layer_types[name] for name in names if name in report.layer_types)
    classes = f" ({', '.join(types)})" if types else ""
    word = "layers" if len(names) > 1 else "layer"
    return f"{word}: {listed(names, SHOWN_LAYERS)}{classes}"


def _evidence(evidence: Mapping[str, Any]) -> str:
    shown = "; ".join(
        f"{name.replace('_', ' ')} {_value(value)}"
        for name, value in evidence.items()
        if value is not None
    )
    return f"evidence: {shown}" if shown else ""


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        numbers = len(value) == 2 and all(isinstance(entry, int | float) for entry in value)
        return (" to " if numbers else ", ").join(map(_value, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _lacking(report: Findings) -> str:
    """A sentence on the needs of rules that could not decide, most frequent first; or nothing."""
    needs = sorted(_missing(report).items(), key=lambda entry: -len(entry[1]))
    if not needs:
        return ""
    number = len({entry.code for entry in report.not_evaluated})
    verb = "needs" if number == 1 else "need"
    rules = "rule" if number == 1 and not report.rules else "rules"
    of = (
        f"{number} of {report.rules} {rules} {verb}" if report.rules else f"{number} {rules} {verb}"
    )
    options = {words: f" ({option})" for words, option in OPTIONS.items()}
    shown = (f"{len(codes)} {words}{options.get(words, '')}" for words, codes in needs)
    return f"{of} more: {'; '.join(shown)}."


def _missing(report: Findings) -> dict[str, list[str]]:
    missing: dict[str, list[str]] = {}
    for entry in report.not_evaluated:
        missing.setdefault(entry.missing, []).append(entry.code)
    return missing


def _totals(report: Findings) -> str:
    counts = ", ".join(plural(len(report.of(severity)), severity) for severity in SEVERITIES)
    counts = f"{counts} ({plural(len(report.groups), 'cause')})."
    if report.saw_no_layer:
        place = for_line(report.model) or f"the {report.source}"
        return f"No normalization layer was recognized in {place}: none was judged.\n{counts}"
    model = f"{for_line(report.model)}, " if report.model else ""
    return f"{model}{plural(report.layers, 'normalization layer')}: {counts}"


def _location(model: str, layer: str) -> dict[str, str]:
    return {
        "name": layer or model or "model",
        "fullyQualifiedName": f"{model}.{layer}".strip("."),
        "kind": "module",
    }


def _html_row(group: Group, report: Findings) -> str:
    finding = group.first
    evidence = _evidence(group.evidence).removeprefix("evidence: ")
    rule = f"{finding.code} {finding.name}"
    texts = (rule, finding.message, _layers(group, report), evidence, finding.remedy)
    cells = "".join(f"<td>{for_html(text)}</td>" for text in texts)
    color = COLORS[finding.severity]
    return f'<tr><td style="color:{color}">{finding.severity}</td>{cells}</tr>'
