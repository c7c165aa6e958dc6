"""Findings: one fault at one layer, faults with one cause grouped, rules that could not decide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """One fault at one layer, or in the whole model where `layer` is empty.

    Findings of one rule with the same severity and `cause` are one fault at several layers.
    """

    code: str
    name: str
    severity: Severity
    layer: str
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    remedy: str = ""
    cause: str = ""  # a short key, where a rule knows several causes


@dataclass(frozen=True)
class NotEvaluated:
    """A rule that could not decide, and what it lacks."""

    code: str
    name: str
    missing: str


@dataclass(frozen=True)
class Group:
    """The findings that share code, severity and cause: one fault at several layers."""

    findings: tuple[Finding, ...]

    @property
    def first(self) -> Finding:
        """The finding whose message and remedy are shown for all."""
        return self.findings[0]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers, in the model's order."""
        return tuple(dict.fromkeys(finding.layer for finding in self.findings))

    @property
    def evidence(self) -> dict[str, Any]:
        """{name: the one value, (smallest, largest) of numbers, or all other values}."""
        values: dict[str, list[Any]] = {}
        for finding in self.findings:
            for name, value in finding.evidence.items():
                values.setdefault(name, []).append(value)
        return {name: _summary(entries) for name, entries in values.items()}


@dataclass(frozen=True)
class RecognizedRow:
    """What one layer, or something that looks like one, was taken for: texts for a table."""

    layer: str
    type: str  # its class
    kind: str
    why: str
    what: str  # it does, as far as that is known


@dataclass(frozen=True)
class Findings:
    """The findings of a check, most severe first, and the rules that could not decide.

    Iterating gives the findings; it is true if there are any.
    """

    findings: tuple[Finding, ...] = ()
    not_evaluated: tuple[NotEvaluated, ...] = ()
    model: str = ""
    layers: int = 0  # normalization layers of the model
    versions: Mapping[str, str] = field(default_factory=dict)
    layer_types: Mapping[str, str] = field(default_factory=dict)  # {layer: its class}
    rules: int = 0  # that were asked; 0 where that is not known
    source: str = "recording"  # what was examined, as in Examination
    recognized: tuple[RecognizedRow, ...] = ()  # what each layer was taken for

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __bool__(self) -> bool:
        return bool(self.findings)

    @property
    def saw_no_layer(self) -> bool:
        """Tell whether a model or state_dict was looked at that has no normalization layer."""
        return not self.layers and self.source in ("model", "state_dict")

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings of severity 'error'."""
        return self.of("error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings of severity 'warning'."""
        return self.of("warning")

    @property
    def infos(self) -> tuple[Finding, ...]:
        """The findings of severity 'info'."""
        return self.of("info")

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes that were found, each once."""
        return tuple(dict.fromkeys(finding.code for finding in self.findings))

    @property
    def groups(self) -> tuple[Group, ...]:
        """The findings, those with one cause together, most severe first."""
        groups: dict[tuple[str, str, str], list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault((finding.severity, finding.code, finding.cause), []).append(finding)
        return tuple(Group(tuple(findings)) for findings in groups.values())


def _summary(values: list[Any]) -> Any:
    distinct = list(dict.fromkeys(values))
    if len(distinct) == 1:
        return distinct[0]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in distinct):
        return (min(distinct), max(distinct))
    return tuple(distinct)
