"""NS804: frozen statistics that moved."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination


class FrozenDrift(Rule):
    """A layer that was in eval mode inside a model in train mode when training began has updated
    its statistics.
    """

    code = "NS804"
    name = "frozen-drift"
    severity = "error"
    kinds = ()
    why = "Something has put it back in train mode, most often model.train() after a validation."
    remedy = "normscope.mend.freeze survives train(); or override train() in the frozen part."
    mend = "normscope.mend.freeze"
    fine = "A freeze that is meant to end."
    reference = "https://github.com/pgniewko/gt-pyg/issues/112"
    causes = ("F1",)
    replaces = ("L04",)
    needs = "history"

    def find(self, seen: Examination) -> Iterator[Finding]:
        """The step at which it happened."""
        for layer in seen.history.layers if seen.history is not None else ():
            if layer.declared_frozen and layer.drifted_at is not None:
                yield self.found(layer.name, "The frozen statistics moved.", step=layer.drifted_at)
