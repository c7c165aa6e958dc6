"""comparison.png: training loss, test accuracy and stem gradient, one row per learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from normscope.judge.comparison import THRESHOLD_SHARE, Comparison
from normscope.records.run import RunRecord
from normscope.show.figures.page import Frame, Row, lay_out
from normscope.show.figures.provenance import footer, subject, unfinished
from normscope.show.figures.style import (
    REFERENCE,
    NormStyle,
    house_style,
    label_of,
    legend_line,
    log_ticks,
    mean_handle,
    norm_styles,
    save,
    say_in,
)

THRESHOLD_LINE = (0.0, (6.0, 3.0))

DECADES_FOR_LOG = 1.5
"""An axis whose values span more than this many decades is logarithmic."""


@dataclass(frozen=True)
class _Panel:
    column: str
    title: str
    unit: str
    scale: float = 1.0
    may_be_log: bool = True
    least_span: float = 0.0  # of the y axis: less would blow up what is next to nothing


PANELS = (
    _Panel("train_loss", "Training loss", "cross-entropy (nats)"),
    _Panel("test_accuracy", "Test accuracy", "accuracy (%)", 100.0, False, least_span=5.0),
    _Panel("stem_gradient", "First layer's gradient, each epoch's last step", "L2 norm"),
)


@house_style()
def draw(comparison: Comparison, runs: Sequence[RunRecord], path: Path) -> Figure:
    """Draw the runs of a comparison and write the figure.

    Every run is a thin line as far as it went, the mean of a norm's finished runs a thick one. The
    panels of a column share their axes, whose limits follow the runs that did not diverge. A
    diverged run ends in a cross.
    """
    norms = list(dict.fromkeys(group.norm for group in comparison.groups))
    styles = norm_styles(norms)
    by_rate = {
        rate: [run for run in runs if run.learning_rate == rate] for rate in comparison.threshold
    }
    manner = "with and without" if "none" in norms else "with different kinds of"
    frame = Frame(
        f"Training {manner} normalization: {subject(runs)}",
        footer(runs),
        legends=(
            [mean_handle(norm, styles[norm]) for norm in norms],
            _key(norms[0], runs, comparison),
        ),
    )
    figure, axes = lay_out(_rows(by_rate), len(PANELS), frame, width=11.0)
    for panel, column in zip(PANELS, zip(*axes, strict=True), strict=True):
        column[0].set_title(panel.title)
        column[-1].set_xlabel("epoch")
        _set_scale(column, panel, runs)
        for axis, of_rate in zip(column, by_rate.values(), strict=True):
            _draw_runs(axis, panel, of_rate, styles)
    for row, threshold in zip(axes, comparison.threshold.values(), strict=True):
        if threshold is not None:
            row[1].axhline(100 * threshold, color=REFERENCE, lw=0.8, ls=THRESHOLD_LINE, zorder=1.5,
                           gid="threshold")  # fmt: skip
    return save(figure, path)


def _rows(by_rate: dict[float, list[RunRecord]]) -> list[Row]:
    """The first row has room for the panels' titles, the last for their axis label."""
    rows = [
        Row(2.15, f"Learning rate {rate:g}", note=_note(runs)) for rate, runs in by_rate.items()
    ]
    rows[0] = replace(rows[0], above=0.32)
    rows[-1] = replace(rows[-1], below=0.5)
    return rows


def _note(runs: Sequence[RunRecord]) -> str:
    zeros = any((run.column("stem_gradient") == 0).any() for run in runs)
    at_zero = "Some gradients are exactly 0: on a log scale, the lower edge."
    return " ".join(filter(None, [unfinished(runs), at_zero if zeros else ""]))


def _key(first: str, runs: Sequence[RunRecord], comparison: Comparison) -> list[Line2D]:
    """Legend entries of what is no norm."""
    seed, threshold, diverged = (
        "one seed (thick: mean of seeds)",
        f"threshold: {THRESHOLD_SHARE:.0%} of {label_of(first)}'s final mean",
        "diverged: loss became NaN or infinite",
    )
    handles = [legend_line(color=REFERENCE, linewidth=0.8, alpha=0.6, label=seed)]
    if any(value is not None for value in comparison.threshold.values()):
        looks = {"linewidth": 0.8, "linestyle": THRESHOLD_LINE}
        handles.append(legend_line(color=REFERENCE, label=threshold, **looks))
    if any(run.status == "diverged" for run in runs):
        handles.append(legend_line(color=REFERENCE, marker="x", linestyle="", label=diverged))
    return handles


def _set_scale(column: Sequence[Axes], panel: _Panel, runs: Sequence[RunRecord]) -> None:
    """One scale and pair of limits for a column, from runs that did not diverge if there are."""
    steady = [run for run in runs if run.status != "diverged"] or runs
    values = np.concatenate([panel.scale * run.column(panel.column) for run in steady])
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    decades = (
        np.log10(positive.max() / positive.min()) if panel.may_be_log and len(positive) else 0.0
    )
    epochs = max(run.spec["epochs"] for run in runs)
    margin = 0.03 * max(epochs - 1, 10)
    for axis in column:
        axis.set_xlim(1 - margin, epochs + margin)
        axis.xaxis.set_major_locator(
            MaxNLocator(integer=True, nbins=7, steps=[1, 2, 5, 10], min_n_ticks=1)
        )
        axis.set_ylabel(panel.unit + (", log scale" if decades > DECADES_FOR_LOG else ""))
        if decades > DECADES_FOR_LOG:
            log_ticks(axis, "y", decades=float(decades))
            axis.set_ylim(positive.min() / 1.2, positive.max() * 1.2)
        elif len(values):
            axis.set_ylim(*_limits(values, panel.least_span))
        else:
            axis.set(ylim=(0, 1), yticks=[])
            say_in(axis, "no finite value")


def _limits(values: np.ndarray, least_span: float) -> tuple[float, float]:
    """The range of the values and a little more, at least `least_span`."""
    low, high = values.min(), values.max()
    pad = 0.05 * (high - low) or max(0.05 * abs(high), 1e-9)
    pad = max(pad, (least_span - (high - low)) / 2)
    return low - pad, high + pad


def _draw_runs(
    axis: Axes, panel: _Panel, runs: Sequence[RunRecord], styles: dict[str, NormStyle]
) -> None:
    for norm in dict.fromkeys(run.norm for run in runs):
        of_norm = [run for run in runs if run.norm == norm]
        for run in of_norm:
            _draw_run(axis, panel, run, styles[norm])
        _draw_mean(axis, panel, [run for run in of_norm if run.status == "finished"], styles[norm])


def _draw_run(axis: Axes, panel: _Panel, run: RunRecord, style: NormStyle) -> None:
    epochs, values = run.column("epoch"), _drawable(axis, panel.scale * run.column(panel.column))
    finite = np.isfinite(values)
    name = f"{run.norm} seed {run.seed}"
    axis.plot(
        epochs[finite], values[finite], color=style.colour, linewidth=0.8, alpha=0.5,
        marker="." if finite.sum() == 1 else "", gid=name,
    )  # fmt: skip
    if run.status == "diverged":
        low, high = axis.get_ylim()
        x, y = (epochs[finite][-1], values[finite][-1]) if finite.any() else (epochs[-1], high)
        axis.plot(
            x, np.clip(y, low, high), color=style.colour, marker="x", markersize=6,
            markeredgewidth=1.6, clip_on=False, zorder=4, gid=f"{name} diverged",
        )  # fmt: skip


def _draw_mean(axis: Axes, panel: _Panel, finished: Sequence[RunRecord], style: NormStyle) -> None:
    if not finished:
        return
    epochs = finished[0].column("epoch")
    mean = np.mean([run.column(panel.column) for run in finished], axis=0)
    axis.plot(
        epochs, _drawable(axis, panel.scale * mean), color=style.colour, linestyle=style.line,
        linewidth=2, marker=style.marker, markersize=4, markevery=max(1, len(epochs) // 6),
        zorder=3, gid=f"{finished[0].norm} mean",
    )  # fmt: skip


def _drawable(axis: Axes, values: np.ndarray) -> np.ndarray:
    """The values, with those that a logarithmic axis cannot show at its lower edge."""
    if axis.get_yscale() != "log":
        return values
    return np.where(values <= 0, axis.get_ylim()[0], values)
