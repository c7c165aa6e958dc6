"""What a check found: findings, what could not be told, and the report that holds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from normscope.errors import CheckError

Severity = Literal["error", "warning", "info"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """One fault at one layer, or in the whole model where `layer` is empty."""

    code: str
    name: str
    severity: Severity
    layer: str
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    remedy: str = ""


@dataclass(frozen=True)
class Undecided:
    """A rule that could not tell, and what it lacks."""

    code: str
    name: str
    missing: str


@dataclass(frozen=True)
class Group:
    """Findings with one cause: the same code, severity and message at several layers."""

    findings: tuple[Finding, ...]

    @property
    def first(self) -> Finding:
        """The one that speaks for all."""
        return self.findings[0]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers, in the model's order."""
        return tuple(dict.fromkeys(finding.layer for finding in self.findings))

    @property
    def evidence(self) -> dict[str, Any]:
        """Evidence by name: the value where all agree, else (smallest, largest) of numbers, else
        the values.
        """
        values: dict[str, list[Any]] = {}
        for finding in self.findings:
            for name, value in finding.evidence.items():
                values.setdefault(name, []).append(value)
        return {name: _summary(entries) for name, entries in values.items()}


@dataclass(frozen=True)
class CheckReport:
    """The findings of a check, most severe first, and what could not be told.

    Iterating gives the findings; it is true if there are any.
    """

    findings: tuple[Finding, ...] = ()
    undecided: tuple[Undecided, ...] = ()
    model: str = ""
    layers: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __bool__(self) -> bool:
        return bool(self.findings)

    def __str__(self) -> str:
        return self.text()

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
        """The findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes that were found, each once."""
        return tuple(dict.fromkeys(finding.code for finding in self.findings))

    @property
    def groups(self) -> tuple[Group, ...]:
        """The findings with layers of one cause together, most severe first."""
        groups: dict[tuple[str, str, str], list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault((finding.severity, finding.code, finding.message), []).append(finding)
        return tuple(Group(tuple(findings)) for findings in groups.values())

    def raise_for_errors(self) -> None:
        """Raise if there are findings of severity 'error'.

        Raises:
            CheckError: with one line per cause.
        """
        if self.errors:
            lines = [
                f"{g.first.code} {g.first.name}: {g.first.message}"
                for g in self.groups
                if g.first in self.errors
            ]
            raise CheckError("; ".join(lines))

    def text(self) -> str:
        """The report for a terminal."""
        from normscope.judge.check_formats import to_text

        return to_text(self)

    def json(self) -> str:
        """The report as JSON."""
        from normscope.judge.check_formats import to_json

        return to_json(self)

    def sarif(self) -> str:
        """The report as SARIF 2.1.0, which code hosts and editors show."""
        from normscope.judge.check_formats import to_sarif

        return to_sarif(self)

    def github(self) -> str:
        """The report as workflow commands of GitHub Actions."""
        from normscope.judge.check_formats import to_github

        return to_github(self)

    def html(self) -> str:
        """The report as one self-contained page."""
        from normscope.judge.check_formats import to_html

        return to_html(self)

    def _repr_html_(self) -> str:
        return self.html()


def _summary(values: list[Any]) -> Any:
    distinct = list(dict.fromkeys(values))
    if len(distinct) == 1:
        return distinct[0]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in distinct):
        return (min(distinct), max(distinct))
    return tuple(distinct)
