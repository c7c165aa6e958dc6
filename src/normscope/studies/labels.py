"""Runs and studies in words, for the terminal: by what tells runs apart, and how long they take."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from normscope.records.run import ENDED, status_of
from normscope.studies.directory import StudyDirectory
from normscope.studies.executors import default_jobs
from normscope.studies.grid import Grid, merged_by_data
from normscope.studies.spec import RunSpec
from normscope.studies.study_plans import StudyPlan
from normscope.words import plural

CORE_SECONDS_PER_PIXEL = 5.6e-6
"""Seconds that one core takes for a pixel of a training image in small-resnet: `normscope study
quick` on an AMD EPYC, docs/studies.md. An order of magnitude for others.
"""

_SAID_ANYWAY = ("norm", "learning_rate", "seed")
_NO_KNOBS = ("data_fingerprint", "norm_code", "capture_epochs", "engine")

_DEFAULTS = {field.name: field.default for field in dataclasses.fields(RunSpec)}


def run_labels(specs: Sequence[RunSpec]) -> dict[str, str]:
    """{name of a run: label} with norm, learning rate and seed, and before the seed the knobs that
    differ among these.

    A knob at its default is left out: without a word on the batch size, it is the usual one.
    """
    names = [field.name for field in dataclasses.fields(RunSpec)]
    knobs = [name for name in names if name not in (*_SAID_ANYWAY, *_NO_KNOBS)]
    told = [knob for knob in knobs if len({getattr(spec, knob) for spec in specs}) > 1]
    return {spec.name: _label(spec, told) for spec in specs}


def describe_study(
    plan: StudyPlan, grids: Sequence[Grid], study: StudyDirectory, jobs: int | None
) -> str:
    """Return which runs a study has, what for, and roughly how long those take that are left."""
    specs = list(dict.fromkeys(spec for grid in grids for spec in grid.specs))
    lines = [f"Study {plan.name}: {plural(len(specs), 'run')}, into {study.path}"]
    if plan.description:
        lines.append(f"  {plan.description}")
    for grid, planned in zip(grids, plan.grids, strict=True):
        axes = {name: list(dict.fromkeys(getattr(s, name) for s in grid.specs))
                for name in ("norm", "learning_rate", *planned.sweep, "seed")}  # fmt: skip
        varied = "; ".join(_axis(name, values) for name, values in axes.items())
        runs = plural(len(grid.specs), "run").rjust(9)
        lines.append(f"  {runs} of {plural(grid.specs[0].epochs, 'epoch')}: {varied}")
    if len(grids) > 1:
        lines.append("  Runs that several of these ask for are trained once.")
    pixels = sum(_pixels(grid, study) for grid in merged_by_data(grids))
    if pixels and all(
        (s.model, s.widths, s.device) == ("small-resnet", None, "cpu") for s in specs
    ):
        jobs = jobs or default_jobs("cpu", len(specs), specs[0].threads)
        minutes = CORE_SECONDS_PER_PIXEL * pixels / jobs / 60
        lines.append(f"  Roughly {_rounded(minutes)} with {plural(jobs, 'worker')}.")
    return "\n".join(lines)


def _axis(name: str, values: Sequence[Any]) -> str:
    if name == "seed":
        return plural(len(values), "seed")
    words = ["default" if value is None else _words("", value).strip() for value in values]
    return f"{name.replace('_', ' ')} {', '.join(words)}"


def _pixels(grid: Grid, study: StudyDirectory) -> int:
    """Pixels of the training images that the runs of a grid still have to see."""
    epochs = sum(s.epochs for s in grid.specs if status_of(study.run(s).path) not in ENDED)
    return epochs * grid.dataset.train_images[..., 0].size


def _rounded(minutes: float) -> str:
    if minutes < 1.5:
        return "a minute"
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.0f} hours"


def _label(spec: RunSpec, told: Sequence[str]) -> str:
    special = [knob for knob in told if getattr(spec, knob) != _DEFAULTS.get(knob)]
    parts = [_words(knob, getattr(spec, knob)) for knob in special]
    return "  ".join([spec.norm, f"lr {spec.learning_rate:g}", *parts, f"seed {spec.seed}"])


def _words(knob: str, value: Any) -> str:
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, tuple):
        shown = "x".join(str(part) for part in value)
    return f"{knob.replace('_', ' ')} {shown}"
