"""The query behind the views of swept settings: final accuracy over one knob, the others at their usual value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from normscope.judge.evidence.cells import value_of
from normscope.records.run import ENDED
from normscope.show.report.report_data import ReportData
from normscope.show.report.tables import Table, exact, whole

SWEPT = (
    "batch_size", "initialization_scale", "initialization", "activation", "block", "weight_decay", "momentum",
    "schedule", "widths", "blocks_per_stage", "model", "epochs", "precision",
)  # fmt: skip
"""The knobs of a run that have a view where a study varies them."""


Row = tuple[int, Any, int, float]  # run, level, line, accuracy in percent


def over(knob: str) -> Callable[[ReportData], Table | None]:
    """The query of one knob: a point for each ended run that differs from the usual setting in that
    knob at most, at the learning rate at which most values of the knob were trained.

    The column `level` is a place in the table's `levels`, `line` is the arm of the run's norm at
    the usual setting.
    """

    def query(data: ReportData) -> Table | None:
        arms = {label: place for place, label in enumerate(data.arms)}
        rows: list[Row] = []
        number = -1
        for study in data.studies:
            for run in study.runs:
                number += 1
                differs = study.settings.differences(run).keys() - {knob}
                if knob not in study.settings.varied or differs or run.status not in ENDED:
                    continue
                final = run.final("test_accuracy")
                own = data.arm(study, run.norm, study.settings.label(run))
                line = arms.get(data.arm(study, run.norm), arms[own])
                rows.append(
                    (
                        number,
                        _level(value_of(run, knob)),
                        line,
                        np.nan if final is None else 100 * final,
                    )
                )
        rows = _at_one_rate(rows, data)
        levels = sorted(
            {level for _, level, _, _ in rows}, key=lambda level: (isinstance(level, str), level)
        )
        if len(levels) < 2:
            return None
        columns = {
            "run": whole([run for run, _, _, _ in rows]),
            "level": whole([levels.index(level) for _, level, _, _ in rows]),
            "line": whole([line for _, _, line, _ in rows]),
            "y": exact([accuracy for _, _, _, accuracy in rows]),
        }
        return Table(columns, levels=tuple(levels))

    return query


def _at_one_rate(rows: list[Row], data: ReportData) -> list[Row]:
    """The rows at the learning rate with most levels; of several, with most runs, the lowest."""
    by_rate: dict[float, list[Row]] = {}
    for row in rows:
        by_rate.setdefault(data.runs[row[0]].learning_rate, []).append(row)
    return max(
        (by_rate[rate] for rate in sorted(by_rate)),
        key=lambda own: (len({level for _, level, _, _ in own}), len(own)),
        default=[],
    )


def _level(value: Any) -> float | str:
    """A value on the axis: numbers in their order, everything else by name."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number else value if isinstance(value, str) else str(value)
