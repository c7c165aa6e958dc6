"""The settings in which one study's runs differ, beside normalization, rate and seed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from normscope.judge.evidence.cells import USUAL, value_of
from normscope.records.run import RunRecord
from normscope.records.run_description import ADDED_KNOBS, FIRST_KNOBS, meaning

_NOT_A_SETTING = frozenset({"norm", "learning_rate", "seed", "capture_epochs"})
# said by the data's name where that differs as well
_OF_THE_DATA = frozenset({"data_fingerprint", "classes"})
_BY_VALUE_ALONE = ("activation", "block", "data", "model")
_CHARACTERS = 24


class Settings:
    """The settings in which the runs of a study differ.

    Attributes:
        varied: the fields of a spec that have several values.
        usual: {varied field: the value that most claims are judged at, or else the most frequent
            one, of several the knob's own default}.
    """

    def __init__(self, runs: Sequence[RunRecord]):
        fields = dict.fromkeys(name for run in runs for name in run.spec)
        counts = {
            name: Counter(_key(value_of(run, name)) for run in runs)
            for name in fields
            if name not in _NOT_A_SETTING
        }
        varied = [name for name, values in counts.items() if len(values) > 1]
        self.varied = [name for name in varied if "data" not in varied or name not in _OF_THE_DATA]
        self.usual = {
            name: _most_usual(counts[name], USUAL.get(name), _default(runs[0], name))
            for name in self.varied
        }

    def differences(self, run: RunRecord) -> dict[str, Any]:
        """Return {field: value} of a run where it is not the usual one."""
        values = {name: value_of(run, name) for name in self.varied}
        return {name: value for name, value in values.items() if _key(value) != self.usual[name]}

    def label(self, run: RunRecord) -> str:
        """Return the differences in words; empty for a run at the usual setting."""
        return ", ".join(in_words(name, value) for name, value in self.differences(run).items())


def in_words(name: str, value: Any) -> str:
    """Return a setting as it stands in a label: activations and blocks by their names alone."""
    if isinstance(value, float):
        text = f"{value:g}"
    else:
        text = value if isinstance(value, str) else json.dumps(value)
    text = text if len(text) <= _CHARACTERS else f"{text[: _CHARACTERS - 1]}…"
    return text if name in _BY_VALUE_ALONE else f"{name.replace('_', ' ')} {text}"


def _default(run: RunRecord, name: str) -> Any:
    return meaning(run.spec["model"], name, (FIRST_KNOBS | ADDED_KNOBS).get(name))


def _most_usual(counts: Counter[str], judged_at: Any, default: Any) -> str:
    usual = _key(judged_at)
    if usual in counts:
        return usual
    return max(sorted(counts), key=lambda value: (counts[value], value == _key(default)))


def _key(value: Any) -> str:
    """Values of a spec can be lists; 1 and 1.0 are one value."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return json.dumps(float(value) if number else value, sort_keys=True)
