"""NS305: a freeze that the next train() undoes."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination


class FreezeNotSticky(Rule):
    """Layers are in eval mode inside a model in train mode, and the next model.train() puts them
    back in train mode.
    """

    code = "NS305"
    name = "freeze-not-sticky"
    severity = "warning"
    kinds = ("batch", "instance")
    why = "Validation loops end with model.train(): from the second epoch on the frozen statistics drift."
    remedy = (
        "Override train() in the frozen part, or use normscope.mend.freeze, which survives train()."
    )
    mend = "normscope.mend.freeze"
    fine = "A loop that freezes again after every train()."
    reference = "https://github.com/pgniewko/gt-pyg/issues/112"
    causes = ("F1",)
    replaces = ("S07",)

    def find(self, seen: Examination) -> Iterator[Finding]:
        """Layers in eval mode that train() flips."""
        if not seen.training:
            return
        for layer in seen.of_kind(*self.kinds):
            if (
                layer.training is False
                and layer.training_after_train
                and layer.live
                and layer.tracked
            ):
                message = "The layer is frozen in eval mode, but the next train() thaws it."
                yield self.found(layer.name, message, training=False, after_train=True)
