"""NS1xx: rules about values that cannot be right, and about ranges that a type cannot hold."""

from __future__ import annotations

import numpy as np

from normscope.judge.rule import EVERY_KIND, Results, Rule, count
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
    mend = "normscope.mend.gains_to_float32"
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
