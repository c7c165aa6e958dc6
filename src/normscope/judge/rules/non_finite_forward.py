"""NS509: finite inputs, a layer that is reached by NaN or infinity."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination


class NonFiniteForward(Rule):
    """On finite inputs a normalization layer receives or makes values that are not finite."""

    code = "NS509"
    name = "non-finite-forward"
    severity = "error"
    kinds = ()
    why = "In train mode one such batch poisons the running statistics for good."
    remedy = "Clamp or compute in fp32 what comes before the first layer that is named."
    fine = "Never."
    reference = "https://github.com/pytorch/pytorch/issues/90342"
    causes = ("I1", "I2")
    replaces = ("L05",)
    needs = "batches"

    def find(self, seen: Examination) -> Iterator[Finding]:
        """The first layer, in the order of the model, at which it shows."""
        for layer in seen.layers:
            measured = layer.measured
            if measured is None or not (measured.input_non_finite or measured.output_non_finite):
                continue
            comes_in = bool(measured.input_non_finite)
            message = (
                "The first layer to receive values that are not finite."
                if comes_in
                else "The first layer to make values that are not finite from finite ones."
            )
            yield self.found(
                layer.name, message, values=measured.input_non_finite or measured.output_non_finite
            )
            return
