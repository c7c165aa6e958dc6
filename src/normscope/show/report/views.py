"""The views of a report, one row each: what is shown, its data, and its Vega-Lite spec.

To add a view, add a row to `VIEWS`. Its query returns a Table, or None where the records have
nothing for it; the page decodes it, draws it and gives it as a table and as CSV without knowing
what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from normscope.judge.evidence.cells import value_of
from normscope.records.histogram import LIMIT
from normscope.records.run import ENDED
from normscope.show.figures.activation_distributions import TENSORS, without_zeros
from normscope.show.report import inside_layer, specs
from normscope.show.report import layer_views as layers
from normscope.show.report.page_tables import Table, exact, quantised, whole
from normscope.show.report.report_data import ReportData

Shape = Literal["curves", "densities", "rates", "heatmap", "ridges", "trajectories"]
"""The page's ways to turn rows into marks."""

SWEPT = (
    "batch_size", "initialization_scale", "initialization", "activation", "block", "weight_decay",
    "momentum", "schedule", "widths", "blocks_per_stage", "model", "epochs", "precision",
)  # fmt: skip
"""The settings of a run that have a view where a study varies them."""


@dataclass(frozen=True)
class View:
    """One view.

    Attributes:
        name: its id in the page.
        section: one of SECTIONS.
        shape: how the page turns its rows into marks.
        title: what it shows.
        note: what has to be known to read it.
        query: its data, or None where there are none.
        spec: Vega-Lite.
        may_be_log: whether the section's "log axis" applies to it.
        if_zero: what is said in place of a figure where every value is 0.
    """

    name: str
    section: str
    shape: Shape
    title: str
    note: str
    query: Callable[[ReportData], Table | None]
    spec: dict[str, Any] = field(repr=False)
    may_be_log: bool = False
    if_zero: str = ""

    def to_json(self, table: dict[str, Any] | str) -> dict[str, Any]:
        """Return plain values for the page, with the data or the name of the view that has them."""
        values = {name: value for name, value in vars(self).items() if name != "query"}
        return values | {"table": table}


SECTIONS = {
    "main": (
        "Loss and accuracy",
        "Thin: one run. Thick: the mean of finished runs. Cross: diverged. Of more than eight like "
        "runs five are drawn, and a band from the 10th to the 90th percentile.",
    ),
    "rates": (
        "Accuracy over learning rates",
        "Every finished run is a point; the line joins the means. Arms stand a few pixels apart. "
        "Crosses beneath: runs that diverged.",
    ),
    "sweeps": (
        "Accuracy over other settings",
        "Each figure varies one setting; the others keep their usual value. It names its learning "
        "rate: the one you chose above, else the one at which the setting has most values. Every "
        "finished run is a point; the line joins the means.",
    ),
    "curves": (
        "More over the epochs",
        "As loss and accuracy above.",
    ),
    "activations": (
        "Activations",
        "Test images in eval mode, after the epoch on the slider. Thin: one seed. Filled: the mean "
        "of seeds. Exact zeros, which a ReLU makes, are given as a number.",
    ),
    "layers": (
        "Normalization layers",
        "Rows are layers, columns are steps. Click a row to look inside. Without normalization, a "
        "row is the same place in the network.",
    ),
    "layer": (
        "Inside one layer",
        "Point at a channel and it lights up in every figure; click to keep it lit. Mean and "
        "variance: the line is the layer's running statistic (a batch's where it keeps none), the "
        "band reaches from the smallest to the largest batch.",
    ),
}  # fmt: skip
"""{section: (heading, note)} in the order of the page."""

TENSOR_NOTES = {
    "block_output": "",
    "before_activation": "Dashed: N(0, 1).",
    "normalized": "Dashed: N(0, 1). Without normalization: the same place in the network.",
}


def _curve(
    column: str,
    title: str,
    unit: str,
    scale: float = 1.0,
    may_be_log: bool = True,
    section: str = "curves",
) -> View:
    def query(data: ReportData) -> Table | None:
        values = [scale * run.column(column) for run in data.runs]
        if not any(np.isfinite(each).any() for each in values):
            return None
        columns = {
            "run": whole(np.repeat(np.arange(len(values)), [len(each) for each in values])),
            "x": whole(np.concatenate([run.column("epoch") for run in data.runs])),
            "y": exact(np.concatenate(values)),
        }
        return Table(columns)

    return View(column, section, "curves", title, "", query, specs.curves(unit), may_be_log)


def _activation(tensor: str, title: str, near_normal: bool) -> View:
    def query(data: ReportData) -> Table | None:
        rows = [
            (k, epoch, distribution)
            for k, run in enumerate(data.runs)
            for (name, epoch), distribution in sorted(
                run.captures.items(), key=lambda item: item[0][1]
            )
            if name == tensor and distribution.n > 0
        ]
        if not rows:
            return None
        width = max(len(distribution.counts) for _, _, distribution in rows) - 2
        rows = [row for row in rows if len(row[2].counts) == width + 2]
        beyond = [(d.counts[0] + d.counts[-1]) / d.n for _, _, d in rows]
        columns = {
            "run": whole([k for k, _, _ in rows]),
            "epoch": whole([epoch for _, epoch, _ in rows]),
            "mean": exact([d.mean for _, _, d in rows]),
            "std": exact([d.std for _, _, d in rows]),
            "zeros": exact([d.zeros for _, _, d in rows]),
            "beyond": exact(beyond),
            "low": exact(np.full(len(rows), -LIMIT)),
            "high": exact(np.full(len(rows), LIMIT)),
        }
        curve = np.concatenate([without_zeros(d) for _, _, d in rows])
        return Table(columns, quantised(curve), width)

    note, spec = TENSOR_NOTES[tensor], specs.densities(near_normal)
    return View(tensor, "activations", "densities", title, note, query, spec)


def _learning_rates(data: ReportData) -> Table | None:
    runs = [(k, run) for k, run in enumerate(data.runs) if run.status in ENDED]
    if not runs or len({run.learning_rate for run in data.runs}) < 2:
        return None
    rates = exact([run.learning_rate for _, run in runs])
    accuracies = exact([_percent(run.final("test_accuracy")) for _, run in runs])
    return Table({"run": whole([k for k, _ in runs]), "x": rates, "y": accuracies})


def _sweep(setting: str) -> View:
    """The view of one setting: a point for each ended run that differs from the usual values in
    that setting at most.

    The column `level` is an index into the table's `levels`, `line` is the arm of the run's norm at
    the usual values.
    """

    def query(data: ReportData) -> Table | None:
        arms = {label: index for index, label in enumerate(data.arms)}
        rows: list[tuple[int, float | str, int, float]] = []
        runs = ((study, run) for study in data.studies for run in study.runs)
        for number, (study, run) in enumerate(runs):
            differs = study.settings.differences(run).keys() - {setting}
            if setting not in study.settings.varied or differs or run.status not in ENDED:
                continue
            arm = arms[data.arm(study, run.norm, study.settings.label(run))]
            line = arms.get(data.arm(study, run.norm), arm)
            level, y = _level(value_of(run, setting)), _percent(run.final("test_accuracy"))
            rows.append((number, level, line, y))
        levels = sorted(
            {level for _, level, _, _ in rows}, key=lambda at: (isinstance(at, str), at)
        )
        if len(levels) < 2:
            return None
        numbers, at, lines, accuracies = zip(*rows, strict=True)
        columns = {
            "run": whole(numbers),
            "level": whole([levels.index(level) for level in at]),
            "line": whole(lines),
            "y": exact(accuracies),
        }
        return Table(columns, levels=tuple(levels))

    words = setting.replace("_", " ")
    name, title = f"sweep_{setting}", f"Over {words}"
    return View(name, "sweeps", "rates", title, "", query, specs.rates(words, levels=True))


def _level(value: Any) -> float | str:
    """A value on the axis: numbers in their order, everything else by name."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else str(value)


def _percent(accuracy: float | None) -> float:
    return np.nan if accuracy is None else 100 * accuracy


VIEWS = (
    _curve("train_loss", "Training loss", "cross-entropy (nats)", section="main"),
    _curve("test_accuracy", "Test accuracy", "accuracy (%)", 100, False, section="main"),
    View(
        "learning_rates", "rates", "rates", "Final test accuracy", "", _learning_rates,
        specs.rates(),
    ),
    *map(_sweep, SWEPT),
    _curve("test_loss", "Test loss", "cross-entropy (nats)"),
    _curve("train_accuracy", "Training accuracy", "accuracy (%)", scale=100, may_be_log=False),
    _curve("stem_gradient_mean", "First layer's gradient, mean of the epoch's steps", "L2 norm"),
    _curve("last_layer_gradient_mean", "Classifier gradient, mean of the epoch's steps", "L2 norm"),
    _curve("stem_gradient", "First layer's gradient, the epoch's last step", "L2 norm"),
    _curve("learning_rate", "Learning rate", "learning rate"),
    *(_activation(tensor.name, tensor.heading, tensor.near_normal) for tensor in TENSORS),
    *(
        View(
            name, "layers", "heatmap", title, note, layers.overview(measure, log),
            specs.heatmap(unit, scheme, log), if_zero=layers.IF_ZERO.get(name, ""),
        )
        for name, measure, title, note, unit, scheme, log in layers.OVERVIEWS
    ),
    View("ridges", "layer", "ridges", "Input and output, channel by channel", "",
         inside_layer.ridges, {}),
    *(
        View(
            name, "layer", "trajectories", title, "",
            inside_layer.trajectories(name, statistics), specs.trajectories(), log,
        )
        for name, title, statistics, log in inside_layer.TRAJECTORIES
    ),
)  # fmt: skip
"""Every view, in the order of the page."""
