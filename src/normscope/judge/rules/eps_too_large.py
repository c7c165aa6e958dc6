"""NS206: an eps that is meant to be something else."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Layer

WARNING, ERROR = 1e-2, 0.1


class EpsTooLarge(Rule):
    """eps is 0.01 or more; from 0.1 on, or equal to a number of channels, it is taken for another
    argument.
    """

    code = "NS206"
    name = "eps-too-large"
    severity = "error"
    kinds = ("batch", "instance", "group", "layer", "rms")
    why = "BatchNorm2d(128, 0.8) sets eps, not momentum: a channel with a variance of 0.1 comes out at a third of 1."
    remedy = "Name the argument: BatchNorm2d(128, momentum=0.2); leave eps at 1e-5, or the value trained with."
    fine = "Weights that were trained with that eps: changing it now changes the network."
    reference = "https://github.com/eriklindernoren/PyTorch-GAN/issues/116"
    causes = ("D2",)
    replaces = ("S04",)

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """eps against what implementations use (1e-12 to 1e-3)."""
        eps = layer.eps
        if eps is None or eps < WARNING:
            return
        if eps >= ERROR:
            message = "eps is so large that another argument must have been meant."
            yield self.found(layer.name, message, "error", eps=eps, limit=ERROR)
        else:
            yield self.found(
                layer.name, "eps is far larger than any in use.", "warning", eps=eps, limit=WARNING
            )
