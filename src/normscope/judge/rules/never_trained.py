"""NS401: affine parameters that the optimizer does not have."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding, Undecided
from normscope.judge.rule import Rule
from normscope.records.examination import Examination, Layer


class NeverTrained(Rule):
    """Weight or bias require a gradient, but are not in the optimizer, while the weights around
    them are.
    """

    code = "NS401"
    name = "never-trained"
    severity = "warning"
    kinds = ("batch", "instance", "group", "layer", "rms")
    why = "A filter on parameters (by dimension, by name) has dropped them: they stay at 1 and 0 for ever."
    remedy = "Pass all parameters; to leave decay off for some, give them a group of their own."
    mend = "normscope.mend.weight_decay_groups"
    fine = "A part that is not trained at all, as under a linear probe: an info."
    reference = "https://github.com/official-stockfish/nnue-pytorch/pull/91"
    causes = ("D8",)
    replaces = ("S18",)
    needs = "optimizer"

    def find(self, seen: Examination) -> Iterator[Finding | Undecided]:
        """Compare with the optimizer, if it trains this model at all."""
        if seen.optimizer is not None and seen.optimizer.holds == 0:
            message = "The optimizer holds none of the model's parameters: it was made for another model or before a copy."
            yield self.found("", message, "error", parameters=0, optimizer=seen.optimizer.type)
            return
        yield from super().find(seen)

    def find_in(self, layer: Layer, seen: Examination) -> Iterator[Finding]:
        """By whether the weights around the layer are trained."""
        if layer.optimized is False:
            severity = "warning" if layer.scope_optimized else "info"
            message = (
                "Its parameters require gradients but are not in the optimizer, which trains the weights around it."
                if layer.scope_optimized
                else "Its parameters require gradients but are not in the optimizer, nor are the weights around it."
            )
            yield self.found(
                layer.name, message, severity, parameters=", ".join(layer.affine_names)
            )
