"""The rules, by subject. A subclass of `Rule` with a code, in any file of this folder, is one."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterable

from normscope.arguments import several
from normscope.errors import InputError, one_of, shown
from normscope.judge.rule import Rule


@functools.cache
def rules() -> tuple[Rule, ...]:
    """Return every rule, in order of codes."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return tuple(rule() for _, rule in sorted(Rule.registry.items()))


def choose(select: Iterable[str] = (), ignore: Iterable[str] = ()) -> tuple[Rule, ...]:
    """Return the rules with one of the selected codes or names (all where none is selected),
    without those to ignore.

    A code may be cut short: NS1 stands for all of NS1xx.

    Raises:
        InputError: for a code or name that no rule has.
    """
    chosen = [_matching(text) for text in _texts("select", select)] or [rules()]
    ignored = {rule.code for text in _texts("ignore", ignore) for rule in _matching(text)}
    codes = {rule.code for matching in chosen for rule in matching} - ignored
    return tuple(rule for rule in rules() if rule.code in codes)


def _texts(option: str, values: Iterable[str]) -> tuple[str, ...]:
    texts = several(option, values)
    for text in texts:
        if not isinstance(text, str) or not text:
            held = "an empty text" if text == "" else shown(text)
            raise InputError(f"{option} holds {held}; it takes codes or names of rules.")
    return texts


def _matching(text: str) -> tuple[Rule, ...]:
    matching = tuple(
        rule for rule in rules() if rule.code.startswith(text.upper()) or rule.name == text
    )
    if not matching:
        raise InputError(one_of("rule", text, (rule.code for rule in rules())))
    return matching
