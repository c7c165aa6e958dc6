"""The description of a recording: layers, intervals, bins and cost, and its statistics' shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from normscope.errors import RecordError
from normscope.escapes import for_line

# A normalized value is binned in BINS equal bins over [-BIN_LIMIT, BIN_LIMIT), with an under- and
# an overflow bin.
BINS = 64
BIN_LIMIT = 4.0

# Histograms of a layer with more channels than this are kept for as many evenly spaced ones: a
# 4,096-wide LayerNorm would write half a megabyte per histogram.
HISTOGRAM_CHANNELS = 256

# The rows of a histogram's frame: what turns its normalized bins into physical units, and the
# sample's extremes.
FRAME = ("mean", "std", "weight", "bias", "minimum", "maximum")

# A channel is constant when its input's standard deviation over the batch is at most this share of
# the median over the layer's channels.
CONSTANT_STD = 1e-4

# The rows of `sample_mean` and `sample_std`: the distribution of a per-sample statistic over the
# batch.
SAMPLE_MOMENTS = ("mean", "std", "minimum", "maximum")
SAMPLE_LEVELS = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)

# The rows of a histogram's moments: of the values that it counts, exact where its bins are not.
VALUE_MOMENTS = ("mean", "std", "skewness", "kurtosis")

# The rows of `stream`, a residual sum beside a layer, and of `attention`, the one beside it.
STREAM = ("rms", "largest", "kurtosis", "share of the largest channel")
ATTENTION = ("largest logit", "share of the largest entropy")

MOST_LAYERS = 20_000
MOST_PROCESSES = 100_000
MOST_CHANNELS = 1 << 31


def bin_edges() -> np.ndarray:
    """The edges [BINS + 1] of the normalized bins."""
    return np.linspace(-BIN_LIMIT, BIN_LIMIT, BINS + 1)


@dataclass
class LayerInfo:
    """One watched layer. `kind` is batch, instance, group, layer, rms, or activation for any other
    module.

    A layer that is called again in one forward has a further entry, named `<layer>#2`, with the
    calls' statistics.
    """

    name: str
    type: str
    kind: str
    channels: int | None = None
    groups: int | None = None
    eps: float | None = None
    momentum: float | None = None
    affine: bool = False
    tracks: bool = False
    call: int = 1
    histogram_channels: list[int] = field(
        default_factory=list
    )  # those with histograms, where not all have them
    activation: str | None = None  # the activation that consumes its output, where one does
    via: list[str] = field(
        default_factory=list
    )  # the operations between the two, such as a residual addition
    channel_stride: int = 1  # statistics per channel are of every so many channels, from the first
    histogram_limit: int = HISTOGRAM_CHANNELS  # channels with histograms, at most
    trainable: bool | None = None  # its weight or bias required gradients when watching began

    def channel_numbers(self, count: int) -> np.ndarray:
        """The numbers [count] of the channels of a statistic per channel.

        Raises:
            RecordError: if that are more channels than there can be.
        """
        if self.channel_stride < 1 or count * self.channel_stride > MOST_CHANNELS:
            raise RecordError(
                f"The recording is damaged: every {self.channel_stride}th channel of {self.name}."
            )
        return np.arange(count) * self.channel_stride


@dataclass
class Cost:
    """Seconds inside the hooks, of the seconds between the first and the last hook."""

    seconds: float = 0.0
    elapsed: float = 0.0
    steps: int = 0

    @property
    def fraction(self) -> float:
        """Share of the time, NaN before anything ran."""
        return self.seconds / self.elapsed if self.elapsed > 0 else math.nan


@dataclass
class Header:
    """The description of one part of a recording: what one process watched."""

    model: str
    unit: str  # what a step is: "optimizer step" or "forward"
    intervals: dict[str, str]
    layers: list[LayerInfo]
    versions: dict[str, str]
    device: str
    rank: int = 0
    world_size: int = 1
    bins: int = BINS
    bin_limit: float = BIN_LIMIT
    cost: Cost = field(default_factory=Cost)
    complete: bool = False
    writer: str = ""  # the process that made the file, until its first step: machine and number
    budget: float | None = None  # MB per 10,000 steps; None: as much as the intervals make
    left_out: dict[str, int] = field(default_factory=dict)  # {kind: records that were due, and not
    # taken for want of budget}

    def to_json(self) -> dict[str, Any]:
        """Plain types, for a record's meta table."""
        return msgspec.to_builtins(self)

    @classmethod
    def from_json(cls, value: Any, source: str) -> Header:
        """The header from plain types.

        Raises:
            RecordError: if they are not those of a header.
        """
        try:
            header = msgspec.convert(value, cls)
        except (msgspec.ValidationError, OverflowError) as error:
            why = for_line(str(error)[:300])
            raise RecordError(
                f"{source} is damaged: its description cannot be read ({why})."
            ) from error
        if len(header.layers) > MOST_LAYERS:
            raise RecordError(
                f"{source} describes {len(header.layers):,} layers; at most {MOST_LAYERS:,} are "
                "read."
            )
        if not 0 <= header.rank < header.world_size <= MOST_PROCESSES:
            raise RecordError(
                f"{source} is damaged: it is of process {header.rank} of {header.world_size}."
            )
        if header.bins != BINS or header.bin_limit != BIN_LIMIT:
            raise RecordError(
                f"{source} has {header.bins} bins in its histograms; this normscope reads {BINS}."
            )
        return header


_CHANNELS = (None,)
_FRAME = (len(FRAME), None)
_HISTOGRAM = (None, BINS + 2)

SHAPES: dict[str, tuple[int | None, ...]] = {
    **dict.fromkeys(
        ("batch_mean", "batch_var", "batch_invstd", "running_mean", "running_var"), _CHANNELS
    ),
    **dict.fromkeys(("weight", "bias", "weight_gradient", "bias_gradient"), _CHANNELS),
    **dict.fromkeys(("num_batches_tracked", "training", "values_per_channel"), ()),
    **dict.fromkeys(("output_gradient_norm", "input_gradient_norm"), ()),
    **dict.fromkeys(("token_cosine", "update_ratio"), ()),
    "stream": (len(STREAM),),
    "attention": (len(ATTENTION),),
    **dict.fromkeys(("sample_mean", "sample_std"), (len(SAMPLE_MOMENTS), None)),
    **dict.fromkeys(("sample_mean_quantiles", "sample_std_quantiles"), (len(SAMPLE_LEVELS), None)),
    **dict.fromkeys(("histogram_frame", "output_histogram_frame"), _FRAME),
    **dict.fromkeys(("histogram_moments", "output_histogram_moments"), (len(VALUE_MOMENTS), None)),
    **dict.fromkeys(("histogram", "output_histogram"), _HISTOGRAM),
}
"""{statistic: its shape at one step}; None is any number of channels, or of groups."""

Block = tuple[np.ndarray, np.ndarray]  # steps [R], values [R, ...]


def check_shape(path: Path, layer: str, statistic: str, values: np.ndarray) -> None:
    """Check an array [R, ...] that was read from a file. Statistics that are not in SHAPES may have
    any shape.

    Raises:
        RecordError: if it has another shape than its statistic.
    """
    expected = SHAPES.get(statistic)
    if expected is None:
        return
    found = values.shape[1:]
    if len(found) != len(expected) or any(
        b not in (None, a) for a, b in zip(found, expected, strict=True)
    ):
        wanted = ", ".join("channels" if size is None else str(size) for size in expected)
        raise RecordError(
            f"{path} is damaged: {statistic} of {layer} has the shape {list(found)} at a step; "
            f"expected [{wanted}]."
        )


def check_widths(
    source: object, layer: LayerInfo, histograms: Sequence[Block], frames: Sequence[Block]
) -> None:
    """Check that a layer's newest histograms, their frames and the list of their channels are of
    equally many.

    `source` says in the error where they are from.

    Raises:
        RecordError: if they are not.
    """
    if not histograms or not frames:
        return
    counts, framed = histograms[-1][1].shape[1], frames[-1][1].shape[2]
    named = len(layer.histogram_channels) or counts
    if not counts == framed == named:
        raise RecordError(
            f"{source} is damaged: {layer.name} has histograms of {counts} channels, frames of "
            f"{framed} and names of {named}."
        )
