"""<layer>_statistics.png: statistics, weight and bias of each channel over training."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from normscope.judge.timeline import Timeline, evenly_spread
from normscope.records.recording import Recording
from normscope.show.figures.page import Frame, Row, lay_out
from normscope.show.figures.provenance import recorded
from normscope.show.figures.style import (
    REFERENCE,
    SMALL,
    house_style,
    legend_line,
    log_ticks,
    save,
    say_in,
)
from normscope.words import plural

MAX_CHANNELS = 64
"""Of a wider layer, as many channels are shown, evenly spaced."""

WINDOWS = 60
"""Intervals of training, at most; in each the batch means of a channel span a piece of the band."""

PER_WINDOW = 8
"""Batches in an interval, at least: the extremes of fewer say little."""

_GAP = 0.75  # inches between wide panels: room for the numbers at their axes

_LINES = (("running_var", "running variance"), ("weight", "weight"), ("bias", "bias"))
_WANTED = frozenset({"batch_mean", "batch_var", "running_mean", *(name for name, _ in _LINES)})

Series = dict[str, tuple[np.ndarray, np.ndarray]]
"""{statistic: (steps [R], values [R, C])}."""


@house_style()
def draw(recording: Recording, layer: str, path: Path, *, origin: str = "") -> Figure:
    """Draw one layer's statistics over training, and write them.

    Each channel has a panel for its mean, and one colour in all panels. `origin` says in the footer
    what the recording is of.

    Raises:
        InputError: for a layer that is not there.
    """
    timeline, info = Timeline.of(recording), recording.layers[layer]
    names = _WANTED.intersection(recording.statistics(layer))
    series = {name: recording.query(layer, name) for name in sorted(names)}
    channels = max((values.shape[1] for _, values in series.values()), default=0)
    shown = evenly_spread(channels, MAX_CHANNELS)
    colours = _colours(len(shown))
    columns, panel = (6, 1.6) if len(shown) <= 24 else (8, 1.3)  # inches
    frame = Frame(
        f"{layer} ({info.type}): statistics and parameters over training",
        origin or recorded(recording),
        subtitle=_subtitle(series, len(shown), info.channels or channels, info.momentum),
        legends=(_legend(series),),
    )
    rows = _rows(-(-len(shown) // columns))
    figure, axes = lay_out(rows, columns, frame, width=panel * columns, left=0.6, gap=0.42)
    numbers = [info.channel_numbers(channels)[index] for index in shown]
    _draw_means(axes[:-1], series, shown, numbers, colours, timeline)
    lines = _LINES
    if "running_var" not in series:
        lines = (("batch_var", "variance of the input, batch by batch"), *_LINES[1:])
    for (name, label), axis in zip(lines, _joined(figure, axes[-1]), strict=True):
        _draw_lines(axis, series.get(name), shown, colours, timeline, label)
    return save(figure, path)


def _rows(means: int) -> list[Row]:
    """So many rows of channels' means, with one heading and axis label, and the wide panels."""
    heading = "Mean of the input, channel by channel"
    rows = [
        Row(0.8, "" if row else heading, above=0.2, below=0.5 if row == means - 1 else 0.08)
        for row in range(means)
    ]
    return [*rows, Row(2.1, "All channels", above=0.22, below=0.45)]


def _draw_means(
    axes: Sequence[Sequence[Axes]],
    series: Series,
    shown: list[int],
    numbers: list[int],
    colours: list[str],
    timeline: Timeline,
) -> None:
    limits, columns = _mean_limits(series, shown), len(axes[0])
    panels = [axis for row in axes for axis in row]
    for axis in panels[len(shown) :]:
        axis.remove()
    for index, (axis, channel) in enumerate(zip(panels, shown, strict=False)):
        colour = colours[index]
        _draw_mean(axis, series, channel, colour, timeline)
        title = {"size": SMALL - 1, "color": colour, "weight": "bold"}
        axis.set_title(str(numbers[index]), pad=2, **title)
        axis.set_ylim(limits)
        is_last = index + columns >= len(shown)
        axis.tick_params(labelbottom=is_last, labelleft=index % columns == 0, labelsize=SMALL - 1)
        if is_last:
            axis.set_xlabel(timeline.label)


def _colours(count: int) -> list[str]:
    """Distinct colours, dark enough on white: neighbours differ in hue and lightness."""
    return [
        to_hex(colorsys.hls_to_rgb(0.93 * index / count, (0.30, 0.45)[index % 2], 0.8))
        for index in range(count)
    ]


def _joined(figure: Figure, row: Sequence[Axes]) -> list[Axes]:
    """A row of panels as three wide ones."""
    first, last = row[0].get_position(), row[-1].get_position()
    gap = _GAP / figure.get_figwidth()
    width = (last.x1 - first.x0 - gap * (len(_LINES) - 1)) / len(_LINES)
    for axis in row[len(_LINES) :]:
        figure.delaxes(axis)
    kept = list(row[: len(_LINES)])
    for index, axis in enumerate(kept):
        axis.set_position((first.x0 + index * (width + gap), first.y0, width, first.height))
    return kept


def _mean_limits(series: Series, shown: list[int]) -> tuple[float, float]:
    """One scale for all channels' means: all that is finite, but for the most extreme batches."""
    means = [series[name][1] for name in ("batch_mean", "running_mean") if name in series]
    values = np.concatenate([np.zeros(0), *(each[:, shown].ravel() for each in means)])
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, high = np.quantile(finite, [0.0005, 0.9995])
    margin = 0.05 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def _draw_mean(axis: Axes, series: Series, channel: int, colour: str, timeline: Timeline) -> None:
    axis.axhline(0, color=REFERENCE, linewidth=0.5, alpha=0.6)
    if "running_mean" in series:
        steps, values = series["running_mean"]
        axis.plot(timeline.at(steps), values[:, channel], color=colour, linewidth=1.1,
                  gid="running mean")  # fmt: skip
    if "batch_mean" in series:
        steps, values = series["batch_mean"]
        times, of_channel = timeline.at(steps), values[:, channel]
        if _has_band(series):
            axis.fill_between(*envelope(times, of_channel), color=colour, alpha=0.28, linewidth=0,
                              gid="batch means")  # fmt: skip
        else:
            axis.plot(times, of_channel, color=colour, linewidth=0.8, gid="batch means")
    axis.set_xlim(0, timeline.end)
    axis.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(3))


def envelope(times: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (time, smallest, largest) of the values in intervals of equally many records."""
    chunks = np.array_split(np.arange(len(times)), intervals(len(times)))
    low = np.array([np.min(values[chunk]) for chunk in chunks])
    high = np.array([np.max(values[chunk]) for chunk in chunks])
    return np.array([times[chunk].mean() for chunk in chunks]), low, high


def intervals(records: int) -> int:
    """Return into how many intervals so many records are divided."""
    return min(WINDOWS, max(1, records // PER_WINDOW))


def _has_band(series: Series) -> bool:
    """Return whether the batch means are a band beside the running mean; few batches are a line."""
    if not {"batch_mean", "running_mean"} <= series.keys():
        return False
    return intervals(len(series["batch_mean"][0])) > 1


def _draw_lines(
    axis: Axes,
    series: tuple[np.ndarray, np.ndarray] | None,
    shown: list[int],
    colours: Sequence[str],
    timeline: Timeline,
    label: str,
) -> None:
    axis.set(title=label, xlabel=timeline.label, xlim=(0, timeline.end))
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.ticklabel_format(axis="y", useOffset=False)
    if series is None:
        say_in(axis, "not there")
        return
    steps, values = series
    for channel, colour in zip(shown, colours, strict=True):
        axis.plot(timeline.at(steps), values[:, channel], color=colour, linewidth=0.8, alpha=0.85,
                  gid=str(channel))  # fmt: skip
    if "variance" in label and np.all(values > 0) and values.max() > 30 * values.min():
        log_ticks(axis, "y", decades=float(np.log10(values.max() / values.min())))


def _subtitle(series: Series, shown: int, channels: int, momentum: float | None) -> str:
    sentences = []
    if "batch_mean" in series:
        count = len(series["batch_mean"][0])
        if _has_band(series):
            sentences.append(
                f"Band: smallest to largest batch mean in each of {intervals(count)} intervals of "
                f"{count:,} batches."
            )
        else:
            sentences.append(f"Thin: the means of {plural(count, 'batch', 'batches')}.")
    if "running_mean" not in series:
        sentences.append("This layer keeps no running statistics.")
    elif momentum is not None:
        sentences.append(f"Line: the running mean (momentum {momentum:g}).")
    if shown < channels:
        sentences.append(f"{shown} of {channels} channels, evenly spaced.")
    return " ".join(sentences)


def _legend(series: Series) -> list[Artist]:
    handles: list[Artist] = []
    if _has_band(series):
        handles.append(Patch(color=REFERENCE, alpha=0.28, linewidth=0, label="batch means"))
    elif "batch_mean" in series:
        handles.append(legend_line(color=REFERENCE, linewidth=0.8, label="batch means"))
    if "running_mean" in series:
        handles.append(legend_line(color=REFERENCE, linewidth=1.2, label="running mean"))
    one_colour = "a channel has one colour in all panels"
    return [*handles, legend_line(color=_colours(2)[0], linewidth=1.2, label=one_colour)]
