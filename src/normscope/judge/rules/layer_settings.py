"""NS2xx: rules about the settings of a layer: momentum, eps, running statistics, groups."""

from __future__ import annotations

import numpy as np

from normscope.judge.rule import EVERY_KIND, SAMPLE_KINDS, Results, Rule, deliberately_frozen
from normscope.records.examination import BATCH_KINDS, Examination, Layer


class InvertedMomentum(Rule, code="NS201", severity="warning", kinds=BATCH_KINDS):
    """momentum is above 0.5: the running statistics are little more than the last batch's.

    PyTorch's momentum is the weight of the new batch; TensorFlow's, Keras's and JAX's is that of
    the old average.

    Why is this bad: evaluation depends on which batch came last. With small batches accuracy jumps
        from epoch to epoch.
    When it is fine: meta-learning that wants the statistics of the last batch (momentum=1); frozen
        layers, which do not use it.
    Example:
        model = nn.BatchNorm2d(8, momentum=0.99)  # as in TensorFlow
    Use instead:
        model = nn.BatchNorm2d(8, momentum=0.01)
    """

    LIMIT = 0.5
    DECAYS = (0.9, 0.95, 0.99, 0.995, 0.997, 0.999, 0.9997, 0.9999)  # usual in TensorFlow
    remedy = "Use 1 - momentum: TensorFlow's 0.99 is PyTorch's 0.01."
    reference = "https://github.com/pytorch/vision/pull/8312"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        m = layer.momentum
        if m is None or not self.LIMIT < m <= 1 or not layer.tracked:
            return
        severity = "info" if deliberately_frozen(layer, exam) else "warning"
        if any(abs(m - decay) < 1e-9 for decay in self.DECAYS):
            message = (
                f"momentum={m:g} follows TensorFlow. In PyTorch it is the weight of the new batch: "
                f"use {1 - m:.4g}."
            )
        else:
            message = f"momentum={m:g} keeps little more than the statistics of the last batch."
        remedy = f"Use momentum={1 - m:.4g}." if m < 1 else ""
        evidence = {"momentum": m, "limit": self.LIMIT}
        yield self.finding(layer.name, message, evidence, severity, cause=f"{m:g}", remedy=remedy)


class MomentumOutOfRange(Rule, code="NS202", severity="error", kinds=BATCH_KINDS):
    """momentum is below 0 or above 1.

    Why is this bad: torch accepts it, and the running variance oscillates, grows or becomes
        negative.
    When it is fine: never; in a frozen layer it does no harm yet.
    Example:
        model = nn.BatchNorm2d(8, momentum=-0.1)
    Use instead:
        model = nn.BatchNorm2d(8, momentum=0.1)
    """

    remedy = "Use a momentum between 0 and 1; 0.1 is PyTorch's default."
    reference = "https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        m = layer.momentum
        if m is not None and not 0 <= m <= 1:
            severity = "warning" if deliberately_frozen(layer, exam) else "error"
            message = "momentum is outside [0, 1]."
            yield self.finding(layer.name, message, {"momentum": m, "limit": "[0, 1]"}, severity)


class MomentumZero(Rule, code="NS203", severity="warning", kinds=BATCH_KINDS):
    """momentum is 0 in a layer in train mode.

    It normalizes with each batch in training, and in eval mode with statistics from before.

    Why is this bad: it is taken for a freeze, but training uses batch statistics and evaluation
        the old running ones.
    When it is fine: a layer in eval mode, which does not use momentum. It is not reported.
    Example:
        model = trained().train()
        model[1].momentum = 0.0
    Use instead:
        model = trained().train()
        mend.freeze(model[1])
    """

    remedy = "To freeze, put the layer in eval mode for good; to train, use a momentum above 0."
    mend = "normscope.mend.freeze"
    reference = (
        "https://discuss.pytorch.org/t/frozen-batch-normalization-still-shows-different-performance"
        "-in-model-train-from-model-eval/25176"
    )

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        if layer.momentum == 0 and layer.training and layer.tracked:
            message = "The layer trains with batch statistics and never updates the running ones."
            yield self.finding(layer.name, message, {"momentum": 0, "training": True})


class CumulativeAverage(Rule, code="NS204", severity="info", kinds=BATCH_KINDS):
    """momentum is None in a layer in train mode: a cumulative average over all batches since the
    last reset.

    Why is this bad: in a long training the average is that of weights long gone. None does not
        mean "no update".
    When it is fine: while recalibrating.
    Example:
        model = nn.BatchNorm2d(8, momentum=None)
    Use instead:
        model = nn.BatchNorm2d(8, momentum=0.1)
    """

    remedy = "Use a number for training, and None only to recalibrate after reset_running_stats()."
    mend = "normscope.mend.recalibrate"
    reference = "https://github.com/automan000/Camera-based-Person-ReID/issues/3"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        if layer.cumulative and layer.tracked and layer.training:
            message = "The running statistics are an average over the whole training."
            yield self.finding(layer.name, message, {"momentum": "None", "updates": layer.updates})


class EpsNotPositive(Rule, code="NS205", severity="error", kinds=EVERY_KIND):
    """eps is zero or negative.

    Why is this bad: a channel or sample without variance is divided by zero, and one NaN spreads
        over the batch.
    When it is fine: zero in a frozen layer with no small variance (a warning).
    Example:
        model = nn.LayerNorm(8, eps=0.0)
    Use instead:
        model = nn.LayerNorm(8, eps=1e-5)
    """

    SAFE_VARIANCE = 1e-6
    remedy = "Use eps=1e-5, torch's default, unless the weights were trained with another."
    reference = "https://github.com/facebookresearch/detectron2/pull/3160"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        if layer.eps is None or layer.eps > 0:
            return
        var, frozen = layer.running_var, layer.training is False
        safe = var is not None and frozen and bool(np.all(var > self.SAFE_VARIANCE))
        severity = "warning" if layer.eps == 0 and safe else "error"
        evidence = {"eps": layer.eps, "limit": 0}
        yield self.finding(layer.name, "eps is not above zero.", evidence, severity)


class EpsTooLarge(Rule, code="NS206", severity="error", kinds=EVERY_KIND):
    """eps is 0.01 or more. From 0.1 on another argument must have been meant.

    Implementations use 1e-12 to 1e-3.

    Why is this bad: BatchNorm2d(128, 0.8) sets eps, not momentum. A channel with variance 0.1 comes
        out with a third of the standard deviation that it should have.
    When it is fine: weights that were trained with that eps. Changing it now changes the network.
    Example:
        model = nn.BatchNorm2d(128, 0.8)
    Use instead:
        model = nn.BatchNorm2d(128, momentum=0.2)
    """

    WARNING, ERROR = 1e-2, 0.1
    remedy = "Name the argument: BatchNorm2d(128, momentum=0.2). Leave eps at 1e-5."
    reference = "https://github.com/eriklindernoren/PyTorch-GAN/issues/116"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        eps = layer.eps
        if eps is None or eps < self.WARNING:
            return
        if eps >= self.ERROR:
            message = "eps is so large that another argument must have been meant."
            yield self.finding(layer.name, message, {"eps": eps, "limit": self.ERROR}, "error")
        else:
            message = "eps is far larger than is usual."
            yield self.finding(layer.name, message, {"eps": eps, "limit": self.WARNING}, "warning")


class EpsDominates(Rule, code="NS207", severity="warning", kinds=EVERY_KIND):
    """eps is not small against the median variance of what the layer normalizes.

    The normalized value has variance v / (v + eps): one half where they are equal.

    Why is this bad: the layer hardly normalizes. It scales by 1 / sqrt(eps), and its output shrinks
        with its input.
    When it is fine: weights that were trained that way; an untrained network with a small
        initialization (an info).
    Example:
        model = nn.BatchNorm1d(4)
        for step in range(200):
            model(1e-4 * torch.randn(64, 4))  # variance 1e-8, eps 1e-5
    Use instead:
        model = nn.BatchNorm1d(4, eps=1e-12)
        for step in range(200):
            model(1e-4 * torch.randn(64, 4))
    """

    WARNING, INFO = 1.0, 0.1
    remedy = "Before training, use a smaller eps; else find out why the input is so small."
    reference = "https://github.com/gzuidhof/nn-transfer/pull/3"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        eps, var = layer.eps, self._variance(layer)
        # From 0.01 on eps itself is the fault, and another rule reports it.
        if eps is None or not 0 < eps < 1e-2 or var is None or not var > 0:
            return
        ratio = eps / var
        if ratio > self.INFO:
            trained = layer.affine_trained or layer.tracked
            severity = "warning" if ratio > self.WARNING and trained else "info"
            message = "eps is not small against the variance that it is added to."
            evidence = {"eps_over_variance": ratio, "limit": self.INFO, "eps": eps, "variance": var}
            yield self.finding(layer.name, message, evidence, severity)

    def _variance(self, layer: Layer) -> float | None:
        """The median of the running variances, or of the variances of samples."""
        if layer.running_var is not None and layer.tracked:
            alive = layer.running_var[layer.running_var > 1e-12]
            return float(np.median(alive)) if len(alive) and np.isfinite(alive).all() else None
        measured = layer.measured
        if measured is None:
            return None
        quantiles = measured.set_mean_square if layer.kind == "rms" else measured.set_var
        return quantiles[1] if len(quantiles) == 3 else None


class EpsDiffers(Rule, code="NS208", severity="info", kinds=EVERY_KIND):
    """Layers of one class in one model have different eps. The minority is reported.

    Why is this bad: layers were ported, or added with another framework's default. Outputs drift
        away from the original's.
    When it is fine: a model put together from parts that were trained with different eps.
    Example:
        model = nn.Sequential(nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm(8, eps=1e-3))
    Use instead:
        model = nn.Sequential(nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm(8))
    """

    remedy = "Set eps explicitly, to the value that the weights were trained with."
    reference = "https://github.com/gzuidhof/nn-transfer/pull/3"

    def check(self, exam: Examination) -> Results:
        for type_ in dict.fromkeys(layer.type for layer in exam.layers):
            layers = [
                layer for layer in exam.layers if layer.type == type_ and layer.eps is not None
            ]
            values = [layer.eps for layer in layers]
            usual = max(dict.fromkeys(values), key=values.count, default=None)
            for layer in layers:
                if layer.eps != usual:
                    message = f"eps is not that of the model's other {type_} layers."
                    evidence = {"eps": layer.eps, "others": usual}
                    yield self.finding(layer.name, message, evidence, cause=type_)


class TrackedInstanceNorm(Rule, code="NS209", severity="warning", kinds=("instance",)):
    """InstanceNorm with track_running_stats=True: in eval mode it uses averages over images, not
    each image's own statistics.

    Why is this bad: train and eval mode compute different functions, and what differs is what
        instance normalization is for.
    When it is fine: rarely; a network that was meant to be evaluated with the averages.
    Example:
        model = nn.InstanceNorm2d(3, track_running_stats=True)
    Use instead:
        model = nn.InstanceNorm2d(3)
    """

    remedy = "Use track_running_stats=False, the default."
    reference = "https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix/issues/395"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        if layer.tracks:
            message = "In eval mode the layer normalizes with averages over images."
            yield self.finding(layer.name, message, {"track_running_stats": True})


class NoRunningStatistics(Rule, code="NS210", severity="warning"):
    """Batch normalization without running statistics: eval mode uses those of the batch, as train
    mode does.

    Why is this bad: a prediction depends on the samples beside it, a single row raises, and fusion
        or export fail.
    When it is fine: meta-learning, generative models and test-time adaptation that want it (an info
        in train mode).
    Example:
        model = nn.BatchNorm1d(8, track_running_stats=False)
    Use instead:
        model = nn.LayerNorm(8)
    """

    remedy = "Use track_running_stats=True and recalibrate, or a normalization of single samples."
    mend = "normscope.mend.convert"
    reference = "https://github.com/xu-ji/IIC/issues/49"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        if layer.tracked or exam.source == "state_dict" or not layer.live:
            return
        severity = "info" if layer.training and not exam.export else "warning"
        message = "Without running statistics, outputs depend on the batch also in eval mode."
        yield self.finding(layer.name, message, {"track_running_stats": layer.tracks}, severity)


class TrackingSwitchedOff(Rule, code="NS211", severity="warning", kinds=BATCH_KINDS):
    """track_running_stats and the buffers disagree: the flag was changed after the layer was made.

    Why is this bad: with the flag off and buffers there, updates stop, but eval mode still uses the
        old statistics.
    When it is fine: a deliberate freeze of the statistics; eval mode says so more clearly.
    Example:
        model = nn.BatchNorm2d(8)
        model.track_running_stats = False
    Use instead:
        model = nn.BatchNorm2d(8, track_running_stats=False)
    """

    remedy = "Make the layer anew with the flag that is meant, or set its buffers to None too."
    reference = "https://github.com/pytorch/pytorch/blob/main/torch/nn/modules/batchnorm.py"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        if layer.tracks is None or layer.tracks == layer.tracked:
            return
        message = "track_running_stats is on, but there are no running statistics."
        if layer.tracked:
            message = (
                "track_running_stats is off, but the layer has running statistics: eval mode uses "
                "them, training does not update them."
            )
        evidence = {"track_running_stats": layer.tracks, "buffers": layer.tracked}
        yield self.finding(layer.name, message, evidence, cause=str(layer.tracked))


class TooFewValues(Rule, code="NS212", severity="error", kinds=SAMPLE_KINDS):
    """Group, instance, layer or RMS normalization over a set of few values.

    Taking mean and variance out of n values removes 2 of their n degrees of freedom (RMS: 1). With
    one value nothing is left, and the output is the bias; with two, only the sign of their
    difference. Reported where more than an eighth is lost, as a warning from a quarter on.

    Why is this bad: the information is divided away, silently. The output is constant, or a sign.
    When it is fine: never with one value; sets of a few values where only their direction matters.
    Example:
        model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.GroupNorm(16, 16))  # one value a group
        batches = [torch.randn(8, 16, 4, 4)]
    Use instead:
        model = nn.Sequential(nn.GroupNorm(4, 16), nn.AdaptiveAvgPool2d(1))
    """

    LOST_WARNING, LOST_INFO = 0.25, 0.125
    remedy = "Use fewer groups, or normalize before the map becomes that small."
    reference = "https://github.com/pytorch/pytorch/issues/19250"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        values = layer.measured.values if layer.measured is not None else 0
        if not values and layer.kind in ("layer", "rms"):
            values = layer.features
        if values < 1 or (layer.kind == "instance" and layer.tracked):
            return
        lost = min((1 if layer.kind == "rms" else 2) / values, 1.0)
        evidence = {"values": values, "share_lost": lost, "limit": self.LOST_WARNING}
        if lost >= 1:
            message = "Each statistic comes from so few values that nothing of them is left."
            yield self.finding(layer.name, message, evidence, "error")
        elif lost > self.LOST_INFO:
            severity = "warning" if lost > self.LOST_WARNING else "info"
            message = "Each statistic comes from few values: part of their information is lost."
            yield self.finding(layer.name, message, evidence, severity)
