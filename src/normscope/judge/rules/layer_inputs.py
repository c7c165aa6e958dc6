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
    query_and_key,
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


class UnlikeQueryAndKey(Rule, code="NS517", severity="warning", kinds=("layer", "rms")):
    """Of the query and the key of one attention, one is normalized in each head, the other over all
    heads together.

    The two layers are known by their names (q_norm and k_norm). Their widths differ, and so does
    the number of axes, or of samples, of what they get; or both get heads, of different widths.

    Why is this bad: both are legitimate (Qwen3 has the one, OLMo 2 the other), but not in one
        attention: scores mix two scales, and one of the two gains is not the checkpoint's.
    When it is fine: a model that was trained so.
    Example:
        class Attention(nn.Module):
            def __init__(self):
                super().__init__()
                self.q_norm, self.k_norm = nn.RMSNorm(32), nn.RMSNorm(8)

            def forward(self, x):
                q, k = self.q_norm(x).unflatten(-1, (4, 8)), self.k_norm(x.unflatten(-1, (4, 8)))
                return F.scaled_dot_product_attention(q, k, k)

        model = Attention()
        batches = [torch.randn(4, 12, 32)]
    Use instead:
        class PerHead(Attention):
            def forward(self, x):
                x = x.unflatten(-1, (4, 8))
                return F.scaled_dot_product_attention(self.q_norm(x), self.k_norm(x), x)

        model = PerHead()
        model.q_norm = nn.RMSNorm(8)
    """

    remedy = "Normalize both before, or both behind, the split into heads, as the weights' model."
    reference = "https://arxiv.org/abs/2302.05442"
    needs = BATCHES

    def check(self, exam: Examination) -> Results:
        pairs: dict[str, list[Layer]] = {}
        for layer in exam.of_kind(*self.kinds):
            if layer.place is not None and (pair := query_and_key(layer.name)):
                pairs.setdefault(pair, []).append(layer)
        for layers in pairs.values():
            shapes = [layer.place.input_shape for layer in layers if layer.place is not None]
            if len(layers) == 2 and _are_unlike(layers[0].features, layers[1].features, *shapes):
                message = "One of query and key is normalized in each head, the other over all."
                evidence = {layer.name.rpartition(".")[2]: layer.features for layer in layers}
                yield self.finding(layers[0].name, message, evidence)


def _are_unlike(width: int, other: int, shape: tuple[int, ...], others: tuple[int, ...]) -> bool:
    """Tell whether one of two inputs is split into heads, or both are, of different widths."""
    apart = len(shape) != len(others) or len(shape) > 3 or shape[:1] != others[:1]
    return 0 not in (width, other) and width != other and apart


def _has_features_last(layer: Layer, shape: tuple[int, ...]) -> bool:
    """Tell whether an instance normalization without weights, which takes any size, has its number
    of channels on the last axis alone.
    """
    own = layer.kind == "instance" and not layer.foreign and layer.features > 1
    return own and len(shape) > 2 and shape[1] != layer.features == shape[-1]
