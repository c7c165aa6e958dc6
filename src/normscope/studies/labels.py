"""Runs in the words of their study: by what tells them apart, for the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from normscope.studies.spec import Recipe, RunSpec

_SAID_ANYWAY = ("norm", "learning_rate", "seed")
_NO_KNOBS = ("data_fingerprint", "norm_code", "capture_epochs", "engine")

_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Recipe)}


def run_labels(specs: Sequence[RunSpec]) -> dict[str, str]:
    """{name of a run: label} with norm, learning rate and seed, and before the seed the knobs that
    differ among these.

    A knob at its default is left out: without a word on the batch size, it is the usual one.
    """
    names = [field.name for field in dataclasses.fields(RunSpec)]
    knobs = [name for name in names if name not in (*_SAID_ANYWAY, *_NO_KNOBS)]
    told = [knob for knob in knobs if len({getattr(spec, knob) for spec in specs}) > 1]
    return {spec.name: _label(spec, told) for spec in specs}


def _label(spec: RunSpec, told: Sequence[str]) -> str:
    special = [knob for knob in told if getattr(spec, knob) != _DEFAULTS.get(knob)]
    parts = [_words(knob, getattr(spec, knob)) for knob in special]
    return "  ".join([spec.norm, f"lr {spec.learning_rate:g}", *parts, f"seed {spec.seed}"])


def _words(knob: str, value: Any) -> str:
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, tuple):
        shown = "x".join(str(part) for part in value)
    return f"{knob.replace('_', ' ')} {shown}"
