"""The shapes of a recording's statistics; a file with other ones is damaged, and says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from normscope.errors import RecordError
from normscope.records.recording_header import (
    ATTENTION,
    BINS,
    FRAME,
    SAMPLE_LEVELS,
    SAMPLE_MOMENTS,
    STREAM,
    LayerInfo,
)

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
