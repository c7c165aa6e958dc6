"""activation_regions.png: how much of each layer's output lies where the following activation passes gradients."""

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
    norm_styles,
    save,
)

_QUANTITIES = ("named", "active", "mean_derivative")


@dataclass(frozen=True)
class _Measured:
    """Every recording's regions of every layer in one epoch: [recordings of the norm][layer]."""

    norm: str
    last: bool  # epoch, else the first
    regions: Sequence[Mapping[str, Regions]]


@house_style()
def draw(
    recordings: Mapping[str, Sequence[Recording]],
    layers: Sequence[str],
    path: Path,
    *,
    origin: str = "",
) -> Figure:
    """Draw, for each layer before an activation, three measures of where its output lies, and write
    them.

    Args:
        recordings: {norm: recordings, one per seed}.
        layers: those that an activation follows, in the order of the network.
        path: where to write.
        origin: what the recordings are of, for the footer.

    Raises:
        InputError: for a layer that no activation follows.
        StorageError: if the file cannot be written.
    """
    first = next(iter(recordings.values()))[0]
    epochs = [1, len(first.epochs)] if len(first.epochs) > 1 else [1]
    measured = [
        _Measured(
            norm, epoch == epochs[-1], [_measure_all(recording, layers, epoch) for recording in own]
        )
        for norm, own in recordings.items()
        for epoch in epochs
    ]
    names = [_name(first, layer) for layer in layers]
    activation = str(first.layers[layers[0]].activation)
    styles = norm_styles(recordings)
    frame = Frame(
        f"Where the input of {activation} lies, layer by layer",
        origin or recorded(first),
        subtitle=_subtitle(first, layers),
        legends=(_legend(styles, epochs, seeds=max(len(own) for own in recordings.values())),),
    )
    left = 0.4 + max(text_width(name, SMALL) for name in names)
    rows = [Row(0.25 + 0.3 * len(layers), above=0.42, below=0.5)]
    figure, axes = lay_out(
        rows, len(_QUANTITIES), frame, width=left + 3 * 2.6 + 0.6, left=left, gap=0.3
    )
    for axis, quantity in zip(axes[0], _QUANTITIES, strict=True):
        _draw_quantity(axis, quantity, measured, layers, styles)
        axis.set_title(_heading(quantity, activation), loc="left", linespacing=1.3)
        axis.set_yticks(range(len(layers)), names if axis is axes[0][0] else [])
        axis.set_ylim(len(layers) - 0.4, -0.6)
        axis.tick_params(axis="y", length=0)
    save(figure, path)
    return figure


def _measure_all(recording: Recording, layers: Sequence[str], epoch: int) -> dict[str, Regions]:
    timeline = Timeline.of(recording)
    span = timeline.span(min(epoch, timeline.epochs))  # a run that diverged ends early
    return {layer: measure_regions(recording, layer, *span) for layer in layers}


def _name(recording: Recording, layer: str) -> str:
    via = [step for step in recording.layers[layer].via if step]
    return f"{layer} (+)" if "addition" in via else layer


def _draw_quantity(
    axis: Axes,
    quantity: str,
    measured: Sequence[_Measured],
    layers: Sequence[str],
    styles: Mapping[str, NormStyle],
) -> None:
    """A row per layer: each norm's seeds as small marks, their mean as a large one; the first epoch
    hollow.
    """
    norms = list(styles)
    highest = 0.0
    for one in measured:
        style = styles[one.norm]
        offset = 0.11 * (2 * norms.index(one.norm) - len(norms) + 1)
        values = np.array(
            [
                [_number(getattr(regions[layer], quantity)) for layer in layers]
                for regions in one.regions
            ]
        )
        if np.isnan(values).all():
            axis.text(0.5, 0.5, "no region is named\nfor this activation", transform=axis.transAxes, ha="center",
                      va="center", color=REFERENCE, gid="none")  # fmt: skip
            return
        places = np.arange(len(layers)) + offset
        means = values.mean(0)
        highest = max(highest, float(np.nanmax(values)))
        axis.plot(
            means, places, linestyle="none", marker=style.marker, markersize=6 if one.last else 5,
            markerfacecolor=style.colour if one.last else "white", markeredgecolor=style.colour, markeredgewidth=1,
            zorder=4 if one.last else 3, gid=f"{one.norm} {'last' if one.last else 'first'}",
        )  # fmt: skip
        if one.last:
            axis.hlines(places, 0, means, color=style.colour, linewidth=1.2, alpha=0.45, zorder=2)
        if len(values) > 1:
            axis.plot(values, np.tile(places, (len(values), 1)), linestyle="none", marker="|", markersize=6,
                      color=style.colour, alpha=0.7, zorder=5)  # fmt: skip
    if quantity == "mean_derivative":
        axis.set_xlim(0, 1.08 * highest or 1.0)
        axis.set_xlabel("mean derivative")
    else:
        axis.set_xlim(0, 1.02)
        axis.set_xticks(
            np.linspace(0, 1, 6), [f"{100 * share:.0f}%" for share in np.linspace(0, 1, 6)]
        )
        axis.set_xlabel("values")


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _heading(quantity: str, activation: str) -> str:
    if quantity == "named":
        region = NAMED_REGIONS.get(activation)
        if region is None:
            return "In the blog post no region\nis named"
        return f"Outputs from {interval_words(*region)},\nthe region of the blog post"
    if quantity == "active":
        where = f"above {SHARE:.0%} of the largest: {active_words(activation)}"
        return f"Outputs in the active region, with a slope\n{where}"
    return "Mean derivative: the share of a\ngradient that passes"


def _subtitle(first: Recording, layers: Sequence[str]) -> str:
    sentences = ["Training batches, all values and channels of a layer together."]
    if any("addition" in first.layers[layer].via for layer in layers):
        sentences.append(
            "(+): a residual addition stands between this layer and the activation; the numbers are of the layer's "
            "own output."
        )
    return " ".join(sentences)


def _legend(styles: Mapping[str, NormStyle], epochs: Sequence[int], seeds: int) -> list[Artist]:
    handles: list[Artist] = [
        legend_line(color=style.colour, marker=style.marker, linewidth=1.2, label=label_of(norm))
        for norm, style in styles.items()
    ]
    if len(epochs) > 1:
        handles.append(
            legend_line(linestyle="none", marker="o", markerfacecolor="white", markeredgecolor=REFERENCE,
                   label="epoch 1")
        )  # fmt: skip
        handles.append(
            legend_line(linestyle="none", marker="o", color=REFERENCE, label=f"epoch {epochs[-1]}")
        )
    if seeds > 1:
        handles.append(
            legend_line(
                linestyle="none", marker="|", color=REFERENCE, label="one seed; larger: the mean"
            )
        )
    return handles
