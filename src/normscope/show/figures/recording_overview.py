"""overview.png: every layer of a network over training, with normalization and without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from normscope.escapes import for_terminal
from normscope.judge import layer_measures
from normscope.judge.timeline import Timeline
from normscope.records.recording import Recording
from normscope.show.figures.page import Frame, Row, lay_out, text_width
from normscope.show.figures.provenance import recorded
from normscope.show.figures.style import SMALL, house_style, label_of, save
from normscope.show.palette import colour_of

MIN_COLUMNS, MAX_COLUMNS = 24, 120
"""Intervals of time in a row; an epoch is one or a whole number of them where possible."""

MAX_NAMES = 40
"""Of more layers, not every one is named."""

_BAR = 0.75  # inches on the right for the scale


@dataclass(frozen=True)
class _Quantity:
    heading: str
    measure: layer_measures.Measure
    logarithmic: bool = True
    if_zero: str = ""  # added to the heading where every value is 0

    def scale(self, tables: list[np.ndarray]) -> Normalize:
        """Return one colour scale for all tables."""
        values = np.concatenate([table.ravel() for table in tables])
        positive = values[np.isfinite(values) & (values > 0)]
        if not self.logarithmic:
            return Normalize(0, 1)
        if not len(positive):
            return LogNorm(0.1, 1)
        low, high = np.quantile(positive, [0.005, 0.995])
        return LogNorm(low, max(high, 1.5 * low))


QUANTITIES = (
    _Quantity("Mean of the input: root mean square over channels", layer_measures.input_mean),
    _Quantity(
        "Spread of the input: median standard deviation of the channels", layer_measures.input_std
    ),
    _Quantity(
        "Dead channels: no sampled output in the active region of the next activation",
        layer_measures.dead_channels, logarithmic=False, if_zero=" (none in any recorded step)",
    ),
    _Quantity("Gradient of the loss at the output: L2 norm", layer_measures.output_gradient),
)  # fmt: skip


@house_style()
def draw(recordings: Mapping[str, Recording], path: Path, *, origin: str = "") -> Figure:
    """Draw mean, spread, dead channels and gradient of every layer over training, and write them.

    A column is the recording of a network, by its norm; `origin` says in the footer what they are
    of.
    """
    first = next(iter(recordings.values()))
    layers = list(first.layers)
    tables = [[_table(each, one, layers) for one in recordings.values()] for each in QUANTITIES]
    frame = Frame(
        "All layers over training, the first at the top",
        origin or recorded(first),
        subtitle="Training batches; a cell without a record keeps the colour before it. "
        "Without normalization, a row is the same place in the network.",
    )
    left = 0.35 + max(text_width(name, SMALL - 1) for name in layers)
    width = left + len(recordings) * 3.6 + _BAR
    rows = _rows(len(layers), tables)
    figure, axes = lay_out(rows, len(recordings), frame, width=width, left=left, gap=0.2)
    shrink = _BAR / width / len(recordings)
    for quantity, of_quantity, row in zip(QUANTITIES, tables, axes, strict=True):
        scale = quantity.scale(of_quantity)
        columns = zip(row, recordings.values(), of_quantity, strict=True)
        for index, (axis, recording, table) in enumerate(columns):
            box = axis.get_position()
            axis.set_position((box.x0 - index * shrink, box.y0, box.width - shrink, box.height))
            names = layers if index == 0 else [""] * len(layers)
            _draw_table(axis, table, names, Timeline.of(recording), scale)
        _draw_bar(figure, row[-1], scale)
    for above, below, (norm, recording) in zip(axes[0], axes[-1], recordings.items(), strict=True):
        above.set_title(label_of(norm), weight="bold")
        below.set_xlabel(Timeline.of(recording).label)
    return save(figure, path)


def _rows(layers: int, tables: list[list[np.ndarray]]) -> list[Row]:
    """A row per quantity: the first has room for the norms' names, the last for the axis label."""
    height = min(5.0, max(1.0, 0.135 * layers))
    rows = []
    for quantity, of_quantity in zip(QUANTITIES, tables, strict=True):
        values = np.concatenate([table.ravel() for table in of_quantity])
        none = np.isfinite(values).any() and not (values > 0).any()
        above, below = (
            0.24 if quantity is QUANTITIES[0] else 0.04,
            0.5 if quantity is QUANTITIES[-1] else 0.36,
        )
        heading = quantity.heading + (quantity.if_zero if none else "")
        rows.append(Row(height, heading, above=above, below=below))
    return rows


def _table(quantity: _Quantity, recording: Recording, layers: list[str]) -> np.ndarray:
    """[layers, intervals of time]: the mean of an interval's records, or the last before it."""
    timeline = Timeline.of(recording)
    table = np.full((len(layers), columns_of(timeline)), np.nan)
    for row, layer in enumerate(layers):
        if layer in recording.layers:
            steps, values = quantity.measure(recording, layer)
            table[row] = _binned(timeline.at(steps) / timeline.end, values, table.shape[1])
    return table


def columns_of(timeline: Timeline) -> int:
    """Return into how many intervals the time is divided."""
    return min(MAX_COLUMNS, timeline.epochs * -(-MIN_COLUMNS // timeline.epochs))


def _binned(times: np.ndarray, values: np.ndarray, columns: int) -> np.ndarray:
    keep = np.isfinite(values)
    index = np.minimum((times[keep] * columns - 1e-9).astype(int), columns - 1)
    counts = np.bincount(index, minlength=columns)
    with np.errstate(invalid="ignore"):
        means = np.bincount(index, values[keep], columns) / counts
    for column in range(1, columns):
        if not counts[column]:
            means[column] = means[column - 1]
    return means


def _colours(scale: Normalize) -> str:
    return "viridis" if isinstance(scale, LogNorm) else "Reds"


def _draw_table(
    axis: Axes, table: np.ndarray, names: list[str], timeline: Timeline, scale: Normalize
) -> None:
    colours = matplotlib.colormaps[_colours(scale)].with_extremes(bad=colour_of("soft"))
    edges = np.linspace(0, timeline.end, table.shape[1] + 1)
    shown = np.maximum(table, scale.vmin or 0.0) if isinstance(scale, LogNorm) else table
    axis.pcolormesh(
        edges, np.arange(len(names) + 1), np.ma.masked_invalid(shown), norm=scale, cmap=colours
    )
    axis.set(xlim=(0, timeline.end), ylim=(len(names), 0))
    axis.grid(visible=False)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    every = -(-len(names) // MAX_NAMES)
    axis.set_yticks(
        np.arange(0, len(names), every) + 0.5, [for_terminal(name) for name in names[::every]]
    )
    axis.tick_params(axis="y", length=0, labelsize=SMALL - 1)


def _draw_bar(figure: Figure, beside: Axes, scale: Normalize) -> None:
    """The scale of a row, at the page's right edge."""
    box, width = beside.get_position(), figure.get_figwidth()
    axis = figure.add_axes((box.x1 + 0.08 / width, box.y0, 0.11 / width, box.height), gid="scale")
    bar = Colorbar(axis, ScalarMappable(scale, _colours(scale)))
    logarithmic = isinstance(scale, LogNorm)
    if logarithmic:
        bar.set_ticks(_decades(float(scale.vmin or 1), float(scale.vmax or 1)))
        bar.minorticks_off()
    axis.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if logarithmic else f"{100 * value:.0f}%")
    )
    axis.tick_params(labelsize=SMALL - 1, length=2)
    axis.grid(visible=False)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]


def _decades(low: float, high: float) -> list[float]:
    """Four ticks or so, at 1, 2, 5 or powers of ten."""
    decades = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5)):
        rounds = [digit * 10.0**decade for decade in decades for digit in digits]
        ticks = [tick for tick in rounds if low <= tick <= high]
        if len(ticks) >= 3:
            return ticks[:: -(-len(ticks) // 6)]
    return [float(f"{low:.2g}"), float(f"{high:.2g}")]
