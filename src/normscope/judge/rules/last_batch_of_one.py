"""NS601: a last batch, or a device's share of it, of one sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from normscope.judge.findings import Finding, Undecided
from normscope.judge.rule import Rule, has_live_batch_norm
from normscope.records.examination import Examination


class LastBatchOfOne(Rule):
    """The number of samples leaves a last batch of one, or DataParallel's split of a batch leaves a
    device one.
    """

    code = "NS601"
    name = "last-batch-of-one"
    severity = "error"
    kinds = ()
    why = "Train mode raises at the end of the first epoch where maps are 1x1, and learns nothing from it elsewhere."
    remedy = "drop_last=True, or another batch size."
    fine = "Batch normalization on large maps only; evaluation loaders."
    reference = "https://github.com/msminhas93/DeepLabv3FineTuning/issues/5"
    causes = ("B1",)
    replaces = ("S12",)
    needs = "loader"

    def applies(self, seen: Examination) -> bool:
        """A loader on its own, or a model with batch normalization."""
        return seen.source == "loader" or has_live_batch_norm(seen)

    def find(self, seen: Examination) -> Iterator[Finding | Undecided]:
        """The remainder, and how devices split it."""
        loader = seen.loader
        if loader is None or loader.samples is None or loader.batch_size is None:
            yield self.undecided("a loader with a length and a batch size")
            return
        size = loader.batch_size
        rest = 0 if loader.drop_last else loader.samples % size
        batches = ([size] if loader.samples >= size else []) + ([rest] if rest else [])
        smallest = min(
            (share for batch in batches for share in _shares(batch, seen.devices)), default=0
        )
        if smallest != 1:
            return
        raises = any(layer.measured is not None and layer.measured.values == layer.measured.samples
                     for layer in seen.layers if layer.kind == "batch" and layer.live)  # fmt: skip
        evidence: dict[str, Any] = {
            "samples": loader.samples,
            "batch_size": size,
            "rest": rest,
            "devices": seen.devices,
        }
        message = "A batch, or a device's share of it, has a single sample."
        yield self.found("", message, "error" if raises else "warning", **evidence)


def _shares(batch: int, devices: int) -> list[int]:
    """What each device gets of a batch: chunks of ceil(batch / devices)."""
    share = -(-batch // devices)
    return [min(share, batch - start) for start in range(0, batch, share)]
