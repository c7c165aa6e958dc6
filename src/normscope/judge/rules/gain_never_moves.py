"""NS809: a weight that gets no gradient."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination

FEWEST_STEPS = 50


class GainNeverMoves(Rule):
    """Over the whole recording the layer's weight did not change by a bit, while other layers'
    weights did.
    """

    code = "NS809"
    name = "gain-never-moves"
    severity = "warning"
    kinds = ()
    why = "It is not in the optimizer, gets no gradient, or what follows it is dead."
    remedy = "Check the optimizer's parameters, and what follows the layer."
    fine = "A layer frozen on purpose."
    reference = "https://github.com/official-stockfish/nnue-pytorch/pull/91"
    causes = ("D8",)
    replaces = ("S18",)
    needs = "history"

    def find(self, seen: Examination) -> Iterator[Finding]:
        """Compare with the other layers."""
        layers = seen.history.layers if seen.history is not None else ()
        if not any(layer.weight_moved for layer in layers):
            return
        for layer in layers:
            if (
                layer.weight_moved is False
                and layer.steps >= FEWEST_STEPS
                and layer.trainable is not False
            ):
                message = "The weight never changed, while those of other layers did."
                zero = "always zero" if layer.gradient_zero else "not zero, or not recorded"
                yield self.found(layer.name, message, steps=layer.steps, gradient=zero)
