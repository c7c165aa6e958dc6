"""The rules, one file each, named for the fault that they find; and `judge`, which asks them all.

Codes: 1xx values of a layer, 2xx settings, 3xx modes and freezing, 4xx place and optimizer, 5xx what batches show,
6xx loaders and devices, 7xx two models or a state_dict, 8xx history.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterable

from normscope.errors import InputError, one_of
from normscope.judge.findings import SEVERITIES, CheckReport, Finding, Undecided
from normscope.judge.rule import NEEDS, Rule
from normscope.records.examination import Examination


@functools.cache
def rules() -> tuple[Rule, ...]:
    """Every rule, in order of codes."""
    names = (info.name for info in pkgutil.iter_modules(__path__))
    modules = [
        importlib.import_module(f"{__name__}.{name}")
        for name in names
        if name not in ("base", "catalogue", "__main__")
    ]
    found = {value for module in modules for value in vars(module).values() if _is_rule(value)}
    return tuple(sorted((cls() for cls in found), key=lambda rule: rule.code))


def choose(select: Iterable[str] = (), ignore: Iterable[str] = ()) -> tuple[Rule, ...]:
    """The rules with one of the selected codes or names, all where none is selected, without those
    to ignore.

    A code may be cut short: NS1 stands for all of NS1xx.

    Raises:
        InputError: for a code or name that no rule has.
    """
    chosen = [_matching(text) for text in _texts("select", select)] or [rules()]
    ignored = {rule.code for text in _texts("ignore", ignore) for rule in _matching(text)}
    codes = {rule.code for matching in chosen for rule in matching} - ignored
    return tuple(rule for rule in rules() if rule.code in codes)


def judge(
    examination: Examination, select: Iterable[str] = (), ignore: Iterable[str] = ()
) -> CheckReport:
    """Ask every chosen rule about an examination.

    Raises:
        InputError: for a code or name that no rule has.
    """
    findings: list[Finding] = []
    undecided: list[Undecided] = []
    for rule in choose(select, ignore):
        if not rule.applies(examination):
            continue
        if not rule.has_what_it_needs(examination):
            if rule.needs in NEEDS and examination.source == "model":
                undecided.append(rule.undecided(NEEDS[rule.needs]))
            continue
        for result in rule.find(examination):
            if isinstance(result, Finding):
                findings.append(result)
            else:
                undecided.append(result)
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return CheckReport(
        findings=tuple(findings),
        undecided=tuple(dict.fromkeys(undecided)),
        model=examination.model,
        layers=len(examination.layers),
        versions=examination.versions,
    )


def _is_rule(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Rule) and value is not Rule


def _texts(what: str, given: Iterable[str]) -> tuple[str, ...]:
    texts = (given,) if isinstance(given, str) else tuple(given)
    for text in texts:
        if not isinstance(text, str) or not text:
            raise InputError(f"{what} holds {text!r}; it takes codes or names of rules.")
    return texts


def _matching(text: str) -> tuple[Rule, ...]:
    matching = tuple(
        rule for rule in rules() if rule.code.startswith(text.upper()) or rule.name == text
    )
    if not matching:
        raise InputError(one_of("rule", text, (rule.code for rule in rules())))
    return matching
