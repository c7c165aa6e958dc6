"""The tensor as piles of its channel maps: one pile per channel, its images behind one another."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import FancyArrowPatch, Rectangle

from normscope.records.explanation import Explanation
from normscope.show.arithmetic import number, shown_channels
from normscope.show.figures.style import INK, NORMAL, REFERENCE, SMALL
from normscope.show.palette import HUES, colour_of

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

CHOSEN = colour_of("remembered")
MAPS = LinearSegmentedColormap.from_list("maps", [HUES[0], "white", HUES[1]])
"""Below 0, 0 and above 0, as on the page."""


def draw(axis: Axes, explanation: Explanation) -> None:
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
    axis.set_xlim(0, width)  # imshow has moved the limits
    axis.set_ylim(0, HEIGHT)


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
