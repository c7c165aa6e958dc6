"""NS204: running statistics that forget nothing."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Layer

LIMIT = 1000


class CumulativeAverage(Rule):
    """momentum=None in a layer in train mode: a cumulative average over all batches since the last
    reset.
    """

    code = "NS204"
    name = "cumulative-average"
    severity = "info"
    kinds = ("batch", "instance")
    why = (
        "In a long training the average is that of weights long gone; None does not mean no update."
    )
    remedy = "Use a number for training, and None only to recalibrate after reset_running_stats()."
    mend = "normscope.mend.recalibrate"
    fine = "While recalibrating."
    reference = "https://github.com/automan000/Camera-based-Person-ReID/issues/3"
    causes = ("D1", "J2")
    replaces = ("S03",)

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """momentum=None while training."""
        if layer.cumulative and layer.tracked and layer.training:
            message = "The running statistics average over the whole training."
            yield self.found(layer.name, message, momentum="None", updates=layer.updates)
