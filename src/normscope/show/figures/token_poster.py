"""explanation.png of a layer that takes every token by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normscope.judge.timeline import evenly_spread
from normscope.records.token_explanation import CHANGES, TokenExplanation
from normscope.show import token_arithmetic as words
from normscope.show.arithmetic import number
from normscope.show.figures.explanation_panels import (
    BATCH_COLOUR,
    CHOSEN,
    OTHERS,
    draw_steps,
    plain_ticks,
)
from normscope.show.figures.explanation_poster import MAPS, WIDTH, split
from normscope.show.figures.page import MARGIN, Frame, Row, lay_out
from normscope.show.figures.provenance import run_footer
from normscope.show.figures.style import INK, REFERENCE, house_style, legend_below, save

TOKENS = 24
"""Tokens of the first sample that are shown at most."""

DOTS = 2000


@house_style()
def draw(explanation: TokenExplanation, path: Path) -> Figure:
    """Draw an explanation and write the figure: the first sample before and after the layer, the
    arithmetic of the chosen token, what becomes of every token's mean and scale, and what the
    output does when tokens are multiplied or moved.
    """
    title = f"{words.TITLES[explanation.kind]}, worked through: {explanation.layer}"
    subtitle = f"{words.describe_layer(explanation)} {words.modes_text(explanation)}"
    frame = Frame(title, run_footer(explanation.meta), subtitle=subtitle)
    groups = words.token_steps(explanation)
    rows = [
        Row(2.6, f"1  {words.pooled_text(explanation)}", above=0.3, below=0.45),
        Row(0.37 * sum(map(len, groups)) + 0.3, _heading(explanation), above=0.3, below=0.6),
        Row(2.3, f"3  {' '.join(words.losses(explanation))}", above=0.42, below=0.75),
    ]
    figure, axes = lay_out(rows, 1, frame, width=WIDTH, left=MARGIN)
    maps, arithmetic, changed = (row[0] for row in axes)
    shown = _sample(explanation)
    tensors = {
        "x": shown,
        words.inner_word(explanation): explanation.normalized(shown),
        "output": explanation.output(shown),
    }
    for axis, (name, values) in zip(split(maps, (1, 1, 1), 0.7, 0.6), tensors.items(), strict=True):
        _draw_map(axis, explanation, name, values)
    text, gains = split(arithmetic, (2, 1), 0.0, 0.6)
    draw_steps(text, groups)
    _draw_gains(gains, explanation)
    moments, *invariances = split(changed, (1, 1, 1), 0.7, 0.9)
    _draw_moments(moments, explanation)
    for axis, change in zip(invariances, CHANGES, strict=True):
        _draw_change(axis, explanation, change)
    return save(figure, path)


def _heading(explanation: TokenExplanation) -> str:
    place = ", ".join(map(str, explanation.token))
    return f"2  The numbers of token [{place}], line by line, and what every channel is scaled by"


def _sample(explanation: TokenExplanation) -> np.ndarray:
    """The shown tokens of the first sample (and its head, where there are several): [T, C]."""
    return explanation.x[explanation.token[:-1]][_indices(explanation)]


def _indices(explanation: TokenExplanation) -> list[int]:
    return evenly_spread(explanation.x.shape[-2], TOKENS)


def _draw_map(axis: Axes, explanation: TokenExplanation, name: str, values: np.ndarray) -> None:
    """Tokens by channels in colour, centred on 0."""
    end = float(np.quantile(np.abs(values), 0.995)) or 1.0
    axis.imshow(values, aspect="auto", cmap=MAPS, vmin=-end, vmax=end, interpolation="nearest",
                gid=name)  # fmt: skip
    colours = f"{name} (blue −{number(end, 2)}, orange {number(end, 2)})"
    axis.set(title=colours, xlabel="channel")
    axis.grid(visible=False)
    if name == "x":
        axis.set_ylabel("token")
    names = [explanation.names[index] for index in _indices(explanation)]
    axis.set_yticks(range(len(names)), [name.replace("$", "\\$") for name in names], size=7)


def _draw_gains(axis: Axes, explanation: TokenExplanation) -> None:
    """Gain and bias of every channel."""
    for vector, colour, name, plain in (
        (explanation.gain, CHOSEN, "gain", 1.0),
        (explanation.bias, BATCH_COLOUR, "bias", 0.0),
    ):
        axis.axhline(plain, color=REFERENCE, linewidth=0.7)
        if vector is not None:
            axis.plot(vector, ".", color=colour, label=name, markersize=5, gid=name)
    axis.set(title="Learned, per channel", xlabel="channel")
    plain_ticks(axis, "y")
    if axis.get_legend_handles_labels()[0]:
        legend_below(axis, (0, -0.14), 2)


def _draw_moments(axis: Axes, explanation: TokenExplanation) -> None:
    """Every token's mean and root mean square, before and after."""
    x = explanation.x.reshape(-1, explanation.width).astype(np.float64)
    for values, colour, name, size in (
        (x, OTHERS, "x", 3),
        (explanation.normalized(x), CHOSEN, words.inner_word(explanation), 5),
    ):
        chosen = values[:: max(1, len(values) // DOTS)]
        axis.plot(chosen.mean(-1), np.sqrt(np.square(chosen).mean(-1)), ".", color=colour,
                  markersize=size, alpha=0.6, label=name, gid=f"moments {name}")  # fmt: skip
    title = "Every token: its mean and its scale"
    axis.set(title=title, xlabel="mean", ylabel="root mean square")
    plain_ticks(axis, "x", 4)
    plain_ticks(axis, "y")
    legend_below(axis, (0, -0.2), 2)


def _draw_change(axis: Axes, explanation: TokenExplanation, change: str) -> None:
    """Outputs before gain and bias after a change of x over those before it."""
    x = explanation.x.astype(np.float64)
    before, after = explanation.normalized(x), explanation.normalized(CHANGES[change](x))
    step = max(1, before.size // DOTS)
    axis.plot(before.ravel()[::step], after.ravel()[::step], ".", color=CHOSEN, markersize=3,
              alpha=0.6, gid=f"change {change}")  # fmt: skip
    ends = float(min(before.min(), after.min())), float(max(before.max(), after.max()))
    axis.plot(ends, ends, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    moved = f"{change} in place of x: the output\nmoves by up to "
    moved += number(explanation.moved(change), 2)
    axis.set(title=moved, xlabel=f"{words.inner_word(explanation)}, of x", ylabel=f"of {change}")
    plain_ticks(axis, "x", 4)
    plain_ticks(axis, "y")
