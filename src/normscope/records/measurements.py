"""Measurements beside training: made once for a run and kept in its record by name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from normscope.records.store import Store

PREFIX = "measured:"


def store_measurement(store: Store, name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write {statistic: array} of a measurement, in a transaction of its own.

    Raises:
        StorageError: if it cannot be written.
    """
    with store.transaction():
        for statistic, array in arrays.items():
            store.add_array(f"{PREFIX}{name}", statistic, array, first_step=0)


def measured_in(store: Store, name: str) -> dict[str, np.ndarray]:
    """{statistic: array} of a measurement; empty where it was not made."""
    return {statistic: array for _, statistic, _, _, _, array in store.arrays(f"{PREFIX}{name}")}


def load_measurements(store: Store) -> dict[str, dict[str, np.ndarray]]:
    """{name: {statistic: array}} of every measurement that was made."""
    found = {name: measured_in(store, name) for name in KNOWN}
    return {name: arrays for name, arrays in found.items() if arrays}


PROPAGATION = "propagation"
"""Variances of the skip path ("skip") and of the branches ("branch") at initialization, float64
[blocks].
"""

BATCH_STATISTICS = "batch-statistics"
"""Inputs and outputs of normalization layers from batch to batch in the trained network, and their
running statistics: "place", "before", "after", "before_in_eval", "after_in_eval", "batch_mean",
"batch_sd", with running statistics also "running_mean" and "running_sd"; float64 [channels of all
places].
"""

EVALUATION = "evaluation"
"""Test accuracies of the batch-normalized network as fractions: with "running" and "recalibrated"
statistics, float64 [1] each, and with those of the "batch", float64 [sizes], by batch "size", int64
[sizes], the largest of which may hold all images.
"""

LANDSCAPE = "landscape"
"""Loss and gradient along the direction of steepest descent, float64 [points of the training]:
"step", "loss", "gradient" and "weights" (l2 norms) at the point itself. "rate_..." and
"relative_...", float64 [points, distances], at distances from it: "..._distances" (l2),
"..._losses", "..._changes" (l2 distance of the gradient from that at the point). "planned", [1], is
how many points there are unless the training diverges.
"""

MOVEMENT = "movement"
"""Movement of the normalization layers' outputs from step to step: "place", "movement", float64
[channels of all places].
"""

INITIALIZATION = "initialization"
"""Before the first step: "gradient" and "rank", float64 [layers], through a deep network of its
own; "cosine", float64 [convolutions], |cosine| of weights and their gradient.
"""

WEIGHTS = "weights"
"""Norm of each convolution's weights after the training over that before it: "growth", float64
[convolutions].
"""

DECAY = "decay"
"""Distances of a convolution's direction after some steps with weight decay, float64 [convolutions]
each: "unexplained", from that of a training without decay whose learning rate rises instead, and
"moved", from that of one at a constant rate.
"""

CORRUPTION = "corruption"
"""Test accuracies on noisy images as fractions, float64 [1] each: with "running" statistics, with
those of batches of 128 ("batch") and of 8 ("small"), and of batches of 128 of images sorted by
class ("one_class").
"""

DEPTH_SIGNALS = "depth-signals"
"""Of a transformer before the first step, float64: "depth" and "gradient" [depths], the norm of the
last feed-forward weight's gradient; "stream" and "branch" [blocks], variances in the deepest;
"moved_bf16" and "moved_fp32" [1], shares of the gains that a few steps move.
"""

HIDDEN_STATES = "hidden-states"
"""Of a trained transformer, float64: "loss" and "loss_of_batches" [1], in eval and in train mode;
"loss_without", "stream", "branch" and "ones" [blocks]: the loss without a block, variances, and the
squared cosine of hidden states and ones times the width.
"""

KNOWN = (
    PROPAGATION, BATCH_STATISTICS, EVALUATION, INITIALIZATION, WEIGHTS, DECAY, CORRUPTION,
    LANDSCAPE, MOVEMENT, DEPTH_SIGNALS, HIDDEN_STATES,
)  # fmt: skip
"""Every measurement. How each is made is in `studies/study_measurements.py`."""
