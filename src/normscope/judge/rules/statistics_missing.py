"""NS704: a state_dict without the running statistics that the model needs."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination

STATISTICS = ("running_mean", "running_var")
COUNTER = "num_batches_tracked"


class StatisticsMissing(Rule):
    """The state_dict lacks running statistics, or has them under other names or in other shapes.

    The counter num_batches_tracked alone may be missing: it matters with momentum=None only.
    """

    code = "NS704"
    name = "statistics-missing"
    severity = "error"
    kinds = ()
    why = "With strict=False the layers silently keep mean 0 and variance 1."
    remedy = "Save model.state_dict(), not its parameters; map renamed keys; or recalibrate after loading."
    mend = "normscope.mend.recalibrate"
    fine = "Old checkpoints without the counter: an info."
    reference = "https://github.com/torch/nn/issues/1165"
    causes = ("E1",)
    replaces = ("S22",)
    needs = "keys"

    def applies(self, seen: Examination) -> bool:
        """It is a state_dict that is looked at."""
        return seen.source == "state_dict"

    def find(self, seen: Examination) -> Iterator[Finding]:
        """Missing and misshapen entries, by their last name."""
        keys = seen.keys
        if keys is None:
            return
        for key in keys.missing:
            layer, _, name = key.rpartition(".")
            if name in STATISTICS:
                yield self.found(layer, f"{name} is missing.", found=False)
            elif name == COUNTER and f"{layer}.running_mean" not in keys.missing:
                yield self.found(
                    layer, f"{name} is missing, which does no harm.", "info", found=False
                )
        for key in keys.wrong_shape:
            layer, _, name = key.rpartition(".")
            if name in STATISTICS:
                yield self.found(layer, f"{name} has another shape than the model's.", found=True)
