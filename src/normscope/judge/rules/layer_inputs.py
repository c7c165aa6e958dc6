"""NS5xx, second part: rules about what reaches single layers on a few batches."""

from __future__ import annotations

import numpy as np

from normscope.judge.rule import (
    BATCHES,
    EVERY_KIND,
    MeasuredRule,
    PlaceRule,
    Results,
    Rule,
    count,
    high,
)
from normscope.records.examination import Examination, Layer, Measured, Place


class BatchTooSmall(MeasuredRule, code="NS506", severity="error"):
    """A batch gives a channel too few values for a mean and a variance.

    One value: torch raises. Two: the output is +1 and -1 whatever they were. Fewer than 16 values,
    or fewer than 8 samples (values inside an image are not independent): statistics are noise. One
    sample, averaged over its positions right behind: zero by construction.

    Why is this bad: noisy statistics cost accuracy (10.6 points of error on ImageNet at batch 2),
        and two values lose all but a sign.
    When it is fine: in eval mode, and where the batches given are smaller than those of training
        (an info).
    Example:
        model = trained().train()
        batches = images[:32].split(2)
    Use instead:
        batches = images[:512].split(64)
    """

    VALUES, SAMPLES = 16, 8
    remedy = "Use a larger batch, SyncBatchNorm, group normalization, or drop_last=True."
    mend = "normscope.mend.convert"
    reference = "https://arxiv.org/abs/1803.08494"

    def check_measured(self, layer: Layer, measured: Measured, exam: Examination) -> Results:
        if not layer.live or layer.sync:
            return
        values, samples = measured.values, measured.samples
        pooled = layer.place is not None and layer.place.pooled_next and samples == 1
        if values == 1:
            cause, message = "one", "A batch gives each channel one value: train mode raises."
        elif values == 2:
            cause, message = "two", "A batch gives each channel two values: all become +1 or -1."
        elif pooled:
            cause = "pooled"
            message = "One sample is normalized, then averaged over its positions: always zero."
        elif values < self.VALUES or samples < self.SAMPLES:
            cause, message = "few", "A batch gives each channel too few samples for statistics."
        else:
            return
        severe = values <= 2 or pooled
        uses_batch = layer.training or not layer.tracked
        severity = ("error" if severe else "warning") if uses_batch else "info"
        limit = f"{self.VALUES} values, {self.SAMPLES} samples"
        evidence = {"values": values, "samples": samples, "limit": limit}
        yield self.finding(layer.name, message, evidence, severity, cause=cause)


class ConstantChannels(MeasuredRule, code="NS507", severity="warning"):
    """Channels of the layer's input do not vary in any of the batches.

    Constant is a variance below 1e-10 of the squared mean. Channels whose weight is near zero do
    not count.

    Why is this bad: the channel carries nothing, its output is the bias. If there are many, a
        network has died or an input is empty.
    When it is fine: a few channels; an untrained network; pruned channels and masked inputs.
    Example:
        model = nn.BatchNorm2d(2)
        batches = [torch.cat([x, torch.zeros_like(x)], dim=1) for x in images[:256].split(64)]
    Use instead:
        model = nn.BatchNorm2d(1)
        batches = images[:256].split(64)
    """

    CONSTANT, SHARE = 1e-10, 0.25
    remedy = "Look at what feeds the layer: dead ReLUs, a zero branch, an empty input channel."
    reference = "https://github.com/pytorch/pytorch/issues/5410"

    def check_measured(self, layer: Layer, measured: Measured, exam: Examination) -> Results:
        if measured.values * measured.batches < 8:
            return
        # With batch statistics in use before it, a layer's input has its full scale also in an
        # untrained network.
        mean, var = measured.mean, measured.var
        if mean is None or measured.values <= 1:
            mean, var = measured.eval_mean, measured.eval_var
        if mean is None or var is None:
            return
        constant = var <= self.CONSTANT * np.maximum(mean**2, (layer.eps or 1e-5) * 1e-3)
        if layer.weight is not None:
            constant &= np.abs(layer.weight) > 1e-3
        if channels := count(constant):
            many = channels / len(constant) >= self.SHARE
            severity = "warning" if many and not exam.untrained else "info"
            message = "Channels of the input are constant in every batch."
            evidence = {"channels": channels, "of": len(constant), "limit": self.SHARE}
            yield self.finding(layer.name, message, evidence, severity)


class VanishedOutput(MeasuredRule, code="NS508", severity="error", kinds=EVERY_KIND):
    """The normalized value is all but constant over samples, channels and positions, while the
    input varies ten times as much or more.

    Measured: the standard deviation of the normalized value in eval mode, near 1 in a healthy
    layer, and near that of the input in one with the running statistics of a new layer.

    Why is this bad: nothing of the input passes the layer, and the network cannot learn through it.
    When it is fine: never. A weight of zero is reported by another rule.
    Example:
        model = nn.BatchNorm2d(1).eval()
        model.running_var.fill_(1e10)  # one batch in other units
    Use instead:
        mend.recalibrate(model, batches)
    """

    LIMIT, SHARE = 1e-3, 0.1
    remedy = "Look at the size of the normalized sets, at eps, and at the running variance."
    reference = "https://github.com/pytorch/pytorch/issues/19250"

    def check_measured(self, layer: Layer, measured: Measured, exam: Examination) -> Results:
        output, input_ = measured.output_spread, measured.input_spread
        own = layer.foreign and layer.kind in ("layer", "rms")
        if output is None or not input_ or (own and not _has_gain(layer)):
            return
        if output < self.LIMIT < input_ and output < self.SHARE * input_:
            message = "The input varies, the normalized value does not."
            evidence = {"output_std": output, "input_std": input_, "limit": self.LIMIT}
            yield self.finding(layer.name, message, evidence)


def _has_gain(layer: Layer) -> bool:
    """Tell whether the weights of a library's own layer, whatever it adds to them, are not zero."""
    return layer.weight is not None and bool(np.median(np.abs(layer.weight)) > 0.1)


class NonFiniteForward(Rule, code="NS509", severity="error", kinds=()):
    """On finite inputs a normalization layer receives or makes NaN or infinity. The first one is
    named.

    Why is this bad: in train mode one such batch poisons the running statistics for good.
    When it is fine: never.
    Example:
        class Log(nn.Module):
            def forward(self, x):
                return torch.log(x)  # NaN below zero

        model = nn.Sequential(Log(), nn.BatchNorm2d(1))
    Use instead:
        class Log(nn.Module):
            def forward(self, x):
                return torch.log(x.clamp(min=1e-6))

        model = nn.Sequential(Log(), nn.BatchNorm2d(1))
    """

    remedy = "Clamp or compute in fp32 what comes before the first layer that is named."
    reference = "https://github.com/pytorch/pytorch/issues/90342"
    needs = BATCHES

    def check(self, exam: Examination) -> Results:
        for layer in exam.layers:
            received = layer.measured.input_non_finite if layer.measured is not None else 0
            made = layer.measured.output_non_finite if layer.measured is not None else 0
            if received:
                message = "First layer that receives NaN or infinity."
                yield self.finding(layer.name, message, {"values": received}, cause="input")
            elif made:
                message = "First layer that turns finite input into NaN or infinity."
                yield self.finding(layer.name, message, {"values": made}, cause="output")
            if received or made:
                return


class PaddingInStatistics(MeasuredRule, code="NS510", severity="warning", kinds=EVERY_KIND):
    """Padding enters the statistics.

    Of batch and instance normalization: more than 5% of the positions are padding, and they change
    the variance by more than 10%. Padding is what the batch's mask says, or the zeros at the end of
    sequences [N, C, L] or [N, L, C] of several lengths. Compared are variances over all positions
    and over the real ones, median over the channels.

    Of every kind, in eval mode: other content under the batch's mask changes the layer's output by
    more than 2% at positions where its own input does not change.

    Why is this bad: statistics depend on how much padding a batch has, so the same sequence is
        normalized differently.
    When it is fine: zeros that are data.
    Example:
        sequences = [3 + torch.randn(length, 8) for length in range(5, 53, 3)]
        padded = nn.utils.rnn.pad_sequence(sequences, batch_first=True)  # [16, 50, 8]
        batches = [padded.transpose(1, 2)] * 4
        model = nn.BatchNorm1d(8)
    Use instead:
        batches = [padded] * 4
        model = nn.LayerNorm(8)  # each position by itself
    """

    SHARE, EFFECT, SEEN = 0.05, 0.1, 0.02
    remedy = "Use masked statistics, bucket by length, or a normalization per position (LayerNorm)."
    mend = "normscope.mend.convert"
    reference = "https://github.com/SeanNaren/deepspeech.pytorch/issues/312"

    def check_measured(self, layer: Layer, measured: Measured, exam: Examination) -> Results:
        padding, effect = measured.padding, measured.padding_effect
        counted = padding is not None and padding > self.SHARE
        if counted and effect is not None and effect > self.EFFECT:
            message = "Padding is counted in the statistics and changes them."
            evidence = {
                "padding_share": padding,
                "log_variance_change": effect,
                "limit": self.EFFECT,
            }
            yield self.finding(layer.name, message, evidence, cause="statistics")
        elif (measured.padding_seen or 0.0) > self.SEEN:
            message = "What stands in the padding changes the layer's output at real positions."
            evidence = {"relative_change": measured.padding_seen, "limit": self.SEEN}
            yield self.finding(layer.name, message, evidence, cause="content")


class SharedLayer(MeasuredRule, code="NS511", severity="warning"):
    """One batch normalization runs several times in a forward, on inputs with different statistics.

    Compared between calls: means in standard deviations (limit 1) and log variances (limit 0.7),
    75% quantile over the channels.

    Why is this bad: in training each call is normalized by itself. In eval mode one pair of
        statistics must fit them all.
    When it is fine: uses with similar statistics, as in pyramid heads and siamese networks. They
        are not reported.
    Example:
        class TwoBranches(nn.Sequential):
            def forward(self, x):
                return self[0](x + 2) + self[1](x - 2)

        norm = nn.BatchNorm2d(1)
        model = TwoBranches(norm, norm)
    Use instead:
        model = TwoBranches(nn.BatchNorm2d(1), nn.BatchNorm2d(1))
    """

    Z_LIMIT, LOG_LIMIT = 1.0, 0.7
    remedy = "Give each use its own layer (weight and bias may be shared), or join the inputs."
    reference = "https://github.com/keras-team/keras/issues/8794"

    def check_measured(self, layer: Layer, measured: Measured, exam: Examination) -> Results:
        mean, var = measured.call_mean, measured.call_var
        if mean is None or var is None or not layer.live:
            return
        var = np.maximum(var, layer.eps or 1e-5)
        z = high(np.ptp(mean, axis=0) / np.sqrt(var.mean(axis=0)), 0.75)
        log = high(np.ptp(np.log(var), axis=0), 0.75)
        if z > self.Z_LIMIT or log > self.LOG_LIMIT:
            message = "The layer runs on several inputs whose statistics differ."
            evidence = {
                "calls": len(mean),
                "means_apart_in_sd": z,
                "limit_in_sd": self.Z_LIMIT,
                "log_variances_apart": log,
                "log_variance_limit": self.LOG_LIMIT,
            }
            yield self.finding(layer.name, message, evidence)


class WrongAxis(PlaceRule, code="NS512", severity="warning", kinds=EVERY_KIND):
    """The layer takes time, or width, for the feature axis.

    A batch, instance or group normalization on [N, L, C] with L = C channels: what feeds it (a
    linear layer, an embedding, a recurrent layer) puts features last, or the spread is flat along
    axis 1 (ratio below 2) and varies along the last (above 5). An instance normalization whose
    number of channels is that of the last axis, and not of axis 1. A batch or instance
    normalization behind a view or reshape that mixes features and positions where axes should have
    been transposed. A LayerNorm over the last axis alone of a convolution's [N, C, H, W]: it
    normalizes rows of pixels.

    Why is this bad: shapes fit and nothing raises, but every time step gets its own gain while
        features are mixed.
    When it is fine: features and positions of one size whose statistics happen to look that way.
    Example:
        model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16))
        batches = [torch.randn(8, 16, 6) for k in range(3)]  # [N, L, C], with L = 16
    Use instead:
        model = nn.Sequential(nn.Linear(6, 16), nn.Flatten(0, 1), nn.BatchNorm1d(16))  # [N L, C]
    """

    FLAT, VARIED = 2.0, 5.0
    remedy = "Transpose to [N, C, L] around the layer; before a LayerNorm move channels last."
    reference = (
        "https://github.com/xieyulai/"
        "LSTM-for-Human-Activity-Recognition-using-2D-Pose_Pytorch/issues/2"
    )

    def check_place(self, layer: Layer, place: Place, exam: Examination) -> Results:
        if layer.kind in ("layer", "rms"):
            yield from self._check_layer_norm(layer, place)
            return
        shape, fed_by = place.input_shape, place.fed_by
        square = len(shape) > 2 and shape[1] == shape[-1]
        if place.features_scattered and not place.features_last:
            message = "A reshape has mixed features and positions: axis 1 only has the right size."
            evidence = {"shape": str(shape), "fed_by": fed_by}
            yield self.finding(layer.name, message, evidence, cause="reshape")
        elif (square and place.features_last) or _has_features_last(layer, shape):
            message = "Its input has the features on the last axis, the layer expects axis 1."
            evidence = {"shape": str(shape), "fed_by": fed_by}
            yield self.finding(layer.name, message, evidence, cause="last axis")
        elif square and layer.measured is not None and len(layer.measured.axis_spread) == 2:
            first, last = layer.measured.axis_spread
            if first < self.FLAT and last > self.VARIED:
                message = "Its input varies along the last axis as features do, not along axis 1."
                evidence = {"along_axis_1": first, "along_last_axis": last, "limit": self.VARIED}
                yield self.finding(layer.name, message, evidence, cause="spread")

    def _check_layer_norm(self, layer: Layer, place: Place) -> Results:
        if layer.foreign or place.axes_moved:  # a foreign one may move axes inside
            return
        shape, fed_by = place.input_shape, place.fed_by
        if len(shape) == 4 and layer.normalized_dims == 1 and fed_by == "conv":
            message = "The layer normalizes rows of pixels."
            yield self.finding(layer.name, message, {"shape": str(shape), "axis": 3}, cause="rows")


class SeesLaterPositions(MeasuredRule, code="NS514", severity="warning", kinds=EVERY_KIND):
    """In a network that is causal up to this layer, its output changes with later positions.

    The content of a window of positions is changed. Up to the layer nothing before the window
    changes and something behind it does, so the network looks back in time alone; but the layer's
    output changes by more than 2% before the window.

    Why is this bad: statistics over the time axis hold the future. Streaming, or generating step by
        step, gives other results than training did.
    When it is fine: a network that always gets the whole sequence at once.
    Example:
        class Causal(nn.Conv1d):
            def forward(self, x):
                return super().forward(F.pad(x, (2, 0)))

        model = nn.Sequential(Causal(1, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), Causal(8, 1, 3))
        batches = [torch.randn(8, 1, 64)]
    Use instead:
        class PerStep(nn.LayerNorm):
            def forward(self, x):
                return super().forward(x.transpose(1, 2)).transpose(1, 2)

        model = nn.Sequential(Causal(1, 8, 3), PerStep(8), nn.ReLU(), Causal(8, 1, 3))
    """

    SEEN = 0.02
    remedy = "Normalize each position over its channels, or cumulatively over the past."
    reference = "https://github.com/Wan-Video/Wan2.1/issues/294"

    def check_measured(self, layer: Layer, measured: Measured, exam: Examination) -> Results:
        if (measured.later_seen or 0.0) > self.SEEN:
            message = "Its statistics run over time: outputs depend on later positions."
            evidence = {"relative_change": measured.later_seen, "limit": self.SEEN}
            yield self.finding(layer.name, message, evidence)


class ImpreciseForward(MeasuredRule, code="NS515", severity="error", kinds=EVERY_KIND):
    """A layer's own forward loses its result to rounding, or computes in 16 bits what belongs in
    32.

    Its first call is repeated in float64 on the same input. Reported are outputs further apart than
    5% in 16 bits or 0.1% in fp32 (an error: squares that overflow, variances in which an offset
    cancels, an eps that rounds to zero), a variance that is rounded to 16 bits, and 1 + weight
    rounded to 16 bits, where small weights are lost. PyTorch's own layers compute in fp32 inside
    and are left out.

    Why is this bad: in fp16 |x| above 256 has an infinite square, and x / inf is 0, without a NaN
        anywhere. In bf16 a variance has three digits.
    When it is fine: a model that was trained that way, and is run that way (a warning).
    Example:
        class RMS(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight, self.eps = nn.Parameter(torch.ones(32)), 1e-5

            def forward(self, x):
                return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight

        model = nn.Sequential(nn.Linear(32, 32), RMS()).half()
        batches = [1000 * torch.randn(64, 32).half()]
    Use instead:
        model = nn.Sequential(nn.Linear(32, 32), nn.RMSNorm(32)).half()
    """

    LIMIT, LIMIT_HALF = 1e-3, 0.05
    remedy = "Compute in fp32 inside: x.float() first, back to the input's type last."
    reference = "https://github.com/neuroneural/brainchop-cli/pull/56"

    def check_measured(self, layer: Layer, measured: Measured, exam: Examination) -> Results:
        dtype = layer.place.input_dtype if layer.place is not None else layer.parameter_dtype
        limit = self.LIMIT_HALF if dtype in ("float16", "bfloat16") else self.LIMIT
        error = measured.precision_error
        if error is not None and error > limit:
            message = f"Its own forward loses the result to rounding in {dtype}."
            evidence = {"relative_error": error, "limit": limit, "input": measured.input_largest}
            yield self.finding(layer.name, message, evidence, cause=dtype)
            return
        for what in measured.in_half:
            message = f"Its own forward rounds the {what} to {dtype}, which belongs in fp32."
            evidence = {"relative_error": error}
            yield self.finding(layer.name, message, evidence, "warning", cause=f"{what} {dtype}")


class WeightsMisapplied(MeasuredRule, code="NS516", severity="warning", kinds=("layer", "rms")):
    """What a library's own layer multiplies by and adds is not what its weight and bias say.

    Gain and offset of each channel follow from one call. Compared with the weight, the gain may
    have 1 added (or be a multiple of it): any other difference is reported, and so is a bias that
    is not added. Where 1 is added although the weights of all layers are around one, it is added
    twice; where it is not although they are all around zero, it was lost in a conversion. An eps
    that is added to the standard deviation in place of the variance is an info, or a warning where
    it is more than 1% of it.

    Why is this bad: weights were trained for another formula. The model runs, and is a little or
        much worse.
    When it is fine: a formula of its own, with which the weights were trained.
    Example:
        class RMS(nn.RMSNorm):
            def forward(self, x):
                return F.rms_norm(x, self.normalized_shape, None, self.eps) * (1 + self.weight)

        model = nn.Sequential(RMS(32, eps=1e-6), nn.Linear(32, 32), RMS(32, eps=1e-6))
        for norm in (model[0], model[2]):
            nn.init.normal_(norm.weight, 1.0, 0.02)  # of a checkpoint that multiplies by weight
        batches = [torch.randn(64, 32)]
    Use instead:
        for norm in (model[0], model[2]):
            norm.weight.data -= 1  # its distance from one
    """

    EXACT, OUTSIDE, NOTABLE = 0.05, 0.85, 0.01
    NEAR_ONE, NEAR_ZERO = (0.7, 1.4), 0.3
    remedy = (
        "Compare the formula with that of the weights' library: 1 + weight, bias, place of eps."
    )
    reference = "https://github.com/huggingface/transformers/pull/29402"

    def check_measured(self, layer: Layer, measured: Measured, exam: Examination) -> Results:
        if not layer.foreign:
            return
        yield from self._check_gain(layer, measured, exam)
        bias, offset = layer.bias, measured.offset
        if bias is not None and offset is not None and bias.shape == offset.shape:
            size = float(np.abs(bias).max())
            if size > 1e-2 and float(np.abs(offset).max()) < self.EXACT * size:
                message = "The layer holds a bias, and does not add it."
                yield self.finding(layer.name, message, {"largest_bias": size}, cause="bias")
        response = measured.eps_response
        if response is not None and response > self.OUTSIDE and layer.eps:
            squares = measured.set_mean_square if layer.kind == "rms" else measured.set_var
            std = squares[1] ** 0.5 if len(squares) == 3 else 1.0
            share = layer.eps / max(std, 1e-30)
            severity = "warning" if share > self.NOTABLE else "info"
            message = "eps is not added to the variance, but behind its root or not at all."
            evidence = {"eps": layer.eps, "eps_over_std": share, "limit": self.NOTABLE}
            yield self.finding(layer.name, message, evidence, severity, cause=f"eps {severity}")

    def _check_gain(self, layer: Layer, measured: Measured, exam: Examination) -> Results:
        gain, weight = measured.gain, layer.weight
        if gain is None or weight is None or gain.shape != weight.shape or len(gain) < 4:
            return
        added, size = float(np.median(gain - weight)), max(float(np.abs(gain).max()), 1e-3)
        alike = [each.weight for each in exam.layers if each.type == layer.type]
        medians = [float(np.median(each)) for each in alike if each is not None and len(each) > 3]
        low, high_ = min(medians), max(medians)
        evidence = {"added_to_weight": added, "median_weight": float(np.median(weight))}
        exact = float(np.abs(gain - weight - added).max()) < self.EXACT * size
        trained = len(medians) > 1 and len(np.unique(weight)) > 3
        multiple = float(np.median(gain)) / (float(np.median(weight)) or np.inf)
        scaled = float(np.abs(gain - multiple * weight).max()) < self.EXACT * size
        if exact and abs(added) < self.EXACT and trained and max(abs(low), high_) < self.NEAR_ZERO:
            message = "The layer multiplies by its weight, which looks like a distance from one."
            yield self.finding(layer.name, message, evidence, cause="lost")
        elif exact and abs(added - 1) < self.EXACT and low > self.NEAR_ONE[0]:
            if high_ < self.NEAR_ONE[1]:
                message = (
                    "The layer multiplies by 1 + weight, but its weight is around one already."
                )
                yield self.finding(layer.name, message, evidence, cause="doubled")
        elif exact and abs(added - 2) < self.EXACT:
            message = "The layer multiplies by 2 + weight: one is added twice."
            yield self.finding(layer.name, message, evidence, cause="twice")
        elif min(abs(added), abs(added - 1)) > self.EXACT and not scaled:
            message = "The layer multiplies by something else than its weight."
            yield self.finding(layer.name, message, evidence, cause="other")


def _has_features_last(layer: Layer, shape: tuple[int, ...]) -> bool:
    """Tell whether an instance normalization without weights, which takes any size, has its number
    of channels on the last axis alone.
    """
    own = layer.kind == "instance" and not layer.foreign and layer.features > 1
    return own and len(shape) > 2 and shape[1] != layer.features == shape[-1]
