"""activation_distributions.png: the first stage's tensors over training, norm by norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from normscope.judge.timeline import evenly_spread
from normscope.records.histogram import LIMIT, Histogram
from normscope.records.run import RunRecord
from normscope.show.figures.page import Frame, Row, lay_out
from normscope.show.figures.provenance import footer, subject
from normscope.show.figures.style import (
    INK,
    REFERENCE,
    SMALL,
    NormStyle,
    house_style,
    label_of,
    legend_line,
    norm_styles,
    save,
)

MAX_COLUMNS = 5
"""Captured epochs that are shown at most, spread evenly from the first to the last."""

MAX_NORMS_FOR_ALL_TENSORS = 3
"""With more norms the page would be too long for the third tensor."""


STANDARD_NORMAL: dict[str, Any] = {
    "color": INK, "linewidth": 1, "linestyle": (0, (3, 2)), "gid": "N(0, 1)",
}  # fmt: skip


@dataclass(frozen=True)
class _Tensor:
    name: str
    heading: str
    near_normal: bool  # whether N(0, 1) is something that it could be


TENSORS = (
    _Tensor("block_output", "Output of the first stage of blocks", near_normal=False),
    _Tensor("before_activation", "Input of the stage's last activation", near_normal=True),
    _Tensor("normalized", "Output of the stage's first normalization layer", near_normal=True),
)


@house_style()
def draw(runs: Sequence[RunRecord], path: Path) -> Figure:
    """Draw the captured distributions at one learning rate and write the figure.

    The rate is the one at which the first norm has the highest mean final accuracy. Rows are the
    tensors and, within each, the norms; columns are the captured epochs. Every seed is a thin line,
    their mean is filled. Exact zeros are a spike that is cut off and given as a number: its height
    would only say how narrow a bin is.
    """
    rate = shown_rate(runs)
    shown = [run for run in runs if run.learning_rate == rate]
    norms = list(dict.fromkeys(run.norm for run in runs))
    styles = norm_styles(norms)
    captured = sorted({epoch for run in shown for _, epoch in run.captures})
    epochs = [captured[index] for index in evenly_spread(len(captured), MAX_COLUMNS)]
    tensors = _tensors(shown, len(norms))
    rows = [_row(tensor, norm, norms) for tensor in tensors for norm in norms]
    frame = Frame(
        f"Activations over training: {subject(runs)}",
        footer(shown),
        subtitle=_subtitle(runs, rate, epochs, captured),
        legends=(_key(tensors),),
    )
    width = max(7.5, 0.9 + 2.85 * len(epochs))
    figure, axes = lay_out(rows, max(1, len(epochs)), frame, width=width, left=0.65, gap=0.25)
    for place, row in enumerate(axes):
        tensor, norm = tensors[place // len(norms)], norms[place % len(norms)]
        own = [run for run in shown if run.norm == norm]
        _draw_row(row, own, tensor, epochs, styles[norm], label_of(norm, 22))
        if norm == norms[-1]:
            for axis in row:
                axis.set_xlabel("activation value")
    return save(figure, path)


def shown_rate(runs: Sequence[RunRecord]) -> float:
    """The rate at which the first norm's finished runs are best on average, or the first."""
    finals: dict[float, list[float]] = {}
    for run in runs:
        final = run.final("test_accuracy")
        if run.norm == runs[0].norm and final is not None and run.captures:
            finals.setdefault(run.learning_rate, []).append(final)
    if not finals:
        return next((run for run in runs if run.captures), runs[0]).learning_rate
    return max(finals, key=lambda rate: float(np.mean(finals[rate])))


def _row(tensor: _Tensor, norm: str, norms: Sequence[str]) -> Row:
    """The first row of a tensor has its heading above, the last its axis label beneath."""
    below = 0.52 if norm == norms[-1] else 0.24
    if norm != norms[0]:
        return Row(1.05, above=0.38, below=below)
    note = (
        "Without normalization: the same place in the network."
        if "none" in norms and tensor.name == "normalized"
        else ""
    )
    return Row(1.05, tensor.heading, note=note, above=0.44, below=below)


def _subtitle(
    runs: Sequence[RunRecord], rate: float, epochs: Sequence[int], captured: Sequence[int]
) -> str:
    """Which of the captures these are, and what the numbers mean."""
    if not captured:
        return "No activations were captured."
    rates = {run.learning_rate for run in runs}
    finished = any(
        run.norm == runs[0].norm and run.status == "finished"
        for run in runs
        if run.learning_rate == rate
    )
    why = f", where {label_of(runs[0].norm)} ends with the highest accuracy" if finished else ""
    sentences = [
        f"Learning rate {rate:g}{why if len(rates) > 1 else ''}.",
        "Test images in eval mode.",
    ]
    if len(epochs) < len(captured):
        sentences.append(f"{len(epochs)} of the {len(captured)} captured epochs.")
    sentences.append(
        "Numbers are means over seeds; the spike of exact zeros is cut off at the top."
    )
    return " ".join(sentences)


def _tensors(runs: Sequence[RunRecord], norms: int) -> list[_Tensor]:
    captured = {name for run in runs for name, _ in run.captures}
    return [
        tensor
        for tensor in TENSORS
        if tensor.name in captured
        and (norms <= MAX_NORMS_FOR_ALL_TENSORS or tensor.name != "normalized")
    ]


def _key(tensors: Sequence[_Tensor]) -> list[Line2D | Patch]:
    handles = [
        legend_line(color=REFERENCE, linewidth=0.8, alpha=0.6, label="one seed"),
        Patch(color=REFERENCE, alpha=0.3, linewidth=0, label="mean of seeds"),
    ]
    if any(tensor.near_normal for tensor in tensors):
        handles.append(legend_line(**STANDARD_NORMAL, label="N(0, 1)"))
    return handles


def _draw_row(
    axes: Sequence[Axes],
    runs: Sequence[RunRecord],
    tensor: _Tensor,
    epochs: Sequence[int],
    style: NormStyle,
    label: str,
) -> None:
    """One norm's distributions of one tensor at every epoch, on one density axis."""
    columns = [
        [run.captures[tensor.name, epoch] for run in runs if (tensor.name, epoch) in run.captures]
        for epoch in epochs
    ]
    top = _density_limit([distribution for column in columns for distribution in column], tensor)
    for axis, epoch, distributions in zip(axes, epochs, columns, strict=True):
        axis.set(xlim=(-LIMIT, LIMIT), ylim=(0, top))
        axis.tick_params(labelleft=axis is axes[0])
        measured = [distribution for distribution in distributions if distribution.n > 0]
        caption = _caption(f"{label}, epoch {epoch}", measured, distributions, len(runs))
        axis.set_title(caption, size=SMALL, linespacing=1.25)
        if measured:
            _draw_distributions(axis, measured, style, top)
        if tensor.near_normal:
            x = np.linspace(-LIMIT, LIMIT, 201)
            axis.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), **STANDARD_NORMAL)
    axes[0].set_ylabel("density")


def without_zeros(captured: Histogram) -> np.ndarray:
    """The density [bins] of the values that are not exactly zero; its integral leaves the zeros'
    share out.
    """
    density, edges = captured.density[1:-1], captured.edges[1:-1]
    density[np.searchsorted(edges, 0.0, side="right") - 1] -= captured.zeros / (edges[1] - edges[0])
    return np.maximum(density, 0)


def _density_limit(distributions: Sequence[Histogram], tensor: _Tensor) -> float:
    peaks = [
        without_zeros(distribution).max() for distribution in distributions if distribution.n > 0
    ]
    if tensor.near_normal:
        peaks.append(1 / np.sqrt(2 * np.pi))
    return 1.1 * max(peaks, default=0.0) or 1.0


def _draw_distributions(
    axis: Axes, distributions: Sequence[Histogram], style: NormStyle, top: float
) -> None:
    edges, colour = distributions[0].edges[1:-1], style.colour
    densities = [without_zeros(distribution) for distribution in distributions]
    for density in densities:
        axis.stairs(density, edges, color=colour, linewidth=0.7, alpha=0.7, gid="seed")
    mean = np.mean(densities, axis=0)
    axis.stairs(mean, edges, fill=True, color=colour, alpha=0.3, linewidth=0, gid="mean")
    zeros = float(np.mean([distribution.zeros for distribution in distributions]))
    if zeros == 0:
        return
    spike = [0, min(zeros / (edges[1] - edges[0]), top)]
    axis.plot([0, 0], spike, color=colour, linewidth=2, solid_capstyle="butt", gid="zeros")
    if zeros >= 0.001:
        text = f"{_percent(zeros)} exact zeros"
        axis.text(-0.25, 0.97 * top, text, ha="right", va="top", size=SMALL - 1, color=REFERENCE)


def _caption(
    heading: str, measured: Sequence[Histogram], captured: Sequence[Histogram], runs: int
) -> str:
    """Two lines: what it is, of how many runs; then the moments and what is beyond the limits."""
    first = heading
    if len(measured) < runs:
        first += f"  (n = {len(measured)} of {runs})"
    lost = sum(d.non_finite for d in captured) / max(sum(d.n + d.non_finite for d in captured), 1)
    if lost:
        first += f", {_percent(lost)} not finite"
    if not measured:
        return f"{first}\nno finite value" if captured else f"{first}\nnot captured"
    mean, std = (float(np.mean([getattr(d, name) for d in measured])) for name in ("mean", "std"))
    beyond = float(np.mean([(d.counts[0] + d.counts[-1]) / d.n for d in measured]))
    digits = 2 if not 0 < std < 0.1 else 1 - math.floor(math.log10(std))
    moments = f"mean {_number(mean, digits)}, std {_number(std, digits)}"
    return f"{first}\n{moments}, {_percent(beyond)} beyond ±{LIMIT:g}"


def _number(value: float, digits: int) -> str:
    """With that many decimals, or in powers of ten where that would be long."""
    text = (
        f"{value:.2e}"
        if abs(value) >= 1e4 or digits > 5
        else f"{round(value, digits) + 0.0:.{digits}f}"
    )
    return text.replace("-", "−")


def _percent(share: float) -> str:
    return "<0.1%" if 0 < share < 0.001 else f"{100 * share:.1f}%"
