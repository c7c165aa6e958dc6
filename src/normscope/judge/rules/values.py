"""NS1xx: rules about the values that a layer holds."""

from __future__ import annotations

import numpy as np

from normscope.judge.rule import EVERY_KIND, Results, Rule, count
from normscope.records.examination import BATCH_KINDS, Examination, Layer


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
