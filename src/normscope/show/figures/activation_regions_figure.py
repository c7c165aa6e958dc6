"""activation_regions.png: how much of each layer's output lies where the activation has a slope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normscope.judge.activation_regions import NAMED_REGIONS, SHARE, active_words, interval_words
from normscope.judge.layer_measures import Regions, measure_regions
from normscope.judge.timeline import Timeline
from normscope.records.recording import Recording
from normscope.show.figures.page import Frame, Row, lay_out, text_width
from normscope.show.figures.provenance import recorded
from normscope.show.figures.style import (
    REFERENCE,
    SMALL,
    NormStyle,
    house_style,
    label_of,
    legend_line,
    name_rows,
    norm_styles,
    save,
    say_in,
)

_QUANTITIES = ("named", "active", "mean_derivative")


@dataclass(frozen=True)
class _Measured:
    """Every recording's regions of every layer in one epoch: [recordings of the norm][layer]."""

    norm: str
    last: bool  # epoch, else the first
    regions: Sequence[Mapping[str, Regions]]

    def values(self, quantity: str, layers: Sequence[str]) -> np.ndarray:
        """Return the quantity, float64 [recordings, layers]; NaN where it is not defined."""
        rows = [[getattr(of[layer], quantity) for layer in layers] for of in self.regions]
        return np.array(rows, dtype=np.float64)  # None becomes NaN


@house_style()
def draw(
    recordings: Mapping[str, Sequence[Recording]],
    layers: Sequence[str],
    path: Path,
    *,
    origin: str = "",
) -> Figure:
    """Draw three measures of where each layer's output lies for its activation, and write them.

    Recordings are {norm: one per seed}; `origin` says in the footer what they are of.

    Raises:
        InputError: for a layer that no activation follows.
    """
    first = next(iter(recordings.values()))[0]
    epochs = [1, len(first.epochs)] if len(first.epochs) > 1 else [1]
    measured = [
        _Measured(
            norm, epoch == epochs[-1], [_measure_all(each, layers, epoch) for each in of_norm]
        )
        for norm, of_norm in recordings.items()
        for epoch in epochs
    ]
    names = [f"{layer} (+)" if _has_addition(first, layer) else layer for layer in layers]
    activation = str(first.layers[layers[0]].activation)
    styles = norm_styles(recordings)
    seeds = max(map(len, recordings.values()))
    frame = Frame(
        f"Where the input of {activation} lies, layer by layer",
        origin or recorded(first),
        subtitle=_subtitle(first, layers),
        legends=(_legend(styles, epochs, seeds),),
    )
    left = 0.4 + max(text_width(name, SMALL) for name in names)
    rows, width = [Row(0.25 + 0.3 * len(layers), above=0.42, below=0.5)], left + 3 * 2.6 + 0.6
    figure, axes = lay_out(rows, len(_QUANTITIES), frame, width=width, left=left, gap=0.3)
    for axis, quantity in zip(axes[0], _QUANTITIES, strict=True):
        _draw_quantity(axis, quantity, measured, layers, styles)
        axis.set_title(_heading(quantity, activation), linespacing=1.3)
        name_rows(axis, names)
        axis.tick_params(labelleft=axis is axes[0][0])
        axis.grid(visible=True, axis="y")
    return save(figure, path)


def _measure_all(recording: Recording, layers: Sequence[str], epoch: int) -> dict[str, Regions]:
    timeline = Timeline.of(recording)
    span = timeline.span(min(epoch, timeline.epochs))  # a run that diverged ends early
    return {layer: measure_regions(recording, layer, *span) for layer in layers}


def _has_addition(recording: Recording, layer: str) -> bool:
    return "addition" in recording.layers[layer].via


def _draw_quantity(
    axis: Axes,
    quantity: str,
    measured: Sequence[_Measured],
    layers: Sequence[str],
    styles: Mapping[str, NormStyle],
) -> None:
    """A row per layer: seeds as small marks, their mean as a large one; the first epoch hollow."""
    values = [one.values(quantity, layers) for one in measured]
    if any(np.isnan(each).all() for each in values):
        say_in(axis, "no region is named\nfor this activation")
        return
    norms = list(styles)
    for one, each in zip(measured, values, strict=True):
        index = norms.index(one.norm)
        y = np.arange(len(layers)) + 0.11 * (2 * index - len(norms) + 1)
        _draw_marks(axis, one, each, y, styles[one.norm])
    if quantity == "mean_derivative":
        most = float(np.nanmax(np.concatenate(values)))
        axis.set(xlabel="mean slope", xlim=(0, 1.08 * most or 1.0))
    else:
        shares = np.linspace(0, 1, 6)
        axis.set_xticks(shares, [f"{100 * share:.0f}%" for share in shares])
        axis.set(xlabel="values", xlim=(0, 1.02))


def _draw_marks(
    axis: Axes, one: _Measured, values: np.ndarray, y: np.ndarray, style: NormStyle
) -> None:
    means = values.mean(0)
    axis.plot(
        means, y, linestyle="none", marker=style.marker, markersize=6 if one.last else 5,
        markerfacecolor=style.colour if one.last else "white", markeredgecolor=style.colour,
        markeredgewidth=1, zorder=4 if one.last else 3,
        gid=f"{one.norm} {'last' if one.last else 'first'}",
    )  # fmt: skip
    if one.last:
        axis.hlines(y, 0, means, color=style.colour, linewidth=1.2, alpha=0.45, zorder=2)
    if len(values) > 1:
        axis.plot(values, np.tile(y, (len(values), 1)), linestyle="none", marker="|", markersize=6,
                  color=style.colour, alpha=0.7, zorder=5)  # fmt: skip


def _heading(quantity: str, activation: str) -> str:
    if quantity == "named":
        region = NAMED_REGIONS.get(activation)
        return f"Outputs in the range\n{interval_words(*region)}" if region else "\n"
    if quantity == "active":
        where = f"above {SHARE:.0%} of the largest: {active_words(activation)}"
        return f"Outputs in the active region, with a slope\n{where}"
    return "Mean slope: the share of a\ngradient that passes"


def _subtitle(first: Recording, layers: Sequence[str]) -> str:
    text = "Training batches, all values and channels of a layer together."
    if any(_has_addition(first, layer) for layer in layers):
        text += (
            " (+): a residual addition stands between this layer and the activation; the numbers "
            "are of the layer's own output."
        )
    return text


def _legend(styles: Mapping[str, NormStyle], epochs: Sequence[int], seeds: int) -> list[Artist]:
    handles: list[Artist] = [
        legend_line(color=style.colour, marker=style.marker, linewidth=1.2, label=label_of(norm))
        for norm, style in styles.items()
    ]
    dot = {"linestyle": "none", "marker": "o", "markeredgecolor": REFERENCE}
    if len(epochs) > 1:
        handles += [
            legend_line(**dot, markerfacecolor="white", label="epoch 1"),
            legend_line(**dot, markerfacecolor=REFERENCE, label=f"epoch {epochs[-1]}"),
        ]
    if seeds > 1:
        looks = {"linestyle": "none", "marker": "|", "color": REFERENCE}
        handles.append(legend_line(**looks, label="one seed; larger: the mean"))
    return handles
