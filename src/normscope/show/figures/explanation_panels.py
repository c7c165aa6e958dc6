"""The panels of explanation.png that show one layer on one batch: distributions, arithmetic, memory and modes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from normscope.records.explanation import Channel, Explanation
from normscope.show.arithmetic import Step, number, shown_channels
from normscope.show.figures.explanation_piles import CHOSEN
from normscope.show.figures.page import text_width, wrap
from normscope.show.figures.style import NORMAL, REFERENCE, SMALL

RIDGES = 12
"""Channels whose distributions are shown at most."""

BINS = 64
TAIL = 0.0005
"""Share of values at either end that may lie outside a panel."""

BATCH_COLOUR = "#D55E00"
"""Colour of what the batch has, beside what the layer remembers."""

PAIRS = 8
GROUP_SIZES = (1, 2, 8)

Side = Literal["x", "y"]
Tensor = Literal["x", "normalized", "output"]
RIDGE_TITLES: dict[Tensor, str] = {
    "x": "x: every channel its own mean and spread",
    "normalized": "normalized: mean 0, variance 1 in each",
    "output": "output: mean is bias, spread is |weight|",
}


def draw_ridges(axis: Axes, explanation: Explanation, tensor: Tensor) -> None:
    """The distribution of every shown channel's values in one tensor, the chosen one in colour, its
    mean marked.
    """
    shown = shown_channels(explanation.x.shape[1], explanation.chosen, RIDGES)
    values = {index: _values(explanation.channel(index), tensor) for index in shown}
    low, high = np.quantile(np.concatenate(list(values.values())), [TAIL, 1 - TAIL])
    if low == high:
        low, high = low - 1, high + 1
    axis.set_xlim(low, high)
    axis.set_ylim(len(shown) - 0.8, -1.15)
    axis.set_yticks(range(len(shown)), [str(index) for index in shown])
    axis.grid(visible=False, axis="y")
    axis.axvline(0, color=REFERENCE, linewidth=0.7, zorder=0.5)
    edges = np.linspace(low, high, BINS + 1)
    for place, (index, own) in enumerate(values.items()):
        counts, _ = np.histogram(own, bins=edges)
        height = place - 1.0 * counts / max(counts.max(), 1)
        colour = CHOSEN if index == explanation.chosen else "#9a9a9a"
        axis.stairs(
            height, edges, baseline=place, fill=True, facecolor=colour, edgecolor="white", linewidth=0.5,
            alpha=0.85, zorder=2 + place, gid=f"{tensor} {index}",
        )  # fmt: skip
        axis.plot([own.mean()] * 2, [place, place - 0.35], color="black", linewidth=1.2, zorder=3 + place,
                  gid=f"{tensor} mean {index}")  # fmt: skip
    plain_ticks(axis, "x", 7)
    axis.set_title(RIDGE_TITLES[tensor], loc="left")
    axis.set_xlabel("value")
    if tensor == "x":
        axis.set_ylabel("channel")


def _values(channel: Channel, tensor: Tensor) -> np.ndarray:
    return getattr(channel, tensor).ravel()


def draw_steps(axis: Axes, groups: Sequence[Sequence[Step]]) -> None:
    """Every step as two lines: its name and formula, and beneath it the numbers. A rule parts the
    groups.
    """
    axis.set_axis_off()
    figure = axis.figure
    width = axis.get_position().width * figure.bbox.width / figure.dpi
    steps = [step for group in groups for step in group]
    axis.set_xlim(0, width)
    axis.set_ylim(2 * len(steps), 0)
    column = 0.15 + max(text_width(step.name, NORMAL, bold=True) for step in steps)
    for place, step in enumerate(steps):
        top = 2 * place + 0.15
        axis.text(0, top, step.name, weight="bold", color=CHOSEN, va="top", size=NORMAL)
        axis.text(column, top, step.formula, color=REFERENCE, va="top", size=NORMAL)
        numbers = wrap(step.numbers, width - column, NORMAL)
        axis.text(
            column,
            top + 0.92,
            "\n".join(numbers),
            va="top",
            size=NORMAL,
            gid=f"numbers {step.name}",
        )
        if place and any(group and step is group[0] for group in groups):
            axis.axhline(2 * place, color="#cccccc", linewidth=0.8)


def draw_updates(axis: Axes, explanation: Explanation, statistic: Literal["mean", "var"]) -> None:
    """Per channel, how far the batch is from what was remembered, and how far the memory has moved
    towards it.
    """
    name = {"mean": "running mean", "var": "running variance"}[statistic]
    axis.set_title(f"Change of the {name}", loc="left")
    shown = shown_channels(explanation.x.shape[1], explanation.chosen, RIDGES)
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.set_yticks(range(len(shown)), [str(index) for index in shown])
    axis.get_yticklabels()[shown.index(explanation.chosen)].set(color=CHOSEN, weight="bold")
    axis.grid(visible=False, axis="y")
    plain_ticks(axis, "x", 4)
    axis.set_xlabel("difference from before the batch")
    if statistic == "mean":
        axis.set_ylabel("channel")
    before, after = explanation.running_before, explanation.running_after
    if before is None or after is None:
        axis.text(
            0.5,
            0.5,
            "nothing is\nremembered",
            transform=axis.transAxes,
            ha="center",
            color=REFERENCE,
        )
        return
    batch = explanation.mean if statistic == "mean" else explanation.unbiased_var
    old = getattr(before, statistic)
    places = np.arange(len(shown))
    axis.axvline(0, color=REFERENCE, linewidth=1)
    axis.hlines(places, 0, (batch - old)[shown], color="#c8c8c8", linewidth=1.2, zorder=1)
    for label, values, marker, colour in (
        ("this batch", batch, "D", BATCH_COLOUR), ("remembered after it", getattr(after, statistic), "o", CHOSEN),
    ):  # fmt: skip
        axis.plot((values - old)[shown], places, linestyle="", marker=marker, markersize=4.5, color=colour, label=label,
                  markeredgewidth=0, gid=f"{statistic} {label}")  # fmt: skip
    if statistic == "mean":
        axis.legend(
            loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2, frameon=False, fontsize=SMALL,
            columnspacing=1.0, handletextpad=0.2, borderaxespad=0,
        )  # fmt: skip


def draw_modes(axis: Axes, explanation: Explanation) -> None:
    """Train output against eval output of the same values: a straight line for each batch, another
    for every pair.
    """
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
            *_ends(channel.eval_output[pair], output), color=BATCH_COLOUR, linewidth=1, alpha=0.7, zorder=2,
            label="two images as one batch" if first == 0 else "", gid=f"modes pair {first}",
        )  # fmt: skip
    low, high = (
        min(axis.get_xlim()[0], axis.get_ylim()[0]),
        max(axis.get_xlim()[1], axis.get_ylim()[1]),
    )
    axis.plot([low, high], [low, high], color="black", linewidth=1, linestyle=(0, (4, 3)), zorder=4, gid="equal",
              label="no difference")  # fmt: skip
    axis.set_xlim(low, high)
    axis.set_ylim(low, high)
    plain_ticks(axis, "x", 4)
    plain_ticks(axis, "y")
    axis.set_title("Both modes' output of the same\nvalues: a line per batch", loc="left")
    axis.set_xlabel("output in eval mode")
    axis.set_ylabel("output in train mode")
    axis.legend(
        loc="upper left", bbox_to_anchor=(-0.12, -0.28), ncols=3, frameon=False, fontsize=SMALL, columnspacing=1.2,
        handletextpad=0.4, borderaxespad=0,
    )  # fmt: skip


def plain_ticks(axis_of: Axes, which: Side, most: int = 5) -> None:
    """Few ticks, each with its whole number in as many digits as tell it from the next."""
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
    """Where a line through values on a line begins and ends."""
    ends = [int(x.argmin()), int(x.argmax())]
    return x.ravel()[ends].tolist(), y.ravel()[ends].tolist()


def draw_batch_means(axis: Axes, explanation: Explanation) -> None:
    """The mean that would be subtracted if the batch were cut into smaller ones, or into one per
    class.
    """
    channel = explanation.channel(explanation.chosen)
    per_image = channel.x.mean(axis=(1, 2))
    groups = group_means(per_image, explanation.labels)
    for place, means in enumerate(groups.values()):
        spread = np.linspace(-0.28, 0.28, len(means)) if len(means) > 1 else np.zeros(1)
        axis.plot(
            place + spread, means, linestyle="", marker="o", markersize=3.5, markeredgewidth=0, alpha=0.65,
            color=BATCH_COLOUR, gid=f"means {list(groups)[place]}",
        )  # fmt: skip
    if channel.running_before is not None:
        axis.axhline(
            channel.running_before[0], color=CHOSEN, linewidth=1.4, zorder=1.5, gid="running mean"
        )
    axis.set_xticks(range(len(groups)), list(groups))
    axis.grid(visible=False, axis="x")
    axis.set_xlim(-0.6, len(groups) - 0.4)
    plain_ticks(axis, "y")
    line = " (line: running mean)" if channel.running_before is not None else ""
    axis.set_title(f"What is subtracted in smaller\nbatches{line}", loc="left")
    axis.set_xlabel("images in a batch")
    axis.set_ylabel(f"mean of channel {channel.index}")


def group_means(per_image: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """{images in a batch: means}: the batch as it is, cut into smaller whole ones, and put together
    class by class.
    """
    groups = {
        str(size): per_image[: len(per_image) // size * size].reshape(-1, size).mean(axis=1)
        for size in GROUP_SIZES
        if size < len(per_image)
    }
    groups[str(len(per_image))] = per_image.mean(keepdims=True)
    groups["one\nclass"] = np.array(
        [per_image[labels == label].mean() for label in np.unique(labels)]
    )
    return groups
