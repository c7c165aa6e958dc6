"""NS403: a gain of zero after long training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normscope.judge.findings import Finding, Undecided
from normscope.judge.rule import Rule
from normscope.records.examination import Examination, Layer

TRAINED = 1000


class DeadGain(Rule):
    """Every weight of the layer is exactly zero after more than 1,000 updates.

    A gain of zero at the start is meant where the output is added to a shortcut (zero-init
    residual); it then moves.
    """

    code = "NS403"
    name = "dead-gain"
    severity = "warning"
    kinds = ("batch", "instance", "group", "layer", "rms")
    why = "The layer's output is its bias: nothing before it has any effect, and nothing before it is trained."
    remedy = "Initialize the weight to 1, or let the optimizer train it."
    fine = "At the start of training on a residual branch; a branch that was pruned."
    reference = "https://github.com/AlexHex7/Non-local_pytorch/issues/1"
    causes = ("D8",)
    replaces = ("S18",)

    def find_in(self, layer: Layer, seen: Examination) -> Iterator[Finding | Undecided]:
        """Zero weights, by training so far and by what follows."""
        if (
            layer.weight is None
            or layer.foreign
            or not len(layer.weight)
            or np.any(layer.weight != 0)
        ):
            return
        steps = layer.updates
        if steps is None and seen.optimizer is not None:
            steps = seen.optimizer.steps
        if (steps or 0) > TRAINED:
            message = "Every weight is exactly zero although the model was trained."
            yield self.found(layer.name, message, updates=steps, limit=TRAINED)
        elif layer.place is None:
            yield self.undecided("a few batches: whether the zero weight is on a residual branch")
        elif not layer.place.added_to_a_shortcut:
            message = (
                "Every weight is zero and the output is not added to a shortcut: nothing passes."
            )
            yield self.found(layer.name, message, updates=steps or 0, limit=0)
