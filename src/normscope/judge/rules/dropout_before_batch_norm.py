"""NS405: dropout that widens what a batch normalization sees in training."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Layer

LIMIT = 1.2


class DropoutBeforeBatchNorm(Rule):
    """A dropout stands between a batch normalization and the normalization before it.

    Dropout keeps the mean of its input and raises its variance; the running variance holds that of
    training, and in eval mode there is no dropout. Measured: the variance with dropout over that
    without, median of the channels.
    """

    code = "NS405"
    name = "dropout-before-batch-norm"
    severity = "warning"
    why = "In eval mode the layer divides by a variance that its input no longer has (variance shift)."
    remedy = "Move the dropout behind the last batch normalization, lower p, or recalibrate with dropout off."
    mend = "normscope.mend.recalibrate"
    fine = "A small p, or many inputs per unit: the measured shift is small, and this is an info."
    reference = "https://arxiv.org/abs/1801.05134"
    causes = ("D7",)
    replaces = ("S19",)
    needs = "batches"

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """Dropout upstream in the traced forward, and the shift that it makes."""
        p = layer.place.dropout_before if layer.place is not None else 0.0
        ratio = layer.measured.dropout_ratio if layer.measured is not None else None
        if not p or not layer.live or not layer.tracked:
            return
        if ratio is not None and max(ratio, 1 / max(ratio, 1e-9)) > LIMIT:
            message = "Dropout before the layer changes the variance that it sees in training."
            yield self.found(layer.name, message, p=p, variance_ratio=ratio, limit=LIMIT)
        else:
            yield self.found(
                layer.name, "There is dropout before the layer.", "info", p=p, variance_ratio=ratio
            )
