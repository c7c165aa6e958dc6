"""NS803: training goes on in eval mode."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination

LIMIT = 0.05


class TrainedInEvalMode(Rule):
    """In more than 5% of the steps the layer was trained in eval mode, without having been frozen
    from the start.
    """

    code = "NS803"
    name = "trained-in-eval-mode"
    severity = "warning"
    kinds = ()
    why = "Its statistics are those of an earlier network: the layer does not normalize what it is given."
    remedy = "Call model.train() after every validation, or restore the mode that was there."
    fine = "Statistics frozen on purpose in the last epochs."
    reference = "https://github.com/wkentaro/pytorch-fcn/pull/56"
    causes = ("A3", "H5")
    replaces = ("L03",)
    needs = "history"

    def find(self, seen: Examination) -> Iterator[Finding]:
        """The share of steps."""
        for layer in seen.history.layers if seen.history is not None else ():
            share = layer.steps_in_eval / layer.steps if layer.steps else 0.0
            if share > LIMIT and layer.trainable is not False and not layer.declared_frozen:
                message = "The layer is trained in eval mode."
                first, steps = layer.first_in_eval, layer.steps
                yield self.found(
                    layer.name, message, share=share, limit=LIMIT, steps=steps, first_step=first
                )
