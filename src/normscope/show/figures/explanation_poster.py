"""explanation.png: one batch normalization layer on one batch, and eval() forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from normscope.records.explanation import ORDERS, Explanation
from normscope.show.arithmetic import (
    batches_text,
    describe_layer,
    number,
    shown_channels,
    step_groups,
)
from normscope.show.figures.explanation_panels import (
    BATCH_COLOUR,
    CHOSEN,
    draw_batch_means,
    draw_modes,
    draw_ridges,
    draw_steps,
    draw_updates,
)
from normscope.show.figures.page import MARGIN, Frame, Row, lay_out
from normscope.show.figures.provenance import run_footer
from normscope.show.figures.style import (
    INK,
    NORMAL,
    REFERENCE,
    SMALL,
    house_style,
    legend_below,
    save,
)
from normscope.show.palette import HUES
from normscope.words import plural

PILES = 8
"""Channels that are shown at most."""

DEEP = 6
"""Images in a pile at most; the batch goes on behind."""

MAP, STEP = 0.92, 0.075  # inches: edge of a map, and how far the next one is behind it
PILE = MAP + (DEEP - 1) * STEP
BEFORE, AFTER = 2.28, 0.1  # inches above the lower edge: the front maps of the two rows of piles
TITLES = BEFORE + PILE + 0.05
HEIGHT = TITLES + 0.5
IMAGES, LEFT = 0.05, 1.85  # where the pile of images stands, and the first channel's

MAPS = LinearSegmentedColormap.from_list("maps", [HUES[0], "white", HUES[1]])
"""Below 0, 0 and above 0, as on the page."""


def draw_piles(axis: Axes, explanation: Explanation) -> None:
    """Draw the input's piles above the normalized ones, on one colour scale each that is centred on
    0.

    The axes span the page; their coordinates are made inches.
    """
    figure = axis.figure
    width = axis.get_position().width * figure.bbox.width / figure.dpi
    axis.set_axis_off()
    channels = shown_channels(explanation.x.shape[1], explanation.chosen, PILES)
    pitch = (width - LEFT - PILE) / (PILES - 1)
    images = {"cmap": "gray_r", "vmin": 0, "vmax": 255}
    _pile(axis, (IMAGES, BEFORE), explanation.images, REFERENCE, "images", **images)
    axis.text(IMAGES, TITLES, "images", color=REFERENCE, size=SMALL)
    limit = _limit(explanation.x)
    for column, index in enumerate(channels):
        _draw_channel(axis, explanation, index, LEFT + column * pitch, limit)
    _name_axes(axis, explanation, LEFT + (len(channels) - 1) * pitch + PILE, len(channels))
    axis.set(xlim=(0, width), ylim=(0, HEIGHT))  # imshow has moved the limits


def _draw_channel(
    axis: Axes, explanation: Explanation, index: int, left: float, limit: float
) -> None:
    """One channel's two piles, its mean and variance, and an arrow from one to the other."""
    channel, chosen = explanation.channel(index), index == explanation.chosen
    colour, weight = (CHOSEN, "bold") if chosen else (REFERENCE, "normal")
    for bottom, maps, end, name in (
        (BEFORE, channel.x, limit, "x"),
        (AFTER, channel.normalized, 3, "normalized"),
    ):
        style = {"cmap": MAPS, "vmin": -end, "vmax": end}
        _pile(axis, (left, bottom), maps, colour, f"{name} {index}", **style)
    looks: dict[str, Any] = {"color": colour, "weight": weight, "size": SMALL}
    axis.text(left, TITLES, f"channel {index}", **looks)
    moments = f"mean {number(channel.mean, 3)}\nvariance {number(channel.var, 3)}"
    axis.text(left, BEFORE - 0.24, moments, va="top", linespacing=1.3, gid=f"moments {index}",
              **looks)  # fmt: skip
    middle = left + PILE - 0.12
    _arrow(axis, (middle, BEFORE - 0.02), (middle, AFTER + PILE + 0.04), colour)


def _pile(
    axis: Axes, corner: tuple[float, float], maps: np.ndarray, colour: str, gid: str, **style: Any
) -> None:
    """The first maps [H, W] behind one another, the first in front, each with a thin frame."""
    for depth, picture in reversed(list(enumerate(maps[:DEEP]))):
        x, y = (start + depth * STEP for start in corner)
        if picture.ndim == 3 and picture.shape[2] == 1:
            picture = picture[..., 0]
        axis.imshow(
            picture, extent=(x, x + MAP, y, y + MAP), aspect="auto", interpolation="nearest",
            zorder=10 - depth, gid=f"{gid} image {depth}", **style,
        )  # fmt: skip
        line = 1.2 if colour == CHOSEN else 0.7
        frame = Rectangle((x, y), MAP, MAP, fill=False, edgecolor=colour, linewidth=line)
        frame.set_zorder(10 - depth)
        axis.add_patch(frame)


def _name_axes(axis: Axes, explanation: Explanation, right: float, shown: int) -> None:
    """The four dimensions of the tensor, at the piles, and which of them are pooled."""
    n, channels, height, width = explanation.x.shape
    top = HEIGHT - 0.12
    axis.text(LEFT, top, "C", weight="bold", va="center")
    _arrow(axis, (LEFT + 0.16, top), (right - 1.7, top), INK)
    axis.text(right, top, f"{shown} of {channels} channels", va="center", ha="right", size=SMALL)
    axis.text(LEFT - 0.08, BEFORE + MAP / 2, "H", weight="bold", ha="right", va="center")
    axis.text(LEFT + MAP / 2, BEFORE - 0.04, "W", weight="bold", ha="center", va="top")
    behind = LEFT + MAP + 0.08, BEFORE - 0.02
    _arrow(axis, behind, (behind[0] + (DEEP - 1) * STEP, behind[1] + (DEEP - 1) * STEP), INK)
    axis.text(behind[0] + 0.15, behind[1] + 0.02, "N", weight="bold", va="center")
    pooled = f"Pooled for one channel:\nN  {n} images\nH  {height} rows\nW  {width} columns"
    looks = {"size": SMALL, "va": "top", "linespacing": 1.3}
    axis.text(IMAGES, BEFORE - 0.24, pooled, **looks)
    axis.text(IMAGES, AFTER + 0.62, "Normalized", weight="bold", va="top")
    axis.text(IMAGES, AFTER + 0.42, "orange: above 0\nblue: below 0", **looks)


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    arrow = FancyArrowPatch(
        start, end, arrowstyle="-|>", mutation_scale=NORMAL, color=colour, linewidth=1, shrinkA=0,
        shrinkB=0,
    )  # fmt: skip
    axis.add_patch(arrow)


def _limit(x: np.ndarray) -> float:
    """End of the colour scale: beyond all but half a percent of the values."""
    return float(np.quantile(np.abs(x), 0.995)) or 1.0


WIDTH = 13.0


@house_style()
def draw(explanation: Explanation, path: Path) -> Figure:
    """Draw an explanation and write the figure.

    From top to bottom: the batch as piles of channel maps before and after the normalization, the
    distributions of every channel, the arithmetic of the chosen channel with its numbers, what
    train and eval mode make of it, and the accuracies with eval() forgotten.
    """
    model = explanation.meta["spec"]["model"]
    frame = Frame(
        f"Batch normalization, worked through: {explanation.layer} of {model}",
        _footer(explanation),
        subtitle=_subtitle(explanation),
    )
    figure, axes = lay_out(_rows(explanation), 1, frame, width=WIDTH, left=MARGIN)
    before, ridges, arithmetic, modes = (row[0] for row in axes)
    draw_piles(before, explanation)
    for axis, tensor in zip(
        split(ridges, (1, 1, 1), 0.47, 0.35), ("x", "normalized", "output"), strict=True
    ):
        draw_ridges(axis, explanation, tensor)
    text, mean, var = split(arithmetic, (6.9, 2.45, 2.45), 0.0, 0.47)
    draw_steps(text, step_groups(explanation))
    draw_updates(mean, explanation, "mean")
    draw_updates(var, explanation, "var")
    outputs, means, during, afterwards = split(modes, (2.6, 2.6, 3.1, 2.2), 0.72, 0.74)
    draw_modes(outputs, explanation)
    draw_batch_means(means, explanation)
    draw_accuracies(during, afterwards, explanation)
    return save(figure, path)


def _rows(explanation: Explanation) -> list[Row]:
    n, channels, height, width = explanation.x.shape
    steps = sum(map(len, step_groups(explanation)))
    headings = (
        f"1  The input x is a tensor [N, C, H, W] = [{n}, {channels}, {height}, {width}]. One "
        f"channel of all images, rows and columns is pooled: {explanation.count:,} values, one "
        "mean, one variance",
        "2  Every channel before, normalized, and scaled by weight and shifted by bias",
        f"3  The numbers of channel {explanation.chosen}, line by line, and its running statistics",
        "4  Train mode, eval mode, and eval() forgotten",
    )
    return [
        Row(HEIGHT, headings[0], above=0.08, below=0.1),
        Row(2.35, headings[1], above=0.3, below=0.45),
        Row(0.31 * steps, headings[2], above=0.3, below=0.8),
        Row(2.3, headings[3], above=0.42, below=0.95),
    ]


def split(axis: Axes, widths: Sequence[float], left: float, gap: float) -> list[Axes]:
    """Axes side by side in place of one, their widths in proportion; lengths in inches."""
    figure = axis.figure
    assert isinstance(figure, Figure)
    box, inch = axis.get_position(), 1 / figure.get_figwidth()
    axis.remove()
    unit = (box.width - inch * (left + gap * (len(widths) - 1))) / sum(widths)
    made, start = [], box.x0 + left * inch
    for width in widths:
        made.append(figure.add_axes((start, box.y0, width * unit, box.height)))
        start += width * unit + gap * inch
    return made


def _subtitle(explanation: Explanation) -> str:
    spec = explanation.meta["spec"]
    return (
        f"{describe_layer(explanation)}. One training batch of {spec['data']} after "
        f"{plural(spec['epochs'], 'epoch')} of training{batches_text(explanation)}."
    )


def _footer(explanation: Explanation) -> str:
    forgotten = explanation.forgotten
    accuracies = (
        f"Accuracies: {forgotten.images:,} test images, {forgotten.during.shape[2]} orders of them "
        "(at batch size 1, where the order plays no part in train mode, one). "
    )
    return run_footer(explanation.meta, accuracies)


LOOKS = {
    "shuffled": {"marker": "o", "markerfacecolor": BATCH_COLOUR, "linestyle": "-"},
    "class-ordered": {"marker": "s", "markerfacecolor": "white", "linestyle": (0, (4, 1.5))},
}
"""Both are normalized by their batches; the line of eval mode is not."""


def draw_accuracies(during: Axes, afterwards: Axes, explanation: Explanation) -> None:
    """Draw accuracy by batch size and order, every pass a point and their mean a line: in train
    mode, and in eval mode afterwards.
    """
    _panel(during, explanation, explanation.forgotten.during, "during")
    _panel(afterwards, explanation, explanation.forgotten.afterwards, "afterwards")
    during.set(title="Test accuracy, eval() forgotten:\ntrain mode", ylabel="accuracy (%)")
    remembers = explanation.running_before is not None
    moved = (
        "the running\nstatistics have moved" if remembers else "there are\nno running statistics"
    )
    afterwards.set(title=f"Then eval(): {moved}")
    afterwards.tick_params(labelleft=False)
    legend_below(during, (-0.05, -0.28), 4)


def _panel(axis: Axes, explanation: Explanation, values: np.ndarray, name: str) -> None:
    forgotten = explanation.forgotten
    sizes = np.arange(len(forgotten.batch_sizes))
    repeats = values.shape[2]
    offsets = 0.05 * np.linspace(-1, 1, repeats) if repeats > 1 else np.zeros(1)
    for k, (order, of_order) in enumerate(zip(ORDERS, 100 * values, strict=True)):
        x = sizes + 0.16 * (k - 0.5)
        style: dict[str, Any] = {"color": BATCH_COLOUR, **LOOKS[order]}
        dots: dict[str, Any] = {**style, "linestyle": ""}
        axis.plot((x[:, None] + offsets).ravel(), of_order.ravel(), markersize=4, alpha=0.6,
                  gid=f"{name} {order} passes", **dots)  # fmt: skip
        finite = [row[np.isfinite(row)] for row in of_order]
        means = [row.mean() if len(row) else np.nan for row in finite]
        axis.plot(x, means, linewidth=1.6, markersize=0, label=order, gid=f"{name} {order} mean",
                  **style)  # fmt: skip
    chance = 100 / max(len(explanation.meta["spec"]["classes"]), 1)
    axis.axhline(100 * forgotten.eval_accuracy, color=CHOSEN, linewidth=1.2,
                 label="eval mode", gid=f"{name} eval mode")  # fmt: skip
    axis.axhline(chance, color=REFERENCE, linewidth=0.8, linestyle=(0, (1, 2)), label="guessing",
                 gid="guessing")  # fmt: skip
    axis.set_xticks(sizes, [str(size) for size in forgotten.batch_sizes])
    axis.set(xlabel="batch size", xlim=(-0.5, len(sizes) - 0.5), ylim=(0, 103))
    axis.grid(visible=False, axis="x")
