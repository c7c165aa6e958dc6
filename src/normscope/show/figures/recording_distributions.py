"""<layer>_distributions.png: each channel's input and output of a layer over one epoch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from normscope.judge.activation_regions import FUNCTIONS, active_region, active_words, inside
from normscope.judge.layer_measures import BINS
from normscope.judge.timeline import Timeline, evenly_spread
from normscope.records.histogram import ChannelHistograms
from normscope.records.recording import Recording
from normscope.records.recording_header import LayerInfo
from normscope.show.figures.page import Frame, Row, lay_out
from normscope.show.figures.provenance import recorded
from normscope.show.figures.style import (
    INK,
    REFERENCE,
    SMALL,
    house_style,
    legend_line,
    norm_styles,
    save,
)
from normscope.show.palette import colour_of

MAX_CHANNELS = 64
"""Of a wider layer, as many channels are shown, evenly spaced."""

PER_BLOCK = 32
"""Channels that stand under one another; more begin a second pair of panels."""

INPUT, OUTPUT = colour_of("input"), norm_styles(["batch"])["batch"].colour
REGION = colour_of("region")

_BINS = 90
_TAIL = 0.002  # of a channel's values beyond the panel, at most, on each side
_OVERLAP = 1.5  # heights of a ridge, in distances of two


@dataclass(frozen=True)
class _Side:
    """One side of the layer: its distributions in the shown epoch and in the first."""

    name: str
    colour: str
    limits: tuple[float, float]  # of the panel: one axis for all sides
    whole: ChannelHistograms  # of the shown epoch, tails and all
    shown: ChannelHistograms
    first: ChannelHistograms | None


@house_style()
def draw(
    recording: Recording, layer: str, path: Path, *, epoch: int | None = None, origin: str = ""
) -> Figure:
    """Draw one layer's input and output as ridgelines, one channel under the other, and write them.

    Those of the last epoch are shown, or of another; the first is drawn as a line beside it.
    `origin` says in the footer what the recording is of.

    Raises:
        InputError: for a layer or epoch that is not there, or a layer without histograms.
    """
    timeline = Timeline.of(recording)
    epoch = epoch or timeline.epochs
    info = recording.layers[layer]
    sides = _sides(recording, layer, timeline, epoch)
    shown = evenly_spread(len(sides[0].shown.channels), MAX_CHANNELS)
    blocks = [shown[start : start + PER_BLOCK] for start in range(0, len(shown), PER_BLOCK)]
    rows = [Row(0.30 + 0.235 * len(blocks[0]), above=0.25, below=0.45)]
    frame = Frame(
        _title(layer, info, timeline, epoch),
        origin or recorded(recording),
        subtitle=_subtitle(sides, info, len(shown)),
        legends=(_legend(sides, info, timeline, epoch),),
    )
    columns = len(sides) * len(blocks)
    figure, axes = lay_out(rows, columns, frame, width=0.55 + 3.6 * columns, left=0.55, gap=0.5)
    for place, axis in enumerate(axes[0]):
        side = sides[place % len(sides)]
        _draw_side(axis, side, blocks[place // len(sides)], info if side.name == "output" else None)
    return save(figure, path)


def _sides(recording: Recording, layer: str, timeline: Timeline, epoch: int) -> list[_Side]:
    known = recording.statistics(layer)
    names = (["input"] if "histogram" in known else []) + ["output"]
    spans = [timeline.span(epoch)] + ([timeline.span(1)] if epoch > 1 else [])
    wholes = {
        name: [recording.distribution(layer, name, bins=BINS, first=a, last=b) for a, b in spans]
        for name in names
    }
    limits = _limits([distribution for whole in wholes.values() for distribution in whole])
    sides = []
    for name, whole in wholes.items():
        box = np.tile(limits, (len(whole[0].channels), 1))
        own = [
            recording.distribution(layer, name, bins=_BINS, first=first, last=last, limits=box)
            for first, last in spans
        ]
        colour = INPUT if name == "input" else OUTPUT
        sides.append(
            _Side(name, colour, limits, whole[0], own[0], own[1] if len(own) > 1 else None)
        )
    return sides


def _limits(distributions: list[ChannelHistograms]) -> tuple[float, float]:
    """The range that holds all but the tails of every channel."""
    lows, highs = [], []
    for distribution in distributions:
        for edges, counts in zip(distribution.edges, distribution.counts, strict=True):
            cumulative = np.concatenate([[0.0], np.cumsum(counts)])
            if cumulative[-1] > 0:
                low, high = np.interp([_TAIL, 1 - _TAIL], cumulative / cumulative[-1], edges)
                lows.append(low)
                highs.append(high)
    low, high = (min(lows), max(highs)) if lows else (0.0, 1.0)
    margin = 0.03 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def _regions(info: LayerInfo | None) -> tuple[tuple[float, float], ...]:
    """The active region of the activation that follows a layer; empty where none is known."""
    activation = info.activation if info is not None else None
    return active_region(activation) if activation in FUNCTIONS else ()


def _draw_side(axis: Axes, side: _Side, rows: list[int], info: LayerInfo | None) -> None:
    """One ridge per channel, each as high as the others: its scale of density is its own."""
    axis.set(xlabel=f"{side.name} value", xlim=side.limits, ylim=(-len(rows) + 0.6, _OVERLAP + 0.1))
    regions = _regions(info)
    for region in regions:
        ends = np.clip(region, *side.limits)
        axis.axvspan(*ends, color=REGION, alpha=0.13, linewidth=0, zorder=0, gid="region")
    for place, row in enumerate(rows):
        _draw_ridge(axis, side, row, -place)
    axis.set_yticks(
        [-place for place in range(len(rows))], [str(side.shown.channels[row]) for row in rows]
    )
    axis.tick_params(axis="y", length=0, labelsize=SMALL - 1)
    axis.grid(visible=False, axis="y")
    axis.spines["left"].set_visible(False)
    axis.set_title(f"{side.name}, per channel", color=side.colour, weight="bold")
    if regions:
        shares = inside(side.whole, *regions)
        for place, row in enumerate(rows):
            axis.annotate(
                "–" if np.isnan(shares[row]) else f"{100 * shares[row]:.0f}%", (1, -place),
                xycoords=("axes fraction", "data"), xytext=(0, 1.5), textcoords="offset points",
                size=SMALL - 1.5, color=REGION, ha="right", va="bottom", zorder=5,
            )  # fmt: skip


def _draw_ridge(axis: Axes, side: _Side, row: int, base: float) -> None:
    epochs = [side.shown, *filter(None, [side.first])]
    densities = [each.density[row] for each in epochs]
    peaks = [float(np.max(density)) for density in densities if np.isfinite(density).all()]
    if not any(peaks):
        looks = {"size": SMALL - 2, "color": REFERENCE, "ha": "center"}
        axis.text(sum(side.limits) / 2, base, "no finite value", **looks)
        return
    peak = max(peaks)
    centres = (side.shown.edges[row][1:] + side.shown.edges[row][:-1]) / 2
    heights = [base + _OVERLAP * density / peak for density in densities]
    order = 2 - base * 1e-3
    looks = {"color": side.colour, "alpha": 0.55, "linewidth": 0}
    axis.fill_between(centres, base, heights[0], **looks, zorder=order, gid="ridge")
    axis.plot(centres, heights[0], color="white", linewidth=0.6, zorder=order)
    if len(heights) > 1:
        outline = np.where(densities[1] > 0.005 * peak, heights[1], np.nan)
        looks = {"color": INK, "alpha": 0.8, "linewidth": 0.7}
        axis.plot(centres, outline, **looks, zorder=order, gid="first epoch")


def _title(layer: str, info: LayerInfo, timeline: Timeline, epoch: int) -> str:
    when = f"over epoch {epoch}" if len(timeline.starts) else f"over {timeline.steps:,} steps"
    return f"{layer} ({info.type}): input and output {when}"


def _subtitle(sides: list[_Side], info: LayerInfo, shown: int) -> str:
    steps = len(sides[-1].shown.steps)
    sentences = [f"Training batches, {steps} of them sampled, merged in the tensor's own units."]
    if shown < len(sides[-1].shown.channels):
        sentences.append(f"{shown} of {info.channels} channels, evenly spaced.")
    sentences.append("Both sides have one scale, each ridge its own density.")
    if info.activation and "addition" in info.via:
        sentences.append(f"An addition stands between this output and {info.activation}.")
    if _regions(info):
        sentences.append("Percentages: of the channel's values, in the shaded region.")
    return " ".join(sentences)


def _legend(sides: list[_Side], info: LayerInfo, timeline: Timeline, epoch: int) -> list[Artist]:
    when = f"epoch {epoch}" if len(timeline.starts) else "all steps"
    handles: list[Artist] = [
        Patch(color=side.colour, alpha=0.55, linewidth=0, label=f"{side.name}, {when}")
        for side in sides
    ]
    if sides[0].first is not None:
        handles.append(legend_line(color=INK, linewidth=0.8, label="the same in epoch 1"))
    if info.activation and _regions(info):
        label = f"active region of {info.activation}: {active_words(info.activation)}"
        handles.append(Patch(color=REGION, alpha=0.2, linewidth=0, label=label))
    return handles
