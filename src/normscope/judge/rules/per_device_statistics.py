"""NS602: each process normalizes by its own few samples."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding, Undecided
from normscope.judge.rule import Rule
from normscope.records.examination import Examination

LIMIT, SMALL = 16, 8


class PerDeviceStatistics(Rule):
    """Several processes or devices train plain batch normalization on fewer than 16 samples each."""

    code = "NS602"
    name = "per-device-statistics"
    severity = "warning"
    why = "Statistics come from a device's share of the batch: the effective batch is small, however many devices."
    remedy = (
        "nn.SyncBatchNorm.convert_sync_batchnorm(model), group normalization, or frozen statistics."
    )
    mend = "normscope.mend.convert"
    fine = "Enough samples per device; 32 are standard practice and not reported."
    reference = "https://github.com/fundamentalvision/BEVFormer/issues/136"
    causes = ("C1", "B3")
    replaces = ("S13",)

    def applies(self, seen: Examination) -> bool:
        """More than one device, and batch normalization that is not synchronized."""
        several = seen.world_size > 1 or seen.devices > 1 or bool(seen.wrapper)
        return several and any(layer.live and not layer.sync for layer in seen.of_kind("batch"))

    def find(self, seen: Examination) -> Iterator[Finding | Undecided]:
        """Samples per device, from the loader or the batches."""
        size = seen.loader.batch_size if seen.loader is not None else None
        if size is None and seen.forward is not None:
            size = max(seen.forward.batch_sizes)
        if size is None:
            yield self.undecided("the loader or a few batches: how many samples a device sees")
            return
        share = -(-size // seen.devices)
        layers = [layer for layer in seen.of_kind("batch") if layer.live and not layer.sync]
        trains = seen.training is not True or any(layer.training for layer in layers)
        if share < LIMIT and trains:
            degree = "far too few" if share < SMALL else "few"
            message = f"Each device normalizes by its own samples, and they are {degree}."
            yield self.found(
                "",
                message,
                samples=share,
                limit=LIMIT,
                layers=len(layers),
                world_size=seen.world_size,
            )
