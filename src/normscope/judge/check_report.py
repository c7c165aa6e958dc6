"""The report of a check: ask the rules about an examination, and give what they found."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any

from normscope.errors import CheckError, RecordError
from normscope.judge import check_formats
from normscope.judge.findings import SEVERITIES, Finding, Findings, NotEvaluated, RecognizedRow
from normscope.judge.rules import choose, rules
from normscope.records.examination import Examination, Layer


@dataclass(frozen=True)
class CheckReport(Findings):
    """The findings of a check, most severe first, and the rules that could not decide.

    Iterating gives the findings; it is true if there are any.
    """

    def __str__(self) -> str:
        return self.text()

    def raise_for_errors(self) -> None:
        """Raise if there are findings of severity 'error'.

        Raises:
            CheckError: with all causes in one line.
        """
        causes = [group.first for group in self.groups if group.first.severity == "error"]
        if causes:
            raise CheckError("; ".join(f"{f.code} {f.name}: {f.message}" for f in causes))

    def text(self) -> str:
        """Return the report for a terminal, in lines as wide as that."""
        return check_formats.to_text(self)

    def listing(self) -> str:
        """Return what each layer was taken for, and why, a line each."""
        return check_formats.to_listing(self)

    def json(self) -> str:
        """Return the report as JSON."""
        return check_formats.to_json(self)

    def sarif(self) -> str:
        """Return the report as SARIF 2.1.0, which code hosts and editors show."""
        return check_formats.to_sarif(self, rules())

    def github(self) -> str:
        """Return the report as workflow commands of GitHub Actions."""
        return check_formats.to_github(self)

    def html(self) -> str:
        """Return the report as one self-contained page."""
        return check_formats.to_html(self)

    def _repr_html_(self) -> str:
        return self.html()


def judge(
    examination: Examination, select: Iterable[str] = (), ignore: Iterable[str] = ()
) -> CheckReport:
    """Ask every chosen rule about an examination.

    Raises:
        InputError: for a code or name that no rule has.
    """
    findings: list[Finding] = []
    not_evaluated: list[NotEvaluated] = []
    chosen = choose(select, ignore)
    for rule in chosen:
        for result in rule.results(examination):
            if isinstance(result, Finding):
                findings.append(result)
            else:
                not_evaluated.append(result)
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return CheckReport(
        findings=tuple(findings),
        not_evaluated=tuple(dict.fromkeys(not_evaluated)),
        model=examination.model,
        layers=len(examination.layers),
        source=examination.source,
        versions=examination.versions,
        recognized=recognized_rows(examination),
        layer_types={layer.name: layer.type for layer in examination.layers if layer.type},
        rules=len(chosen),
    )


def from_json(text: str, source: str) -> CheckReport:
    """Read the report that `to_json` wrote; `source` says in an error where it is from.

    Raises:
        RecordError: if it is something else.
    """
    try:
        content = json.loads(text)
        report = CheckReport(
            tuple(_finding(entry) for entry in content["findings"]),
            tuple(NotEvaluated(**entry) for entry in content["undecided"]),
            content["model"],
            content["normalization_layers"],
            dict(content["versions"]),
            dict(content.get("layer_types", {})),  # not in files of earlier versions
            content.get("rules", 0),
            content.get("source", "recording"),
            tuple(RecognizedRow(**row) for row in content.get("recognized", ())),
        )
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        report = None
    if report is None or not _has_types(report):
        raise RecordError(f"{source} is no result of `normscope check --format json`.")
    return report


def _finding(entry: dict[str, Any]) -> Finding:
    """One finding. Files from before there were causes grouped by the message."""
    evidence = {name: _hashable(value) for name, value in entry["evidence"].items()}
    return Finding(**{"cause": entry["message"], **entry, "evidence": evidence})


def _has_types(report: CheckReport) -> bool:
    """Tell whether the fields hold what they are for: the text may have been written by anybody."""
    texts = [report.model, report.source]
    texts += [text for row in report.recognized for text in astuple(row)]
    for names in (report.versions, report.layer_types):
        texts += [*names, *names.values()]
    for f in report.findings:
        texts += [f.code, f.name, f.layer, f.message, f.remedy, f.cause]
        if f.severity not in SEVERITIES or not all(map(_is_plain, f.evidence.values())):
            return False
    for entry in report.not_evaluated:
        texts += [entry.code, entry.name, entry.missing]
    numbers = all(type(number) is int for number in (report.layers, report.rules))
    return numbers and all(isinstance(text, str) for text in texts)


def _is_plain(value: Any) -> bool:
    """Tell whether a piece of evidence can be summed up and shown."""
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


WHY = {
    "registration": "its class was registered",
    "type": "PyTorch's class",
    "running statistics": "it holds running statistics",
    "weight and epsilon": "it holds a vector and an epsilon",
    "class name": "its class says so",
    "name": "a call shows it",
    "gain and bias": "a gain and a bias of one size",
}
IN_A_FILE = {"name": "its name says so"}


def recognized_rows(exam: Examination) -> tuple[RecognizedRow, ...]:
    """Return a row for each layer, then one for each thing that looks like a layer."""
    rows = [_row(layer, exam.source) for layer in exam.layers]
    rows += [
        RecognizedRow(
            each.name, each.type, "function" if each.function else "unknown", each.reason, ""
        )
        for each in exam.unknown
    ]
    return tuple(rows)


def _row(layer: Layer, source: str) -> RecognizedRow:
    found = layer.recognition
    by = found.by if found is not None else ""
    why = (IN_A_FILE.get(by) if source == "state_dict" else None) or WHY.get(by, by)
    return RecognizedRow(layer.name, layer.type, layer.kind, why, _what(layer))


def _what(layer: Layer) -> str:
    """Say what a layer does, with what is not known left out."""
    found = layer.recognition
    if found is None:
        return ""
    if found.explained is False:
        return "no normalization explains its output"
    sizes = {"1": "channels on axis 1", "last": "over the last axis"}
    groups = f"{layer.groups} groups" if layer.groups > 1 else ""
    if layer.normalized_dims > 1:
        sizes["last"] = f"over the last {layer.normalized_dims} axes"
    centered = {True: "centred", False: "not centred", None: ""}[found.centered]
    gains = {"none": "no gain", "other": "another gain", "": ""}
    gain = gains.get(found.gain, f"gain {found.gain}")
    bias = {True: "bias", False: "no bias", None: ""}[found.bias]
    eps = _eps(layer)
    return ", ".join(filter(None, (sizes.get(found.axis), groups, centered, gain, bias, eps)))


def _eps(layer: Layer) -> str:
    shown = layer.recognition.eps if layer.recognition is not None else None
    if shown is not None and (layer.eps is None or abs(shown / layer.eps - 1) > 0.1):
        named = f", not {layer.eps:g}" if layer.eps is not None else ""
        return f"eps {shown:.2g} in effect{named}"
    return f"eps {layer.eps:.4g}" if layer.eps is not None else ""
