"""A check's report as text, JSON, SARIF, GitHub workflow commands and HTML."""

from __future__ import annotations

import html
import json
import textwrap
from collections.abc import Mapping
from typing import Any

from normscope.errors import RecordError
from normscope.judge.findings import SEVERITIES, CheckReport, Finding, Group, Undecided

WIDTH = 100
SHOWN_LAYERS = 4
SARIF_LEVELS = {"error": "error", "warning": "warning", "info": "note"}
GITHUB_LEVELS = {"error": "error", "warning": "warning", "info": "notice"}
COLORS = {"error": "#b3261e", "warning": "#8a5a00", "info": "#3b5b8c"}


def to_text(report: CheckReport) -> str:
    """For a terminal: one paragraph per cause, then what could not be told, then the totals."""
    parts = [_paragraph(group) for group in report.groups]
    if report.undecided:
        lines = [f"  {missing}: {', '.join(codes)}" for missing, codes in _missing(report).items()]
        wrapped = [textwrap.fill(line, WIDTH, subsequent_indent="    ") for line in lines]
        parts.append("\n".join(["Not enough data to tell. Missing:", *wrapped]))
    return "\n\n".join([*parts, _totals(report)])


def to_json(report: CheckReport) -> str:
    """Findings one by one, with everything that they hold."""
    content = {
        "model": report.model,
        "normalization_layers": report.layers,
        "counts": {severity: len(report.of(severity)) for severity in SEVERITIES},
        "findings": [
            {
                "code": finding.code, "name": finding.name, "severity": finding.severity, "layer": finding.layer,
                "message": finding.message, "evidence": dict(finding.evidence), "remedy": finding.remedy,
            }
            for finding in report
        ],
        "undecided": [{"code": u.code, "name": u.name, "missing": u.missing} for u in report.undecided],
        "versions": dict(report.versions),
    }  # fmt: skip
    return json.dumps(content, indent=2)


def to_sarif(report: CheckReport) -> str:
    """SARIF 2.1.0: layers are logical locations, as a model has no lines."""
    from normscope.judge.rules import rules

    used = [rule for rule in rules() if rule.code in report.codes]
    driver = {
        "name": "normscope",
        "rules": [
            {
                "id": rule.code,
                "name": rule.name,
                "shortDescription": {"text": first_line(type(rule).__doc__)},
                "fullDescription": {"text": rule.why},
                "help": {"text": rule.remedy},
                "helpUri": rule.reference,
                "defaultConfiguration": {"level": SARIF_LEVELS[rule.severity]},
            }
            for rule in used
        ],
    }
    results = [
        {
            "ruleId": finding.code,
            "level": SARIF_LEVELS[finding.severity],
            "message": {
                "text": f"{finding.message} {_evidence(finding.evidence)} {finding.remedy}".replace(
                    "  ", " "
                )
            },
            "locations": [{"logicalLocations": [_location(report.model, finding.layer)]}],
        }
        for finding in report
    ]
    run = {"tool": {"driver": driver}, "results": results}
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return json.dumps({"version": "2.1.0", "$schema": schema, "runs": [run]}, indent=2)


def to_github(report: CheckReport) -> str:
    """One workflow command of GitHub Actions per cause."""
    lines = []
    for group in report.groups:
        finding = group.first
        text = " ".join(
            filter(
                None, [finding.message, _layers(group), _evidence(group.evidence), finding.remedy]
            )
        )
        title = _escape(f"{finding.code} {finding.name}", properties=True)
        lines.append(f"::{GITHUB_LEVELS[finding.severity]} title={title}::{_escape(text)}")
    return "\n".join(lines)


def to_html(report: CheckReport) -> str:
    """One self-contained fragment with a table of causes."""
    rows = "".join(_row(group) for group in report.groups)
    missing = "".join(
        f"<li>{html.escape(what)}: {html.escape(', '.join(codes))}</li>"
        for what, codes in _missing(report).items()
    )
    undecided = f"<p>Not enough data to tell. Missing:</p><ul>{missing}</ul>" if missing else ""
    heading = "<tr><th>severity</th><th>rule</th><th>found</th><th>layers</th><th>evidence</th><th>remedy</th></tr>"
    table = f"<table>{heading}{rows}</table>" if rows else ""
    style = (
        "<style>.normscope-check{font:14px/1.45 system-ui,sans-serif}.normscope-check td,.normscope-check th"
        "{text-align:left;vertical-align:top;padding:.3em .7em .3em 0}</style>"
    )
    totals = f"<p>{html.escape(_totals(report))}</p>"
    return f'{style}<div class="normscope-check">{totals}{table}{undecided}</div>'


def from_json(text: str, source: str) -> CheckReport:
    """The report that `to_json` wrote; `source` says in an error where it is from.

    Raises:
        RecordError: if it is something else.
    """
    try:
        content = json.loads(text)
        findings = tuple(
            Finding(
                **{
                    **finding,
                    "evidence": {
                        name: _hashable(value) for name, value in finding["evidence"].items()
                    },
                }
            )
            for finding in content["findings"]
        )
        undecided = tuple(Undecided(**entry) for entry in content["undecided"])
        report = CheckReport(
            findings,
            undecided,
            content["model"],
            content["normalization_layers"],
            dict(content["versions"]),
        )
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        report = None
    if report is None or not _has_types(report):
        raise RecordError(f"{source} is no result of `normscope check --format json`.")
    return report


def to_rows(report: CheckReport) -> dict[str, Any]:
    """The report as plain values for a page: totals, a row for each cause, and what could not be
    told.
    """
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
        "undecided": [
            f"{missing}: {', '.join(codes)}" for missing, codes in _missing(report).items()
        ],
        "versions": dict(report.versions),
    }


def _has_types(report: CheckReport) -> bool:
    """Whether the fields hold what they are for: the text may have been written by anybody."""
    texts = [report.model, *report.versions, *report.versions.values()]
    for finding in report.findings:
        texts += [finding.code, finding.name, finding.layer, finding.message, finding.remedy]
    texts += [
        text for entry in report.undecided for text in (entry.code, entry.name, entry.missing)
    ]
    return (
        all(isinstance(text, str) for text in texts)
        and type(report.layers) is int
        and all(
            finding.severity in SEVERITIES and isinstance(finding.evidence, dict)
            for finding in report.findings
        )
        and all(
            _is_plain(value) for finding in report.findings for value in finding.evidence.values()
        )
    )


def _is_plain(value: Any) -> bool:
    """Whether findings can be grouped by a piece of evidence."""
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def first_line(text: str | None) -> str:
    """The first sentence of a docstring, on one line."""
    return " ".join((text or "").strip().split("\n\n")[0].split())


def _paragraph(group: Group) -> str:
    finding = group.first
    head = f"{finding.severity}: {finding.code} {finding.name}: {finding.message}"
    details = [_layers(group), _evidence(group.evidence), f"remedy: {finding.remedy}"]
    lines = [textwrap.fill(head, WIDTH, subsequent_indent="  ")]
    lines += [textwrap.indent(textwrap.fill(text, WIDTH - 2), "  ") for text in details if text]
    return "\n".join(lines)


def _layers(group: Group) -> str:
    names = [name for name in group.layers if name]
    if not names:
        return ""
    more = f" and {len(names) - SHOWN_LAYERS} more" if len(names) > SHOWN_LAYERS else ""
    return f"{'layers' if len(names) > 1 else 'layer'}: {', '.join(names[:SHOWN_LAYERS])}{more}"


def _evidence(evidence: Mapping[str, Any]) -> str:
    shown = "; ".join(
        f"{name} {_value(value)}" for name, value in evidence.items() if value is not None
    )
    return f"evidence: {shown}" if shown else ""


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        numbers = len(value) == 2 and all(isinstance(entry, int | float) for entry in value)
        return (
            f"{_value(value[0])} to {_value(value[1])}"
            if numbers
            else ", ".join(map(_value, value))
        )
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _missing(report: CheckReport) -> dict[str, list[str]]:
    missing: dict[str, list[str]] = {}
    for entry in report.undecided:
        missing.setdefault(entry.missing, []).append(entry.code)
    return missing


def _totals(report: CheckReport) -> str:
    plural = {"error": "errors", "warning": "warnings", "info": "infos"}
    counts = [(len(report.of(severity)), severity) for severity in SEVERITIES]
    found = ", ".join(f"{n} {severity if n == 1 else plural[severity]}" for n, severity in counts)
    what = f"{report.model}, " if report.model else ""
    layers = f"{report.layers} normalization layer{'' if report.layers == 1 else 's'}"
    causes = len(report.groups)
    return f"{what}{layers}: {found} ({causes} cause{'' if causes == 1 else 's'})."


def _location(model: str, layer: str) -> dict[str, str]:
    return {
        "name": layer or model or "model",
        "fullyQualifiedName": f"{model}.{layer}".strip("."),
        "kind": "module",
    }


def _escape(text: str, properties: bool = False) -> str:
    """GitHub's escapes: a newline or a percent sign would end or change the command."""
    pairs = [("%", "%25"), ("\r", "%0D"), ("\n", "%0A")] + (
        [(":", "%3A"), (",", "%2C")] if properties else []
    )
    for plain, escaped in pairs:
        text = text.replace(plain, escaped)
    return text


def _row(group: Group) -> str:
    finding = group.first
    cells = [
        f'<td style="color:{COLORS[finding.severity]}">{finding.severity}</td>',
        f"<td>{finding.code}<br>{html.escape(finding.name)}</td>",
        f"<td>{html.escape(finding.message)}</td>",
        f"<td>{html.escape(_layers(group))}</td>",
        f"<td>{html.escape(_evidence(group.evidence).removeprefix('evidence: '))}</td>",
        f"<td>{html.escape(finding.remedy)}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"
