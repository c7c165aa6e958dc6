"""The views of a report, one row each: what is shown, where its data come from, and its Vega-Lite spec.

To add a view, add a row to `VIEWS`. Its query returns a Table, or None where the records have nothing for it; the page
decodes it, draws it and gives it as a table and as CSV without knowing what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from normscope.records.captures import LIMIT
from normscope.records.run import RunRecord
from normscope.show.figures.activation_distributions import without_zeros
from normscope.show.report import layer_views as layers
from normscope.show.report import specs, sweeps
from normscope.show.report.report_data import ReportData
from normscope.show.report.tables import Table, exact, quantised, whole

Shape = Literal["curves", "densities", "rates", "heatmap", "ridges", "trajectories"]
"""How the page turns rows into marks."""


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
    """

    name: str
    section: str
    shape: Shape
    title: str
    note: str
    query: Callable[[ReportData], Table | None]
    spec: dict[str, Any] = field(repr=False)
    may_be_log: bool = False

    def to_json(self, table: dict[str, Any] | str) -> dict[str, Any]:
        """Plain values for the page, with the data or the name of the view that has the same."""
        keys = ("name", "section", "shape", "title", "note", "spec", "may_be_log")
        return {key: getattr(self, key) for key in keys} | {"table": table}


SECTIONS = {
    "rates": (
        "Accuracy over learning rates",
        "Every finished run is a point; the line joins the means.",
    ),
    "sweeps": (
        "Accuracy over other settings",
        "What the study varies, one setting at a time: the others are at their usual value, the "
        "learning rate is the one at which most values were trained. Every finished run is a "
        "point; the line joins the means.",
    ),
    "curves": (
        "Over the epochs",
        "A thin line is one run, the thick one the mean of an arm's finished runs. Cross: diverged.",
    ),
    "activations": (
        "Activations",
        "Test images in eval mode, after the epoch on the slider. Thin: one seed. Filled: the mean of seeds. The spike "
        "of exact zeros, which a ReLU makes, is given as a number.",
    ),
    "layers": (
        "Normalization layers",
        "Layers by steps, in each watched run. Choose a layer: click it, or the list. Where a network has no "
        "normalization layer, its row is the tensor at that place.",
    ),
    "layer": (
        "Inside one layer",
        "Channel by channel: the distributions of one step, within four standard deviations, each scaled to its peak; "
        "and what moved over training. Of wide layers, channels evenly spread; of long runs, steps evenly spread.",
    ),
}
"""{section: (heading, note)} in the order of the page."""


def _curve(
    column: str, title: str, unit: str, *, scale: float = 1.0, may_be_log: bool = True
) -> View:
    def query(data: ReportData) -> Table | None:
        parts = [
            (k, run.column("epoch"), scale * run.column(column)) for k, run in enumerate(data.runs)
        ]
        if not any(np.isfinite(values).any() for _, _, values in parts):
            return None
        counts = [len(epochs) for _, epochs, _ in parts]
        columns = {
            "run": whole(np.repeat([k for k, _, _ in parts], counts)),
            "x": whole(np.concatenate([epochs for _, epochs, _ in parts])),
            "y": exact(np.concatenate([values for _, _, values in parts])),
        }
        return Table(columns)

    return View(column, "curves", "curves", title, "", query, specs.curves(unit), may_be_log)


def _activation(tensor: str, title: str, note: str, *, near_normal: bool) -> View:
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

    return View(
        tensor, "activations", "densities", title, note, query, specs.densities(near_normal)
    )


def _learning_rates(data: ReportData) -> Table | None:
    runs = [(k, run) for k, run in enumerate(data.runs) if _has_ended(run)]
    if not runs or len({run.learning_rate for run in data.runs}) < 2:
        return None
    finals = [run.final("test_accuracy") for _, run in runs]
    accuracy = [np.nan if final is None else 100 * final for final in finals]
    rates = [run.learning_rate for _, run in runs]
    return Table({"run": whole([k for k, _ in runs]), "x": exact(rates), "y": exact(accuracy)})


def _has_ended(run: RunRecord) -> bool:
    return run.status in ("finished", "diverged")


VIEWS = (
    View("learning_rates", "rates", "rates", "Final test accuracy", "", _learning_rates, specs.rates()),
    *(
        View(f"sweep_{knob}", "sweeps", "rates", f"Over {words}", "", sweeps.over(knob), specs.rates(words))
        for knob, words in ((knob, knob.replace("_", " ")) for knob in sweeps.SWEPT)
    ),
    _curve("train_loss", "Training loss", "cross-entropy (nats)"),
    _curve("test_accuracy", "Test accuracy", "accuracy (%)", scale=100, may_be_log=False),
    _curve("test_loss", "Test loss", "cross-entropy (nats)"),
    _curve("train_accuracy", "Training accuracy", "accuracy (%)", scale=100, may_be_log=False),
    _curve("stem_gradient_mean", "Stem gradient, mean of the epoch's steps", "L2 norm"),
    _curve("last_layer_gradient_mean", "Classifier gradient, mean of the epoch's steps", "L2 norm"),
    _curve("stem_gradient", "Stem gradient, the epoch's last step", "L2 norm"),
    _curve("learning_rate", "Learning rate", "learning rate"),
    _activation("block_output", "Output of the first stage of blocks", "", near_normal=False),
    _activation(
        "before_activation", "The tensor that enters the last activation of that stage", "Dashed: N(0, 1).",
        near_normal=True,
    ),
    _activation(
        "normalized",
        "Output of the first normalization layer in that stage",
        "Dashed: N(0, 1). With norm none nothing is normalized: this is the tensor at the same place.",
        near_normal=True,
    ),
    *(
        View(name, "layers", "heatmap", title, note, layers.overview(measure, log), specs.heatmap(unit, scheme, log))
        for name, measure, title, note, unit, scheme, log in layers.OVERVIEWS
    ),
    *(
        View(f"{side}_ridges", "layer", "ridges", title, note, layers.ridges, specs.ridges(unit))
        for side, title, note, unit in layers.SIDES
    ),
    *(
        View(name, "layer", "trajectories", title, "", layers.trajectories(name), specs.curves(unit, "step"), log)
        for name, title, unit, log in layers.TRAJECTORIES
    ),
)  # fmt: skip
"""Every view, in the order of the page."""
