"""NS1xx: rules about the values that a layer holds."""

from __future__ import annotations

import numpy as np

from normscope.judge.findings import Finding
from normscope.judge.rule import EVERY_KIND, Results, Rule, count, deliberately_frozen
from normscope.records.examination import BATCH_KINDS, ROUNDING, Examination, Layer


class NonFiniteState(Rule, code="NS101", severity="error", kinds=EVERY_KIND):
    """A running mean, running variance, weight or bias holds NaN or infinity.

    Why is this bad: one overflowing batch is enough, and the running average keeps it for ever.
        Training goes on, while eval mode gives NaN.
    When it is fine: never.
    Example:
        model = nn.BatchNorm1d(4)
        x = 1e30 * torch.randn(8, 4)
        model(x)  # the variance overflows
    Use instead:
        model = nn.BatchNorm1d(4)
        model(x.clamp(-1e4, 1e4))
    """

    remedy = "Recalibrate or restore a checkpoint, then look for the batch that overflowed."
    mend = "normscope.mend.recalibrate"
    reference = "https://github.com/pytorch/pytorch/issues/90342"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        for name in ("running_mean", "running_var", "weight", "bias"):
            values = getattr(layer, name)
            if values is not None and (bad := count(~np.isfinite(values))):
                message = f"{name} holds NaN or infinity."
                evidence = {"channels": bad, "of": len(values), "limit": 0}
                yield self.finding(layer.name, message, evidence, cause=name)


class NegativeVariance(Rule, code="NS102", severity="error", kinds=BATCH_KINDS):
    """A running variance is below zero.

    Why is this bad: no data has such a variance. Below -eps its square root is NaN; between -eps
        and 0 the channel is multiplied by a huge number.
    When it is fine: never.
    Example:
        model = nn.BatchNorm1d(4, momentum=1.5)
        model(0.1 * torch.randn(64, 4))  # running_var = (1 - 1.5) * 1 + 1.5 * 0.01
    Use instead:
        model = nn.BatchNorm1d(4, momentum=0.1)
        model(0.1 * torch.randn(64, 4))
    """

    remedy = "Look for a momentum outside [0, 1] or a wrong converter, then recalibrate."
    mend = "normscope.mend.recalibrate"
    reference = "https://github.com/facebookresearch/detectron2/pull/3160"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        var = layer.running_var
        if var is not None and (negative := count(var < 0)):
            evidence = {"channels": negative, "smallest": float(np.nanmin(var)), "limit": 0}
            yield self.finding(layer.name, "running_var is negative.", evidence)


class StatisticsNeverUpdated(Rule, code="NS103", severity="error"):
    """Running mean 0, running variance 1 and no update counted, in a model that is trained.

    An untrained model is left alone: no weight or bias of its layers has moved, and no counter. A
    layer with fixed statistics (FrozenBatchNorm2d) is judged where parameters of the model hold
    gradients, or were written to as often as by an optimizer.

    Why is this bad: in eval mode the layer does not normalize. It treats its input as if that had
        mean 0 and variance 1.
    When it is fine: a network trained from scratch with its statistics frozen at (0, 1), or a layer
        in a branch that is never used.
    Example:
        model = Net()
        model.load_state_dict(dict(trained().named_parameters()), strict=False)
    Use instead:
        model = Net()
        model.load_state_dict(trained().state_dict())  # with the buffers
    """

    remedy = "Load or copy the buffers too (state_dict, not parameters()), or recalibrate."
    mend = "normscope.mend.recalibrate"
    reference = "https://github.com/CuriousAI/mean-teacher/issues/9"

    def check(self, exam: Examination) -> Results:
        layers = [layer for layer in exam.of_kind("batch") if layer.live and layer.tracked]
        others_updated = any(not layer.at_initialization for layer in layers)
        if others_updated or any(layer.affine_trained for layer in layers):
            for layer in layers:
                if layer.at_initialization and not layer.updates:
                    yield self._judge(layer, exam, others_updated)
        for layer in exam.of_kind("batch"):
            if not layer.live and layer.at_initialization and exam.was_trained:
                message = (
                    "The layer's fixed statistics are those of a new one: it does not normalize."
                )
                evidence = {"running_mean": 0, "running_var": 1}
                yield self.finding(layer.name, message, evidence, "warning", cause="fixed")

    def _judge(self, layer: Layer, exam: Examination, others_updated: bool) -> Finding:
        if exam.forward is not None and layer.place is None:
            severity, cause = "info", "unused"
            message = "The statistics were never updated, and the forward does not use the layer."
        elif deliberately_frozen(layer, exam):
            severity, cause = "info", "frozen"
            message = "The layer is frozen with the statistics of a new one: it does not normalize."
        elif others_updated:
            severity, cause = "error", ""
            message = "The statistics were never updated, while those of other layers were."
        else:
            severity, cause = "warning", ""
            message = "Weight and bias are trained; the statistics were never updated or loaded."
        evidence = {"running_mean": 0, "running_var": 1, "num_batches_tracked": layer.updates}
        return self.finding(layer.name, message, evidence, severity, cause=cause)


class StatisticsStuck(Rule, code="NS104", severity="error", kinds=BATCH_KINDS):
    """Running mean 0 and running variance 1, although updates were counted.

    The momentum was 0, or the statistics were reset and no batch came after.

    Why is this bad: batches went by and nothing was kept, so in eval mode the layer does not
        normalize.
    When it is fine: never.
    Example:
        model = nn.BatchNorm2d(1, momentum=0.0)  # meant: an average of all batches
        for x, y in batches:
            model(x)
    Use instead:
        model = nn.BatchNorm2d(1, momentum=None)
        for x, y in batches:
            model(x)
    """

    remedy = "To recalibrate, use momentum=None (a cumulative average), not 0.0."
    mend = "normscope.mend.recalibrate"
    reference = "https://github.com/Lightning-AI/pytorch-lightning/issues/14866"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        if layer.at_initialization and layer.updates:
            message = "Updates were counted, but the statistics are those of a new layer."
            evidence = {"updates": layer.updates, "momentum": layer.momentum}
            yield self.finding(layer.name, message, evidence)


class InitializationRemains(Rule, code="NS105", severity="warning", kinds=BATCH_KINDS):
    """More than 5% of the running statistics is still the initial mean 0 and variance 1.

    After k updates with momentum m the initial values have the weight (1 - m)^k, and no variance
    can lie below it. Where one does, the statistics came another way (a recalibration, a checkpoint
    with a new counter) and nothing is reported. Nor is it where batches are given and the
    statistics are nearer to theirs than to such a mixture.

    Why is this bad: evaluation normalizes with a mixture of real statistics and (0, 1). The
        training had few steps, or the momentum is too small.
    When it is fine: in the middle of a training, before the model is evaluated.
    Example:
        model = nn.BatchNorm2d(1)
        for x, y in batches[:3]:
            model(x)
    Use instead:
        model = nn.BatchNorm2d(1)
        for x, y in batches * 10:
            model(x)
    """

    LIMIT = 0.05
    remedy = "Train longer, use a larger momentum, or recalibrate before evaluating."
    mend = "normscope.mend.recalibrate"
    reference = "https://github.com/chemprop/chemprop/issues/607"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        m, k, var = layer.momentum, layer.updates, layer.running_var
        if m is None or not 0 < m < 1 or not k or var is None or layer.at_initialization:
            return
        rest = (1 - m) ** k
        if rest > self.LIMIT and np.nanmin(var) >= rest and not _came_another_way(layer, rest):
            message = "The statistics still hold much of their initial values."
            evidence = {"initial_share": rest, "limit": self.LIMIT, "updates": k, "momentum": m}
            yield self.finding(layer.name, message, evidence)


def _came_another_way(layer: Layer, remains: float) -> bool:
    """Tell whether the running statistics are nearer to those of the batches than to a mixture of
    these with mean 0 and variance 1.
    """
    measured = layer.measured
    if measured is None or measured.mean is None or measured.var is None:
        return False
    mean, var = measured.mean, measured.var
    mixed = _distance(layer, (1 - remains) * mean, (1 - remains) * var + remains)
    return _distance(layer, mean, var) < mixed


def _distance(layer: Layer, mean: np.ndarray, var: np.ndarray) -> float:
    """Distance of the running statistics from others: the sum over the channels of z and of the log
    ratio of variances.
    """
    eps = layer.eps or 1e-5
    held_mean, held_var = np.asarray(layer.running_mean), np.asarray(layer.running_var)
    z = np.abs(held_mean - mean) / np.sqrt(var + eps)
    log = np.log((np.maximum(held_var, 0) + eps) / (var + eps))
    return float(np.nansum(z + np.abs(log)))


class RunawayGain(Rule, code="NS106", severity="warning", kinds=BATCH_KINDS):
    """A channel is multiplied by more than 100, because its running variance is below eps.

    The factor is |weight| / sqrt(running_var + eps). The input was all but constant while the
    statistics were gathered.

    Why is this bad: in eval mode a small shift of such a channel becomes a huge activation, and in
        low precision it is noise.
    When it is fine: pruned channels. Where the weight is (near) zero too, nothing is reported.
    Example:
        x = torch.cat([torch.randn(64, 4), torch.full((64, 1), 5.0)], dim=1)  # one is constant
        model = nn.BatchNorm1d(5)
        for step in range(200):
            model(x)
    Use instead:
        model = nn.BatchNorm1d(4)
        for step in range(200):
            model(x[:, :4])
    """

    LIMIT = 100.0
    remedy = "Find out why the channel is constant (dead input, padding, pruning) and remove it."
    reference = "https://github.com/pytorch/pytorch/issues/5410"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        var, eps = layer.running_var, layer.eps
        if var is None or eps is None or layer.at_initialization:
            return
        weight = np.ones_like(var) if layer.weight is None else np.abs(layer.weight)
        gain = weight / np.sqrt(np.maximum(var + eps, 1e-30))
        runaway = (gain > self.LIMIT) & (var < eps) & (var >= 0)
        if channels := count(runaway):
            message = "Channels with almost no variance are amplified."
            largest = float(gain[runaway].max())
            evidence = {"channels": channels, "of": len(var), "gain": largest, "limit": self.LIMIT}
            yield self.finding(layer.name, message, evidence)


class ExplodingVariance(Rule, code="NS107", severity="warning", kinds=BATCH_KINDS):
    """The largest running variance of a layer is more than 10,000 times the median of its channels.

    Why is this bad: a channel has exploded, or the inputs have no common scale. One learning rate
        cannot fit both.
    When it is fine: a first layer on raw units; depthwise or pruned layers, in which most channels
        are all but constant.
    Example:
        x = torch.randn(64, 4) * torch.tensor([1.0, 1.0, 1.0, 1000.0])  # metres and millimetres
        model = nn.BatchNorm1d(4)
        model(x)
    Use instead:
        model = nn.BatchNorm1d(4)
        model(x / x.std(dim=0))
    """

    LIMIT = 1e4
    remedy = "Normalize the inputs, lower the learning rate or clip gradients."
    reference = "https://discuss.pytorch.org/t/batch-norm-instability/32159"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        var = layer.running_var
        if var is None or len(var) < 4 or not np.isfinite(var).all():
            return
        largest, median = float(var.max()), float(np.median(var))
        # With the median below eps most channels are constant: that is another fault.
        if median > (layer.eps or 1e-5) and largest > self.LIMIT * median and largest > 1:
            message = "One channel varies far more than the others."
            evidence = {"limit": self.LIMIT, "largest": largest, "median": median}
            yield self.finding(layer.name, message, {"ratio": largest / median, **evidence})


class OffsetDwarfsSpread(Rule, code="NS108", severity="warning", kinds=BATCH_KINDS):
    """The mean of a channel's input is so large that rounding spoils the normalized value.

    Statistics are summed in fp32: a variance computed as E[x^2] - E[x]^2, as some kernels do, is
    off by 2^-24 mean^2 / (var + eps). An input in 16 bits was rounded before: in bf16 its
    normalized value is off by 2^-8 |mean| / std.

    Why is this bad: the difference of two large numbers is noise. A constant input comes out as
        anything, and eval and train mode differ.
    When it is fine: channels whose weight is zero. They are not reported.
    Example:
        x = 10_000 + torch.randn(64, 2)
        model = nn.BatchNorm1d(2)
        for step in range(100):
            model(x)
    Use instead:
        model = nn.BatchNorm1d(2)
        for step in range(100):
            model(x - 10_000)
    """

    LIMIT = 0.05
    remedy = "Center the inputs, remove what adds the offset, or normalize in higher precision."
    reference = "https://github.com/pytorch/pytorch/issues/5410"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        yield from self._judge(layer, "running", layer.running_mean, layer.running_var)
        if (measured := layer.measured) is not None:
            yield from self._judge(layer, "measured", measured.eval_mean, measured.eval_var)

    def _judge(
        self, layer: Layer, which: str, mean: np.ndarray | None, var: np.ndarray | None
    ) -> Results:
        if mean is None or var is None:
            return
        safe = np.maximum(var, 0) + (layer.eps or 1e-5)
        error = ROUNDING["float32"] * mean**2 / safe
        dtype = layer.place.input_dtype if layer.place is not None else ""
        if dtype in ("float16", "bfloat16"):
            error = np.maximum(error, ROUNDING[dtype] * np.abs(mean) / np.sqrt(safe))
        kept = np.ones(len(mean), bool) if layer.weight is None else np.abs(layer.weight) > 1e-3
        lost = (error > self.LIMIT) & kept
        if channels := count(lost):
            message = f"The {which} mean is so large that rounding spoils the normalized value."
            worst = float(np.nanmax(error[lost]))
            evidence = {"channels": channels, "of": len(mean), "rounding_error": worst}
            yield self.finding(layer.name, message, {**evidence, "limit": self.LIMIT}, cause=which)


class LowPrecisionStatistics(Rule, code="NS109", severity="warning", kinds=BATCH_KINDS):
    """Running statistics are kept in fp16 or bf16.

    Why is this bad: an update smaller than half a unit in the last place is lost. With momentum
        0.01, statistics in bf16 stand still.
    When it is fine: inference with a model cast to 16 bits (an info).
    Example:
        model = trained().train().bfloat16()
    Use instead:
        model = trained().train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(images)
    """

    remedy = "Keep normalization layers in fp32, as autocast does."
    reference = "https://github.com/apple/coreai-torch/pull/54"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        dtype = layer.statistics_dtype
        if dtype not in ("float16", "bfloat16"):
            return
        if layer.training and layer.live:
            message = f"The running statistics are updated in {dtype}."
            evidence = {"resolution": ROUNDING[dtype], "momentum": layer.momentum}
            yield self.finding(layer.name, message, {"dtype": dtype, **evidence}, cause=dtype)
        else:
            message = f"The running statistics are kept in {dtype}."
            yield self.finding(layer.name, message, {"dtype": dtype}, "info", cause=dtype)


class OutOfHalfRange(Rule, code="NS110", severity="error", kinds=EVERY_KIND):
    """eps rounds to zero in fp16 where the layer works in it, or a running variance, weight or bias
    is above the largest number of fp16, or the layer's input comes near it.

    Of the input: |x| above an eighth of that number (an info; with export=True a warning), or its
    square, which a layer in fp16 computes, above it (|x| above 256; told where the model is
    exported, or the layer's forward is its own and in fp16).

    Why is this bad: eps 0 turns a constant input into NaN. An infinite variance turns the channel
        into its bias, silently.
    When it is fine: a model that will never be cast to fp16 (an info).
    Example:
        model = nn.LayerNorm(8, eps=1e-12).half()
    Use instead:
        model = nn.LayerNorm(8, eps=1e-5).half()
    """

    LARGEST = 65504.0
    NEAR = 0.125
    SMALLEST = 2.0**-25  # half the smallest subnormal: this and what is below rounds to zero
    remedy = "Use eps >= 1e-5 and keep the layer in fp32."
    reference = "https://github.com/pytorch/pytorch/issues/41527"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        dtype = layer.place.input_dtype if layer.place is not None else ""
        half = "float16" in (layer.parameter_dtype, layer.statistics_dtype, dtype)
        if half and layer.eps is not None and 0 < layer.eps <= self.SMALLEST:
            message = "eps rounds to zero in fp16."
            evidence = {"eps": layer.eps, "limit": self.SMALLEST}
            yield self.finding(layer.name, message, evidence, cause="eps")
        yield from self._check_input(layer, exam, dtype)
        for name in ("running_var", "running_mean", "weight", "bias"):
            values = getattr(layer, name)
            if values is None:
                continue
            large = np.isfinite(values) & (np.abs(values) > self.LARGEST)
            if channels := count(large):
                severity = "error" if half else "warning" if exam.export else "info"
                message = f"{name} is too large for fp16."
                largest = float(np.abs(values[large]).max())
                evidence = {"channels": channels, "largest": largest, "limit": self.LARGEST}
                yield self.finding(layer.name, message, evidence, severity, cause=name)

    def _check_input(self, layer: Layer, exam: Examination, dtype: str) -> Results:
        measured = layer.measured
        largest = (measured.input_largest or 0.0) if measured is not None else 0.0
        squares = exam.export or (
            dtype == "float16" and measured and "variance" in measured.in_half
        )
        if largest > self.LARGEST * self.NEAR:
            severity = "warning" if exam.export or dtype == "float16" else "info"
            message = "The input comes near the largest number of fp16."
            evidence = {"largest": largest, "limit": self.LARGEST * self.NEAR}
            yield self.finding(layer.name, message, evidence, severity, cause="input")
        elif squares and largest**2 > self.LARGEST:
            message = "The square of the input leaves fp16's range."
            evidence = {"largest": largest, "limit": self.LARGEST**0.5}
            yield self.finding(layer.name, message, evidence, "warning", cause="square")
