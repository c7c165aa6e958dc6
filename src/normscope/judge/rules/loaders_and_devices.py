"""NS6xx: rules about data loaders, and about several devices or processes."""

from __future__ import annotations

from typing import Any

from normscope.judge.rule import (
    HISTORY,
    MISSING_IN,
    LoaderRule,
    MeasuredRule,
    Results,
    Rule,
    uses_batch_statistics,
)
from normscope.records.examination import Examination, Layer, Loader, Measured


class LastBatchOfOne(LoaderRule, code="NS601", severity="error"):
    """The last batch is of one sample, or DataParallel's split of a batch leaves a device one.

    Why is this bad: where maps are 1x1, train mode raises at the end of the first epoch. Elsewhere
        it learns nothing from that batch.
    When it is fine: batch normalization on large maps only; evaluation loaders.
    Example:
        dataset = TensorDataset(images[:65], labels[:65])
        loader = DataLoader(dataset, batch_size=64, shuffle=True)
    Use instead:
        loader = DataLoader(dataset, batch_size=64, shuffle=True, drop_last=True)
    """

    remedy = "Use drop_last=True, or another batch size."
    reference = "https://github.com/msminhas93/DeepLabv3FineTuning/issues/5"

    def check_loader(self, loader: Loader, exam: Examination) -> Results:
        if loader.samples is None or loader.batch_size is None:
            yield self.not_evaluated("a loader with a length and a batch size")
            return
        size = loader.batch_size
        rest = 0 if loader.drop_last else loader.samples % size
        batches = ([size] if loader.samples >= size else []) + ([rest] if rest else [])
        shares = [share for batch in batches for share in _shares(batch, exam.devices)]
        if min(shares, default=0) != 1:
            return
        raises = any(
            layer.measured is not None and layer.measured.values == layer.measured.samples
            for layer in exam.of_kind("batch")
            if layer.live
        )
        message = "A batch, or a device's share of it, has a single sample."
        evidence: dict[str, Any] = {
            "samples": loader.samples,
            "batch_size": size,
            "last_batch": rest,
        }
        severity = "error" if raises else "warning"
        yield self.finding("", message, {**evidence, "devices": exam.devices}, severity)


def _shares(batch: int, devices: int) -> list[int]:
    """What each device gets of a batch: chunks of ceil(batch / devices)."""
    share = -(-batch // devices)
    return [min(share, batch - start) for start in range(0, batch, share)]


class PerDeviceStatistics(Rule, code="NS602", severity="warning"):
    """Several processes or devices train plain batch normalization on fewer than 16 samples each.

    Why is this bad: statistics come from a device's share of the batch. However many devices there
        are, the batch that they normalize is small.
    When it is fine: enough samples per device; 32 are standard practice and not reported.
    Example:
        model = trained().train()
        loader = DataLoader(TensorDataset(images, labels), batch_size=4, shuffle=True)
        world_size = 8
    Use instead:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    """

    LIMIT, SMALL = 16, 8
    remedy = "Use SyncBatchNorm.convert_sync_batchnorm, group normalization or frozen statistics."
    mend = "normscope.mend.convert"
    reference = "https://github.com/fundamentalvision/BEVFormer/issues/136"

    def applies(self, exam: Examination) -> bool:
        several = exam.world_size > 1 or exam.devices > 1 or bool(exam.wrapper)
        return several and any(layer.live and not layer.sync for layer in exam.of_kind("batch"))

    def check(self, exam: Examination) -> Results:
        size = exam.loader.batch_size if exam.loader is not None else None
        if size is None and exam.forward is not None:
            size = max(exam.forward.batch_sizes)
        if size is None:
            yield self.not_evaluated("the loader or a few batches: how many samples a device sees")
            return
        share = -(-size // exam.devices)
        layers = [layer for layer in exam.of_kind("batch") if layer.live and not layer.sync]
        trains = exam.training is not True or any(layer.training for layer in layers)
        if share < self.LIMIT and trains:
            degree = "far too few" if share < self.SMALL else "few"
            message = f"Each device normalizes by its own samples, and they are {degree}."
            evidence = {"samples": share, "limit": self.LIMIT, "layers": len(layers)}
            yield self.finding("", message, {**evidence, "world_size": exam.world_size})


class LonelySyncBatchNorm(Rule, code="NS603", severity="error"):
    """A SyncBatchNorm holds modules that its forward does not call, or runs in a single process.

    Why is this bad: converting a layer that also held an activation or a dropout keeps them as
        children that are never called.
    When it is fine: one process. It is plain batch normalization then (an info).
    Example:
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.SyncBatchNorm(8))
        model[1].add_module("act", nn.ReLU())  # as a converter leaves it
        batches, world_size = [images[:64]], 4
    Use instead:
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.SyncBatchNorm(8), nn.ReLU())
    """

    remedy = "Convert with the library's own converter, or convert before such layers are built."
    reference = "https://github.com/LabForComputationalVision/bias_free_denoising/issues/3"

    def applies(self, exam: Examination) -> bool:
        return any(layer.sync for layer in exam.layers)

    def check(self, exam: Examination) -> Results:
        for layer in exam.layers:
            if layer.sync and layer.place is not None and layer.place.unused_children:
                message = "The layer holds modules that it does not call: a conversion lost them."
                children = ", ".join(layer.place.unused_children)
                yield self.finding(layer.name, message, {"children": children})
        if exam.world_size == 1 and not exam.wrapper:
            message = "SyncBatchNorm in a single process is plain batch normalization."
            yield self.finding("", message, {"world_size": 1}, "info")


class ClassOrderedBatches(LoaderRule, code="NS604", severity="warning"):
    """Labels are distributed over the batches far more unevenly than shuffling would.

    Chi-square of labels against batches, over its degrees of freedom: 1 if shuffled. Reported above
    3 and above what chance exceeds once in 10,000. Of a loader that does not shuffle, the order of
    its dataset's labels is judged.

    Why is this bad: batch statistics become those of a class. Training looks easy, eval mode and
        shuffled data fail.
    When it is fine: evaluation in eval mode; episodes and balanced samplers.
    Example:
        order = labels.argsort()
        loader = DataLoader(TensorDataset(images[order], labels[order]), batch_size=20)
    Use instead:
        loader = DataLoader(TensorDataset(images, labels), batch_size=20, shuffle=True)
    """

    LIMIT, RUNS, CHANCE = 3.0, 3.0, 1e-4
    remedy = "Use shuffle=True; in evaluation, eval mode."
    reference = "https://github.com/ArdhenduBehera/cap/issues/8"
    needs = None  # labels are in the batches or in the loader

    def check(self, exam: Examination) -> Results:
        forward, loader = exam.forward, exam.loader
        if forward is not None and forward.labels_in_batches is not None:
            limit = max(self.LIMIT, self._exceeded_by_chance(forward.label_freedom))
            if forward.labels_in_batches > limit:
                message = "The labels are not shuffled over the batches."
                evidence = {"unevenness": forward.labels_in_batches, "limit": limit}
                yield self.finding("", message, evidence, cause="batches")
        elif loader and loader.shuffles is False and loader.labels_in_batches is not None:
            ratio, runs = loader.labels_in_batches, loader.label_runs or 0
            if ratio > self.LIMIT and runs > self.RUNS:
                message = "The loader does not shuffle, and the dataset is sorted by label."
                evidence = {"unevenness": ratio, "run_length": runs, "limit": self.LIMIT}
                yield self.finding("", message, evidence, cause="loader")
        elif forward is None and (loader is None or loader.shuffles is False):
            wanted = "batches with integer targets, or a loader whose dataset holds its labels"
            yield self.not_evaluated(MISSING_IN.get(exam.source) or wanted)

    def _exceeded_by_chance(self, freedom: int) -> float:
        """The value of chi-square / freedom that chance exceeds once in 10,000."""
        from scipy.special import chdtri

        return float(chdtri(freedom, self.CHANCE)) / freedom if freedom else self.LIMIT


class NotShuffled(LoaderRule, code="NS605", severity="info"):
    """The loader does not shuffle.

    Why is this bad: neighbours in a dataset are often alike (frames of a video, one class, one
        site), and share statistics.
    When it is fine: a dataset that was shuffled on disk; an evaluation loader.
    Example:
        loader = DataLoader(TensorDataset(images, labels), batch_size=64)
    Use instead:
        loader = DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True)
    """

    remedy = "Use shuffle=True in training."
    reference = "https://github.com/openpifpaf/openpifpaf/pull/308"

    def check_loader(self, loader: Loader, exam: Examination) -> Results:
        if loader.shuffles is False:
            message = "The loader gives the samples in the dataset's order."
            yield self.finding("", message, {"sampler": loader.sampler})


class BuffersBroadcast(Rule, code="NS606", severity="error"):
    """DistributedDataParallel broadcasts the buffers, and several forwards run per step.

    Why is this bad: every forward overwrites the buffers in place, which the backward of the one
        before needs: it raises.
    When it is fine: one forward per backward, as usual; accumulated batches, each with its own
        backward.
    Example (several processes):
        model = nn.parallel.DistributedDataParallel(net)
        for real, fake in loader:
            loss = model(fake).mean() - model(real).mean()
            loss.backward()
    Use instead:
        model = nn.parallel.DistributedDataParallel(net)
        for real, fake in loader:
            scores = model(torch.cat([fake, real]))
            loss = scores[: len(fake)].mean() - scores[len(fake) :].mean()
            loss.backward()
    """

    LIMIT = 1.5
    remedy = "Join the inputs in one forward, use SyncBatchNorm, or broadcast_buffers=False."
    mend = "normscope.mend.convert"
    reference = "https://github.com/pytorch/pytorch/issues/175024"

    def applies(self, exam: Examination) -> bool:
        return bool(exam.broadcasts_buffers) and uses_batch_statistics(exam)

    def check(self, exam: Examination) -> Results:
        history = exam.history
        if history is None:
            yield self.not_evaluated(HISTORY.words)
            return
        shares = [
            (layer.updates or 0) / max(layer.steps, 1) / history.expected(layer)
            for layer in history.layers
        ]
        if (per_step := max(shares, default=0.0)) >= self.LIMIT:
            message = "Several forwards run per step, and the buffers are broadcast before each."
            yield self.finding("", message, {"forwards_per_step": per_step, "limit": self.LIMIT})


class SynchronizedLayerSkipped(MeasuredRule, code="NS607", severity="error"):
    """A SyncBatchNorm layer ran for some of the batches given and not for others.

    Why is this bad: its forward waits for all processes. Where one of them takes another branch,
        the others wait for ever.
    When it is fine: all processes take the same branch in the same step, by a rule that does not
        look at the data.
    Example:
        class Branching(nn.Sequential):
            def forward(self, x):
                return self[0](x) if x.mean() > 0 else x

        model = Branching(nn.SyncBatchNorm(8))
        batches = [torch.randn(16, 8) + shift for shift in (1, -1, 1, 1)]
    Use instead:
        class Branching(nn.Sequential):
            def forward(self, x):
                y = self[0](x)
                return y if x.mean() > 0 else x

        model = Branching(nn.SyncBatchNorm(8))
    """

    remedy = "Run the layer for every batch, or use group normalization there."
    mend = "normscope.mend.convert"
    reference = "https://github.com/pytorch/pytorch/issues/44957"

    def check_measured(self, layer: Layer, measured: Measured, exam: Examination) -> Results:
        batches = len(exam.forward.batch_sizes) if exam.forward is not None else 0
        if layer.sync and 0 < measured.batches < batches:
            message = "The layer synchronizes with other processes, but skips some batches."
            yield self.finding(layer.name, message, {"ran": measured.batches, "batches": batches})
