"""The panels of explanation.png that show one layer on one batch, from distributions to modes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from normscope.records.explanation import Explanation
from normscope.show.arithmetic import Step, number, shown_channels
from normscope.show.figures.page import text_width, wrap
from normscope.show.figures.style import INK, NORMAL, REFERENCE, legend_below, name_rows, say_in
from normscope.show.palette import colour_of

RIDGES = 12
"""Channels whose distributions are shown at most."""

BINS = 64
TAIL = 0.0005
"""Share of values at either end that may lie outside a panel."""

CHOSEN, BATCH_COLOUR, OTHERS, LINE = map(colour_of, ("remembered", "batch", "input", "line"))
"""Colours of the chosen channel and running statistics; of what the batch has; of other channels;
of rules.
"""

PAIRS = 8
GROUP_SIZES = (1, 2, 8)

Side = Literal["x", "y"]
Tensor = Literal["x", "normalized", "output"]
RIDGE_TITLES: dict[Tensor, str] = {
    "x": "x: every channel has its mean and spread",
    "normalized": "normalized: mean 0, variance 1 in each",
    "output": "output: mean is bias, spread is |weight|",
}


def draw_ridges(axis: Axes, explanation: Explanation, tensor: Tensor) -> None:
    """Draw the distribution of every shown channel's values in one tensor, its mean marked, the
    chosen one in colour; all three tensors on one axis.
    """
    shown = shown_channels(explanation.x.shape[1], explanation.chosen, RIDGES)
    values = [getattr(explanation.channel(index), tensor).ravel() for index in shown]
    low, high = _span(explanation, shown)
    name_rows(axis, [str(index) for index in shown])
    axis.tick_params(axis="y", length=3.5)
    axis.set(title=RIDGE_TITLES[tensor], xlabel="value")
    axis.set(xlim=(low, high), ylim=(len(shown) - 0.8, -1.15))
    axis.axvline(0, color=REFERENCE, linewidth=0.7, zorder=0.5)
    edges = np.linspace(low, high, BINS + 1)
    for row, (index, of_channel) in enumerate(zip(shown, values, strict=True)):
        counts, _ = np.histogram(of_channel, bins=edges)
        colour = CHOSEN if index == explanation.chosen else OTHERS
        axis.stairs(
            row - 1.0 * counts / max(counts.max(), 1), edges, baseline=row, fill=True,
            facecolor=colour, edgecolor="white", linewidth=0.5, alpha=0.85, zorder=2 + row,
            gid=f"{tensor} {index}",
        )  # fmt: skip
        axis.plot([of_channel.mean()] * 2, [row, row - 0.35], color=INK, linewidth=1.2,
                  zorder=3 + row, gid=f"{tensor} mean {index}")  # fmt: skip
    plain_ticks(axis, "x", 7)
    if tensor == "x":
        axis.set_ylabel("channel")


def _span(explanation: Explanation, shown: Sequence[int]) -> tuple[float, float]:
    """The range that holds all but the tails of each of the three tensors."""
    channels = [explanation.channel(index) for index in shown]
    ends = [
        np.quantile([getattr(channel, tensor) for channel in channels], [TAIL, 1 - TAIL])
        for tensor in RIDGE_TITLES
    ]
    low, high = float(np.min(ends)), float(np.max(ends))
    return (low - 1, high + 1) if low == high else (low, high)


def draw_steps(axis: Axes, groups: Sequence[Sequence[Step]]) -> None:
    """Write each step as two lines: name and formula, then the numbers; a rule between groups."""
    axis.set_axis_off()
    figure = axis.figure
    width = axis.get_position().width * figure.bbox.width / figure.dpi
    steps = [step for group in groups for step in group]
    axis.set(xlim=(0, width), ylim=(2 * len(steps), 0))
    column = 0.15 + max(text_width(step.name, NORMAL, bold=True) for step in steps)
    looks = {"va": "top", "size": NORMAL}
    for row, step in enumerate(steps):
        top = 2 * row + 0.15
        axis.text(0, top, step.name, weight="bold", color=CHOSEN, **looks)
        axis.text(column, top, step.formula, color=REFERENCE, **looks)
        numbers = "\n".join(wrap(step.numbers, width - column, NORMAL))
        axis.text(column, top + 0.92, numbers, gid=f"numbers {step.name}", **looks)
        if row and any(group and step is group[0] for group in groups):
            axis.axhline(2 * row, color=LINE, linewidth=0.8)


def draw_updates(axis: Axes, explanation: Explanation, statistic: Literal["mean", "var"]) -> None:
    """Draw, per channel, the batch's distance from the running statistic, and its movement."""
    name = {"mean": "running mean", "var": "running variance"}[statistic]
    axis.set(title=f"Change of the {name}", xlabel="difference from before the batch")
    shown = shown_channels(explanation.x.shape[1], explanation.chosen, RIDGES)
    name_rows(axis, [str(index) for index in shown])
    axis.tick_params(axis="y", length=3.5)
    axis.get_yticklabels()[shown.index(explanation.chosen)].set(color=CHOSEN, weight="bold")
    plain_ticks(axis, "x", 4)
    if statistic == "mean":
        axis.set_ylabel("channel")
    before, after = explanation.running_before, explanation.running_after
    if before is None or after is None:
        say_in(axis, "no running\nstatistics")
        return
    batch = explanation.mean if statistic == "mean" else explanation.unbiased_var
    old = getattr(before, statistic)
    rows = np.arange(len(shown))
    axis.axvline(0, color=REFERENCE, linewidth=1)
    axis.hlines(rows, 0, (batch - old)[shown], color=LINE, linewidth=1.2, zorder=1)
    for label, values, marker, colour in (
        ("this batch", batch, "D", BATCH_COLOUR),
        ("after the batch", getattr(after, statistic), "o", CHOSEN),
    ):
        axis.plot((values - old)[shown], rows, linestyle="", marker=marker, markersize=4.5,
                  color=colour, label=label, markeredgewidth=0,
                  gid=f"{statistic} {label}")  # fmt: skip
    if statistic == "mean":
        legend_below(axis, (0, -0.2), 2)


def draw_modes(axis: Axes, explanation: Explanation) -> None:
    """Draw train over eval output of the same values: a straight line for each batch or pair."""
    channel = explanation.channel(explanation.chosen)
    axis.plot(
        *_ends(channel.eval_output, channel.output), color=CHOSEN, linewidth=2.2, zorder=3,
        label=f"all {len(channel.x)} images as one batch", gid="modes batch",
    )  # fmt: skip
    pairs = range(0, min(2 * PAIRS, len(channel.x) - 1), 2) if len(channel.x) > 2 else ()
    for first in pairs:
        pair = slice(first, first + 2)
        x = channel.x[pair]
        output = channel.weight * (x - x.mean()) / np.sqrt(x.var() + channel.eps) + channel.bias
        axis.plot(
            *_ends(channel.eval_output[pair], output), color=BATCH_COLOUR, linewidth=1, alpha=0.7,
            zorder=2, label="" if first else "two images as one batch", gid=f"modes pair {first}",
        )  # fmt: skip
    limits = axis.get_xlim(), axis.get_ylim()
    both = min(low for low, _ in limits), max(high for _, high in limits)
    axis.plot(both, both, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=4,
              gid="equal", label="no difference")  # fmt: skip
    plain_ticks(axis, "x", 4)
    plain_ticks(axis, "y")
    axis.set(
        title="Both modes' output of the same\nvalues: a line per batch", xlim=both, ylim=both,
        xlabel="output in eval mode", ylabel="output in train mode",
    )  # fmt: skip
    legend_below(axis, (-0.12, -0.28), 3)


def plain_ticks(axis_of: Axes, which: Side, most: int = 5) -> None:
    """Set few ticks, each with as many digits as distinguish it from the next."""
    axis = getattr(axis_of, f"{which}axis")
    axis.set_major_locator(MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: number(value, _digits(axis.get_majorticklocs())))
    )


def _digits(ticks: np.ndarray) -> int:
    """Significant digits that tell the largest tick from its neighbour, half steps included."""
    step, largest = np.diff(ticks[:2]).item() if len(ticks) > 1 else 0.0, np.abs(ticks).max()
    return 3 if step <= 0 else max(3, int(np.ceil(np.log10(largest / step))) + 1)


def _ends(x: np.ndarray, y: np.ndarray) -> tuple[list[float], list[float]]:
    """The two ends of a line through values that lie on one."""
    ends = [int(x.argmin()), int(x.argmax())]
    return x.ravel()[ends].tolist(), y.ravel()[ends].tolist()


def draw_batch_means(axis: Axes, explanation: Explanation) -> None:
    """Draw what would be subtracted in smaller batches, or in batches of one class."""
    channel = explanation.channel(explanation.chosen)
    groups = group_means(channel.x.mean(axis=(1, 2)), explanation.labels)
    for column, (name, means) in enumerate(groups.items()):
        spread = np.linspace(-0.28, 0.28, len(means)) if len(means) > 1 else np.zeros(1)
        axis.plot(
            column + spread, means, linestyle="", marker="o", markersize=3.5, markeredgewidth=0,
            alpha=0.65, color=BATCH_COLOUR, gid=f"means {name}",
        )  # fmt: skip
    if channel.running_before is not None:
        axis.axhline(channel.running_before[0], color=CHOSEN, linewidth=1.4, zorder=1.5,
                     gid="running mean")  # fmt: skip
    axis.set_xticks(range(len(groups)), list(groups))
    axis.grid(visible=False, axis="x")
    plain_ticks(axis, "y")
    line = " (line: running mean)" if channel.running_before is not None else ""
    axis.set(
        title=f"What is subtracted in smaller\nbatches{line}", xlim=(-0.6, len(groups) - 0.4),
        xlabel="images in a batch", ylabel=f"mean of channel {channel.index}",
    )  # fmt: skip


def group_means(per_image: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return {images in a batch: means}: the batch itself, cut into smaller ones, by class."""
    groups = {
        str(size): per_image[: len(per_image) // size * size].reshape(-1, size).mean(axis=1)
        for size in GROUP_SIZES
        if size < len(per_image)
    }
    groups[str(len(per_image))] = per_image.mean(keepdims=True)
    by_class = [per_image[labels == label].mean() for label in np.unique(labels)]
    return groups | {"one\nclass": np.array(by_class)}
